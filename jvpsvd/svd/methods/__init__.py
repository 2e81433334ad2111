"""The solvers: each finds k triplets of an operator from its products."""
