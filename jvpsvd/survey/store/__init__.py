"""The folder of a run: its files, the rows in them, and what is read back from them."""
