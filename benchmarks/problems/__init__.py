"""The problems: Jacobians of networks, matrices of known spectra, and what breaks programs."""
