"""Top-k singular triplets of linear operators, computed from matrix-vector products alone."""

from jvpsvd.svd.certificate import Certificate
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.memory import parse_memory
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.request import ProblemSize, Request, check_request
from jvpsvd.svd.result import SVDResult, load
from jvpsvd.svd.svds import svds

__all__ = [
    "Certificate",
    "Estimate",
    "Plan",
    "ProblemSize",
    "Progress",
    "Request",
    "SVDResult",
    "check_request",
    "load",
    "parse_memory",
    "plan",
    "svds",
]
