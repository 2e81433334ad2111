"""svds: the leading singular triplets of any linear operator."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, Never, ParamSpec

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import one_of
from jvpsvd.errors import (
    ArgumentError,
    ConvergenceError,
    ConvergenceWarning,
    PrecisionWarning,
    UnknownArgumentError,
)
from jvpsvd.operators import LinearOperator, aslinearoperator
from jvpsvd.operators.environment.placement import own_tensors
from jvpsvd.svd.certificate import (
    Certificate,
    certify,
    converged_mask,
    last_triplets,
    with_fresh_residuals,
)
from jvpsvd.svd.cost import measured_cost, widening_pays
from jvpsvd.svd.kernels.random_numbers import seeded_generators
from jvpsvd.svd.lock_step import plan_batch
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.other_names import refuse_other_names
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.product_checks import check_values, check_zero
from jvpsvd.svd.progress import Show, progress_bar
from jvpsvd.svd.request import ProblemSize, Request, Seed, check_request, out_of_reach
from jvpsvd.svd.result import SVDResult
from jvpsvd.svd.triplets import Triplets, with_fixed_signs
from jvpsvd.text_table import count_noun

OnUnconverged = Literal["warn", "raise", "ignore"]
_RANDOMIZED = ("block-krylov", "subspace-iteration", "adaptive-rank")
_Arguments = ParamSpec("_Arguments")


def _of_one_operator(function: Callable[_Arguments, SVDResult]) -> Callable[_Arguments, SVDResult]:
    """Answer svds(model, x, k=3), of which Python says only that k has two values."""

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> SVDResult:
        if len(args) + ("k" in kwargs) > 2:
            raise UnknownArgumentError(
                "svds takes one operator and k; write svds(JacobianOperator(model, x), k)"
            )
        return function(*args, **kwargs)

    return call


@_of_one_operator
def svds(
    A: Any,
    k: int | np.integer[Any] | Literal["all"] | None = None,
    *,
    which: Literal["largest", "smallest"] = "largest",
    tol: float | np.floating[Any] = 1e-5,
    method: str = "auto",
    block_size: int | np.integer[Any] | None = None,
    memory: int | str | None = None,
    seed: Seed = 0,
    vectors: bool = True,
    start: SVDResult | Tensor | None = None,
    energy: float | None = None,
    tail: float | None = None,
    on_unconverged: OnUnconverged = "warn",
    progress: bool | Show = False,
    **other_names: Never,
) -> SVDResult:
    """Return the k largest singular values of A, with their vectors and a certificate.

    The smallest can be had where all can: see `which`. Results carry no gradient; values of
    `jvpsvd.singular_values` do.

    Args:
        A: A `LinearOperator`, or anything `aslinearoperator` takes; a batch of B matrices is solved
            in lock step, as many at a time as the memory holds, and every tensor of the result has
            a leading dimension.
        k: How many triplets, from 1 to min(m, n); "all" of them; None: min(500, m, n).
        which: "largest", or "smallest": the k last of all min(m, n) values, still descending. They
            take the exact method, min(m, n) products and memory for all triplets; `residuals` and
            the certificate then say how far small values are from rounding.
        tol: A triplet counts as converged if its measured residual is at most tol · σ₁. Float32
            reaches 1e-6, float64 1e-14; 0 is as SciPy means it, what the dtype reaches. If rounding
            rules a tolerance out, a `PrecisionWarning` says so before the work.
        method: "golub-kahan" (few products), "exact" (min(m, n) products, every value),
            "randomized" (a fixed number of products, whatever the tolerance: "block-krylov", or
            "subspace-iteration" where memory is short; with energy= or tail= "adaptive-rank", which
            adds random blocks until enough is found), or "auto" (one of the first two).
        block_size: Vectors per step, of the exact method per product; None: chosen by the plan,
            which times four products if k is small and vectors are long. If it is given, bases of
            Golub–Kahan grow as far as memory allows, whatever the timings. Refused with
            method="randomized", whose blocks follow from k.
        memory: Bytes, or text like "4GiB", for bases, result and what the operator holds (its
            `held_bytes`: activations, copies of sparse matrices); None: half of what the operator
            leaves of the GPU's, or of the job's or machine's, for bases and result.
        seed: Seed of all random numbers, from 0 to 2⁶³ − 1. The same seed gives the same result on
            the same device, unless timings choose another method, block or chunk. Nothing is timed
            if `method`, `block_size` and the Jacobian's `chunk` are given. None: another one each
            time, which `SVDResult.seed` names; ranks of a process group need one number. The
            matrices of a batch share one seed, or have one each in a list of them: with the seed
            and `block_size` of a solve alone, a matrix starts from the same vectors.
        vectors: Whether to return U and Vh. If not, the longer side's vectors are not even kept,
            where that is safe.
        start: An earlier result with vectors, of the same or a similar operator, or (short, j)
            vectors of the shorter side, to start Golub–Kahan from. It may save products of
            the same operator, never accuracy; from the vectors of another photo, solves took more
            (`python -m benchmarks starts`). Methods that cannot use it refuse it; with
            method="auto" it does not change the choice, and the exact method leaves it unused.
        energy: With method="randomized": return about as few triplets, at most k, as hold this
            share of ‖A‖²_F, in (0, 1): a few more, since their values are a little too small.
        tail: With method="randomized": return the values above tail · s[0], at most k.
        on_unconverged: What to do when some triplets miss the tolerance.
        progress: True for a bar on stderr, or a function that takes a `Progress`. If it returns
            False, the solve stops and returns what it has found, with measured residuals. (The
            exact method has nothing to return before its last product, so it goes on.)
        other_names: None. Names that SciPy, scikit-learn, NumPy and torch use are answered with
            what they are called here.

    Raises:
        ArgumentError: On an argument out of range, or one of another name; if products are too
            large or too small for their dtype.
        NonFiniteError: If a product holds NaN or infinity.
        ConvergenceError: With on_unconverged="raise", if a triplet is not certified.

    >>> res = svds(torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0])), k=2)
    >>> res.s
    tensor([5., 3.])
    >>> bool(res.converged.all()), res.certificate.complete
    (True, True)
    """
    refuse_other_names(svds, other_names)
    one_of("on_unconverged", on_unconverged, ("warn", "raise", "ignore"))
    operator = aslinearoperator(A)
    size = ProblemSize.of(operator)
    first = _vectors_of_shorter_side(start, size)
    request = check_request(
        size, k, which, tol, method, block_size, memory, seed, vectors, first, energy, tail
    )
    warned = out_of_reach(request.tol, operator.dtype, operator.precision)
    if warned and on_unconverged != "ignore":
        warnings.warn(warned, PrecisionWarning, stacklevel=3)
    began, before = time.perf_counter(), operator.products
    with torch.no_grad(), own_tensors(), progress_bar(progress) as show:
        monitor = Monitor(show, lambda: operator.products.since(before))
        chosen = _choose_plan(operator, size, request)
        wide = size.shape[0] < size.shape[1]
        oriented = operator.T if wide else operator  # solvers need m ≥ n
        triplets = chosen.solver.solve(oriented, request, monitor)
        with monitor.phase("checks"):
            triplets, certificates, converged = _certify(oriented, triplets, request)
    triplets = with_fixed_signs(triplets.transposed() if wide else triplets)
    result = SVDResult(
        U=triplets.U if request.vectors else None,
        s=triplets.s.abs(),  # no value is −0
        Vh=triplets.V.mT if request.vectors and triplets.V is not None else None,
        residuals=triplets.residuals,
        converged=converged,
        products=operator.products.since(before),
        method=chosen.method,
        seconds=time.perf_counter() - began,
        seconds_by_phase=monitor.seconds,
        history=tuple(monitor.history),
        certificates=certificates,
        plan=chosen,
        tol=request.tol,
        shape=operator.shape,
        seed=request.seed,
        which=which,
        samples=triplets.samples,
        precision=_name_of_lower(operator.precision, operator.dtype),
    )
    if on_unconverged != "ignore" and not bool(result.converged.all()):
        missed = _unconverged_in_words(result, monitor.stopped)
        if on_unconverged == "raise":
            raise ConvergenceError(missed)
        warnings.warn(missed, ConvergenceWarning, stacklevel=3)
    return result


def _name_of_lower(precision: torch.dtype, dtype: torch.dtype) -> str | None:
    return None if precision == dtype else str(precision).removeprefix("torch.")


def _vectors_of_shorter_side(start: SVDResult | Tensor | None, size: ProblemSize) -> Tensor | None:
    """Return the vectors to start from, or None.

    Raises:
        ArgumentError: If an earlier result holds none.
    """
    if not isinstance(start, SVDResult):
        return start
    m, n = size.shape
    side = start.U if m < n else None if start.Vh is None else start.Vh.mT
    if side is None:
        raise ArgumentError("start has no vectors; solve it with vectors=True")
    return side


def _choose_plan(A: LinearOperator, size: ProblemSize, request: Request) -> Plan:
    """Return the plan. Time products of the operator where that could change it."""
    divided = size.selected is not None and (size.batch or 1) > 1
    chosen = plan_batch(size, request) if divided else plan(size, request)
    if chosen.undecided == "method":
        width = chosen.block_size if A.chunk is None else A.chunk
        return plan(size, request, cost=measured_cost(A, width))
    if chosen.undecided == "width" and not widening_pays(A):
        return plan(size, request, wide_products_save=False)
    return chosen


def _certify(
    A: LinearOperator, triplets: Triplets, request: Request
) -> tuple[Triplets, tuple[Certificate, ...], Tensor]:
    """Return triplets, their certificates, and which converged.

    Residuals are measured anew where needed. If the smallest values are wanted, they are the last
    of all, and all are certified together.

    Raises:
        ArgumentError: If the dtype cannot hold a value.
        NonFiniteError: If a product holds NaN or infinity.
    """
    check_values(triplets.s)
    check_zero(A, triplets.s[..., 0], seeded_generators(request.seed))
    certificates = certify(A, triplets, request.seed)
    measured = with_fresh_residuals(A, triplets, certificates, request.tol)
    if measured is not triplets:
        certificates = certify(A, measured, request.seed)
    converged = converged_mask(measured, request.tol, certificates)
    if request.smallest is not None:
        converged = converged[..., -request.smallest :].clone()
        measured, certificates = last_triplets(measured, certificates, request.smallest)
    return measured, certificates, converged


def _unconverged_in_words(result: SVDResult, stopped: bool) -> str:
    """Return what to say of triplets that are not certified."""
    missed = int((~result.converged).sum())
    total = count_noun(result.s.numel(), "triplet")
    worst = float((result.residuals / result.s[..., :1]).max())
    wider = "" if result.s.dtype == torch.float64 else ", or use float64"
    if result.precision is not None:
        wider = f", or let fn compute in {result.s.dtype}, not in {result.precision}"
    remedy = f"raise tol or memory{wider}"
    if stopped:
        remedy = "progress= stopped the solve"
    elif result.method in _RANDOMIZED:
        remedy = (
            'method="randomized" takes a fixed number of products and aims at no tolerance: '
            f'method="auto" with k={result.k} does, and on_unconverged="ignore" says nothing'
        )
    return (
        f"{missed} of {total} missed tol={result.tol:g} (worst residual "
        f"{worst:.1e} s1; {result.certificate}); {remedy}"
    )
