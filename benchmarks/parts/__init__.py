"""What `python -m benchmarks NAME` runs; `table` lists it."""
