"""`scipy.sparse.linalg.svds` by ARPACK, PROPACK and LOBPCG, on the hand-written operator and ours.

SciPy 1.17 hands tol² to every solver. ARPACK stops a Ritz pair (θ, v) of A'A (or AA') at a
residual of tol² · θ, which bounds |A'u − σv| by tol² · σ: to reach tol, it gets √tol. PROPACK takes
tol² for the relative error of a value, which is what a residual of tol · σ amounts to: it gets tol.
LOBPCG takes it for an absolute residual of the eigenproblem: to reach tol · s₁², it gets √tol · s₁,
with s₁ from eight steps of the power method. Where this turns out too loose for the required
residual, the solver runs again with a tighter tolerance.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.sparse.linalg as sla
import torch

from benchmarks.solvers.protocol import Answer, Solver, Target

_POWER_STEPS = 8
_LOBPCG_STEPS = 1000


def solve(
    target: Target, k: int, tol: float, budget_seconds: float, *, solver: str, ours: bool
) -> Answer:
    A = target.ours_as_scipy() if ours else target.by_hand()
    return solve_by_svds(A, k, tol, solver)


def solve_by_svds(A: sla.LinearOperator, k: int, tol: float, solver: str) -> Answer:
    """Return what SciPy finds; the caller collects its warnings."""
    options: dict[str, object] = {"rng": np.random.default_rng(0)}
    if solver == "arpack":
        tol = math.sqrt(tol)
    elif solver == "lobpcg":
        largest = find_largest_value(A)
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


def find_largest_value(A: sla.LinearOperator) -> float:
    """Return a lower bound of s₁ from a few steps of the power method."""
    v = np.random.default_rng(1).standard_normal(A.shape[1]).astype(A.dtype)
    norm = 0.0
    for _ in range(_POWER_STEPS):
        v = (v / np.linalg.norm(v.astype(np.float64))).astype(A.dtype)
        w = A.matvec(v)
        norm = float(np.linalg.norm(w.astype(np.float64)))
        if norm == 0 or not math.isfinite(norm):
            break
        v = A.rmatvec(w / norm)
    return norm


SOLVERS = tuple(
    Solver(
        f"scipy-{solver}{'-ours' if ours else ''}",
        functools.partial(solve, solver=solver, ours=ours),
        distribution="scipy",
    )
    for solver in ("arpack", "propack", "lobpcg")
    for ours in (False, True)
)
