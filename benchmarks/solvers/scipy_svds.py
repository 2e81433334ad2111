"""`scipy.sparse.linalg.svds` by ARPACK, PROPACK and LOBPCG, on the hand-written operator and ours.

What `tol` means there, read from SciPy 1.17: every solver is given tol². ARPACK stops a Ritz pair
(θ, v) of A'A (or AA') at a residual of tol² · θ, which bounds |A'u − σv| by tol² · σ: √tol is what
asks for tol. PROPACK takes it for the relative error of a value, which is what a residual of
tol · σ amounts to. For LOBPCG it is an absolute residual of the eigenproblem: √tol · s₁ asks for
tol · s₁², with s₁ from eight steps of the power method. Where that turns out too loose for the
residual required, the runner asks for less.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.sparse.linalg as sla
import torch

from benchmarks.solvers.protocol import Answer, Peer, Target

_POWER_STEPS = 8
_LOBPCG_STEPS = 1000


def solve(
    target: Target, k: int, tol: float, budget_seconds: float, *, solver: str, ours: bool
) -> Answer:
    A = target.ours_as_scipy() if ours else target.by_hand()
    return answer_of_svds(A, k, tol, solver)


def answer_of_svds(A: sla.LinearOperator, k: int, tol: float, solver: str) -> Answer:
    """Return what SciPy finds; its warnings are the runner's to collect."""
    options: dict[str, object] = {"rng": np.random.default_rng(0)}
    if solver == "arpack":
        tol = math.sqrt(tol)
    elif solver == "lobpcg":
        largest = largest_value(A)
        tol = math.sqrt(tol) * largest if 0 < largest < math.inf else tol
        options["maxiter"] = _LOBPCG_STEPS
    U, s, Vh = sla.svds(A, k=k, tol=tol, solver=solver, **options)
    order = np.argsort(s)[::-1]
    flagged = bool(np.isfinite(s).all())
    return Answer(
        torch.from_numpy(s[order].copy()),
        torch.from_numpy(U[:, order].copy()),
        torch.from_numpy(Vh[order].T.copy()),
        flagged,
        "" if flagged else "values are not finite",
    )


def largest_value(A: sla.LinearOperator) -> float:
    """Return s₁ from below, by a few steps of the power method."""
    v = np.random.default_rng(1).standard_normal(A.shape[1]).astype(A.dtype)
    length = 0.0
    for _ in range(_POWER_STEPS):
        v = (v / np.linalg.norm(v.astype(np.float64))).astype(A.dtype)
        w = A.matvec(v)
        length = float(np.linalg.norm(w.astype(np.float64)))
        if length == 0 or not math.isfinite(length):
            break
        v = A.rmatvec(w / length)
    return length


PEERS = tuple(
    Peer(
        f"scipy-{solver}{'-ours' if ours else ''}",
        functools.partial(solve, solver=solver, ours=ours),
        distribution="scipy",
    )
    for solver in ("arpack", "propack", "lobpcg")
    for ours in (False, True)
)
