"""`jvpsvd.svds` as a user calls it, and its iterative method where "auto" takes all products.

It warns when a triplet missed the tolerance or when the certificate is not sound; a certificate
that is not complete ("may have skipped a value") counts as a flag, too.
"""

from __future__ import annotations

from benchmarks.solvers.protocol import Answer, Solver, Target
from jvpsvd import svds


def solve(
    target: Target, k: int, tol: float, budget_seconds: float, method: str = "auto"
) -> Answer:
    result = svds(target.ours(), k, tol=tol, method=method, on_unconverged="ignore")
    assured = bool(result.converged.all()) and result.certificate.complete
    V = None if result.Vh is None else result.Vh.mT
    return Answer(result.s, result.U, V, assured, f"{result.method}; {result.certificate}")


def golub_kahan(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    return solve(target, k, tol, budget_seconds, "golub-kahan")


SOLVERS = (
    Solver("jvpsvd", solve, takes_batches=True),
    Solver("jvpsvd-golub-kahan", golub_kahan, takes_batches=True),
)
