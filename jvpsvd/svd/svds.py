"""The front: top-k singular triplets of any linear operator."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import out_of_reach, proper_fraction, whole_number
from jvpsvd.errors import (
    ArgumentError,
    ConvergenceError,
    ConvergenceWarning,
    PrecisionWarning,
)
from jvpsvd.operators import LinearOperator, aslinearoperator
from jvpsvd.operators.placement import own_tensors
from jvpsvd.svd.certificate import certify, with_fresh_residuals
from jvpsvd.svd.cost import ProductCost, measured_cost, widening_pays
from jvpsvd.svd.methods.adaptive_rank import AdaptiveRank
from jvpsvd.svd.methods.exact import Exact
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.methods.randomized import BlockKrylov, SubspaceIteration
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.progress import Progress, reporting
from jvpsvd.svd.result import SVDResult, converged_mask
from jvpsvd.svd.triplets import with_fixed_signs

_LARGEST_SEED = (1 << 63) - 1
# Of so few triplets narrow blocks need far fewer products (see `plan`), and from this length on
# these are what takes the time.
_FEW, _LONG = 32, 1 << 18


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
    start: SVDResult | Tensor | None = None,
    energy: float | None = None,
    tail: float | None = None,
    on_unconverged: Literal["warn", "raise", "ignore"] = "warn",
    progress: bool | Callable[[Progress], None] = False,
) -> SVDResult:
    """Return the k largest singular values of A, with their vectors and a certificate.

    Args:
        A: A `LinearOperator`, or anything `aslinearoperator` takes; a batch of B matrices is solved
            in lock step, and every tensor of the result has a leading dimension.
        k: How many triplets, from 1 to min(m, n).
        tol: A triplet counts as converged if its measured residual is at most tol · s[0]. Float32
            reaches 1e-6, float64 1e-14; a `PrecisionWarning` before the work tells of tolerances
            that rounding rules out.
        method: "golub-kahan" (few products), "exact" (min(m, n) products, every value),
            "randomized" (a fixed number of products: block Krylov, or subspace iteration where
            memory is short), or "auto" (one of the first two).
        block_size: Vectors per step; chosen when None, for few triplets of long vectors by timing
            four products. Given, bases stay as large as memory allows, whatever the timings.
        memory: Bytes, or text like "4GiB", for bases and result; None: half of the GPU's, or of
            the machine's.
        seed: Of everything random, from 0 to 2⁶³ − 1; the same seed gives the same result on the
            same device, where timings decided alike. `method` and `block_size` together, and the
            chunk of a Jacobian, leave them nothing to decide.
        vectors: Whether to return U and Vh. Without them, where it is safe, those of the longer
            side are not even kept.
        start: An earlier result with vectors, of the same or a similar operator, or (short, j)
            vectors of the shorter side, to start Golub–Kahan from. It saves products, never
            accuracy.
        energy: With method="randomized": stop at as many triplets, k at most, as hold this share
            of ‖A‖²_F, in (0, 1).
        tail: With method="randomized": stop at the values above tail · s[0], k at most.
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
            "matrix, or the function and its point, first"
        )
    tol = proper_fraction("tol", tol)
    seed = whole_number("seed", seed, 0, _LARGEST_SEED)
    if on_unconverged not in ("warn", "raise", "ignore"):
        raise ArgumentError(
            f'on_unconverged={on_unconverged!r} is unknown; use "warn", "raise" or "ignore"'
        )
    search = _search(method, energy, tail)
    said = out_of_reach(tol, operator.dtype)
    if said and on_unconverged != "ignore":
        warnings.warn(said, PrecisionWarning, stacklevel=2)
    began, before = time.perf_counter(), operator.products
    chosen = _plan(operator, k, tol, method, block_size, memory, vectors)
    k = int(k)
    m, n = operator.shape[-2:]
    tall = operator if m >= n else operator.T
    near = None if start is None else _starting_vectors(start, operator)
    with torch.no_grad(), own_tensors(), reporting(progress) as report:
        if search is not None:
            found = dataclasses.replace(search, max_size=chosen.max_size, seed=seed)
            triplets = found.solve(tall, k, tol, report)
        elif chosen.method == "golub-kahan":
            solver = GolubKahan(
                block_size=chosen.block_size,
                widest_block=chosen.widest_block,
                max_size=chosen.max_size,
                values_size=chosen.values_size,
                compacts=block_size is None,
                seed=seed,
            )
            triplets = solver.solve(tall, k, tol, report, vectors=vectors, start=near)
        elif chosen.method == "exact":
            triplets = Exact(chosen.block_size).solve(tall, k, tol, report, vectors=vectors)
        elif chosen.method == "block-krylov":
            triplets = BlockKrylov(seed=seed).solve(tall, k, tol, report)
        else:
            triplets = SubspaceIteration(seed=seed).solve(tall, k, tol, report)
        certificates = certify(tall, triplets, seed)
        measured = with_fresh_residuals(tall, triplets, certificates, tol)
        if measured is not triplets:
            triplets, certificates = measured, certify(tall, measured, seed)
    if tall is not operator:
        triplets = triplets.transposed()
    triplets = with_fixed_signs(triplets)
    U, V = (triplets.U, triplets.V) if vectors else (None, None)
    result = SVDResult(
        U=U,
        s=triplets.s.abs(),  # no value is −0
        Vh=None if V is None else V.mT,
        residuals=triplets.residuals,
        converged=converged_mask(triplets, tol, certificates),
        products=operator.products.since(before),
        method=chosen.method if search is None else "adaptive-rank",
        seconds=time.perf_counter() - began,
        certificates=certificates,
        plan=chosen,
        tol=tol,
    )
    if not result.converged.all() and on_unconverged != "ignore":
        missed = int((~result.converged).sum())
        worst = float((result.residuals / result.s[..., :1]).max())
        message = (
            f"{missed} of {result.s.numel()} triplets missed tol={tol:g} (worst residual "
            f"{worst:.1e} s1; {result.certificate}); raise tol or memory, or use float64"
        )
        if on_unconverged == "raise":
            raise ConvergenceError(message)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return result


