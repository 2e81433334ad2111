"""What block Golub–Kahan is made of: the factorisation, its restarts and its convergence test."""
