"""Common questions, each answered by one call."""

from jvpsvd.studies.load import load
from jvpsvd.studies.network_spectra import DepthSpectra, NetworkSpectra
from jvpsvd.studies.ntk import TangentKernel, ntk
from jvpsvd.studies.singular_values import singular_values
from jvpsvd.studies.spectra import spectra

__all__ = [
    "DepthSpectra",
    "NetworkSpectra",
    "TangentKernel",
    "load",
    "ntk",
    "singular_values",
    "spectra",
]
