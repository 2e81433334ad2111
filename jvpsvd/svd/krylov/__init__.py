"""The parts of block Golub–Kahan: factorisation, restarts and convergence test."""
