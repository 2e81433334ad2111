"""The solvers. Each computes k triplets of an operator from its products."""
