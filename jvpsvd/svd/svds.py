"""The front: top-k singular triplets of any linear operator."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from jvpsvd.errors import ArgumentError, ConvergenceError, ConvergenceWarning
from jvpsvd.operators import aslinearoperator
from jvpsvd.svd.arguments import proper_fraction, whole_number
from jvpsvd.svd.certificate import certify
from jvpsvd.svd.exact import Exact
from jvpsvd.svd.golub_kahan import GolubKahan
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.progress import Progress, reporting
from jvpsvd.svd.randomized import BlockKrylov, SubspaceIteration
from jvpsvd.svd.result import SVDResult, converged_mask
from jvpsvd.svd.triplets import with_fixed_signs

_LARGEST_SEED = (1 << 63) - 1


def svds(
    A: Any,
    k: int | np.integer[Any] = 500,
    *,
    tol: float | np.floating[Any] = 1e-5,
    method: str = "auto",
    block_size: int | np.integer[Any] | None = None,
    memory: int | str | None = None,
    seed: int | np.integer[Any] = 0,
    vectors: bool = True,
    on_unconverged: Literal["warn", "raise", "ignore"] = "warn",
    progress: bool | Callable[[Progress], None] = False,
) -> SVDResult:
    """Return the k largest singular values of A, with their vectors and a certificate.

    Args:
        A: A `LinearOperator`, or anything `aslinearoperator` takes.
        k: How many triplets, from 1 to min(m, n).
        tol: A triplet counts as converged if its measured residual is at most tol · s[0]. In
            float32 residuals end near 1e-6 s[0].
        method: "golub-kahan" (few products), "exact" (min(m, n) products, every value),
            "randomized" (a fixed number of products: block Krylov, or subspace iteration where
            memory is short), or "auto" (one of the first two).
        block_size: Vectors per step; chosen when None.
        memory: Bytes, or text like "4GiB", for bases and result; None: half of the machine's.
        seed: Of everything random, from 0 to 2⁶³ − 1; the same seed gives the same result on the
            same device.
        vectors: Whether to return U and Vh.
        on_unconverged: What to do when some triplets miss the tolerance.
        progress: True for a bar on stderr, or a function that takes a `Progress`.

    Raises:
        ArgumentError: On an argument out of range.
        NonFiniteError: If a product holds NaN or infinity.
        ConvergenceError: With on_unconverged="raise", if a triplet missed the tolerance.

    >>> res = svds(torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0])), k=2)
    >>> res.s
    tensor([5., 3.])
    >>> bool(res.converged.all()), res.certificate.complete
    (True, True)
    """
    operator = aslinearoperator(A)
    if operator.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"svds works in float32 or float64, the operator is {operator.dtype}; convert the "
            "function and its point first"
        )
    tol = proper_fraction("tol", tol)
    seed = whole_number("seed", seed, 0, _LARGEST_SEED)
    if on_unconverged not in ("warn", "raise", "ignore"):
        raise ArgumentError(
            f'on_unconverged={on_unconverged!r} is unknown; use "warn", "raise" or "ignore"'
        )
    chosen = plan(
        operator.shape,
        operator.dtype.itemsize,
        k,
        method=method,
        block_size=block_size,
        memory=memory,
    )
    k = int(k)
    began, before = time.perf_counter(), operator.products
    solver = _solver(chosen, seed)
    m, n = operator.shape
    with torch.no_grad(), reporting(progress) as report:
        if m >= n:
            triplets = solver.solve(operator, k, tol, report)
        else:
            triplets = solver.solve(operator.T, k, tol, report).transposed()
        triplets = with_fixed_signs(triplets)
        certificate = certify(operator, triplets, seed)
    result = SVDResult(
        U=triplets.U if vectors else None,
        s=triplets.s,
        Vh=triplets.V.T if vectors else None,
        residuals=triplets.residuals,
        converged=converged_mask(triplets, tol, certificate.sound),
        products=operator.products.since(before),
        method=chosen.method,
        seconds=time.perf_counter() - began,
        certificate=certificate,
        plan=chosen,
        tol=tol,
    )
    if not result.converged.all() and on_unconverged != "ignore":
        missed = int((~result.converged).sum())
        message = (
            f"{missed} of {k} triplets missed tol={tol:g} (worst residual "
            f"{float(result.residuals.max() / result.s[0]):.1e} s1; {certificate}); raise tol or "
            "memory, or use float64"
        )
        if on_unconverged == "raise":
            raise ConvergenceError(message)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return result


def _solver(chosen: Plan, seed: int) -> Exact | GolubKahan | BlockKrylov | SubspaceIteration:
    if chosen.method == "exact":
        return Exact(chosen.block_size)
    if chosen.method == "block-krylov":
        return BlockKrylov(seed=seed)
    if chosen.method == "subspace-iteration":
        return SubspaceIteration(seed=seed)
    return GolubKahan(block_size=chosen.block_size, max_size=chosen.max_size, seed=seed)