def _starting_vectors(start: SVDResult | Tensor, A: LinearOperator) -> Tensor:
    """Return the vectors of the shorter side of A that an earlier result holds.

    Raises:
        ArgumentError: If it holds none, or they have another length, dtype or device.
    """
    m, n = A.shape[-2:]
    if isinstance(start, SVDResult):
        side = start.U if m < n else None if start.Vh is None else start.Vh.mT
        if side is None:
            raise ArgumentError("start has no vectors; solve it with vectors=True")
    elif isinstance(start, Tensor):
        side = start
    else:
        raise ArgumentError(
            f"start is {type(start).__name__}; give an SVDResult or a tensor of vectors"
        )
    expected = (*A.batch, min(m, n))
    if side.ndim != len(expected) + 1 or side.shape[:-1] != expected or side.shape[-1] == 0:
        raise ArgumentError(
            f"start has vectors of shape {tuple(side.shape)}; give {expected} and one dimension "
            "of columns, vectors of the shorter side"
        )
    if (side.dtype, side.device) != (A.dtype, A.device) or not torch.isfinite(side).all():
        raise ArgumentError(
            f"start is {side.dtype} on {side.device}; give finite vectors in {A.dtype} on "
            f"{A.device}"
        )
    return side


def _search(method: str, energy: float | None, tail: float | None) -> AdaptiveRank | None:
    """Return the search for a rank that was asked for, if one was."""
    if energy is None and tail is None:
        return None
    if method != "randomized" or (energy is not None and tail is not None):
        raise ArgumentError('give one of energy and tail, and method="randomized" with it')
    name, value = ("energy", energy) if energy is not None else ("tail", tail)
    share = proper_fraction(name, value)
    return AdaptiveRank(energy=share) if energy is not None else AdaptiveRank(tail=share)


def _plan(
    A: LinearOperator,
    k: int | np.integer[Any],
    tol: float,
    method: str,
    block_size: int | np.integer[Any] | None,
    memory: int | str | None,
    vectors: bool,
) -> Plan:
    """Plan for this operator, and time its products where that could change the plan."""
    m, n = A.shape[-2:]
    chunk = None if A.batch else A.chunk

    def planned(cost: ProductCost | None = None, chunk: int | None = chunk) -> Plan:
        return plan(
            (m, n),
            A.dtype.itemsize,
            k,
            tol=tol,
            method=method,
            block_size=block_size,
            memory=memory,
            vectors=vectors,
            chunk=chunk,
            batch=A.batch[0] if A.batch else 1,
            cost=cost,
            device=A.device,
        )

    chosen = planned()
    with torch.no_grad(), own_tensors():
        if chosen.undecided:
            return planned(measured_cost(A, chosen.block_size if A.chunk is None else A.chunk))
        asked = A.batch or chunk is not None or block_size is not None
        long = chosen.method == "golub-kahan" and k <= _FEW and max(m, n) >= _LONG
        return planned(chunk=2) if long and not asked and not widening_pays(A) else chosen
