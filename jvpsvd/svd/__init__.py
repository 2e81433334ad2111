"""Top-k singular triplets of linear operators, computed from matrix-vector products alone."""

from jvpsvd.machine import parse_memory
from jvpsvd.svd.certificate import Certificate
from jvpsvd.svd.estimate import Curve, Estimate
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.request import ProblemSize, Request, check_request
from jvpsvd.svd.result import SVDResult, load
from jvpsvd.svd.spectral_density import spectral_density
from jvpsvd.svd.spectrum import Spectrum
from jvpsvd.svd.svds import svds

__all__ = [
    "Certificate",
    "Curve",
    "Estimate",
    "Plan",
    "ProblemSize",
    "Progress",
    "Request",
    "SVDResult",
    "Spectrum",
    "check_request",
    "load",
    "parse_memory",
    "plan",
    "spectral_density",
    "svds",
]
