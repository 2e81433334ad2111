"""The request of a caller, checked once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import LARGEST_SEED, check_flag, one_of, proper_fraction, shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.machine import parse_memory
from jvpsvd.operators import LinearOperator, MatrixOperator
from jvpsvd.operators.linear_map_operator import LinearMapOperator
from jvpsvd.records import ComparedByFields
from jvpsvd.svd.kernels.random_numbers import Seeds
from jvpsvd.svd.other_names import refuse_other_words
from jvpsvd.text_table import count_noun

MethodName = Literal["auto", "golub-kahan", "randomized", "exact"]
METHODS: tuple[str, ...] = get_args(MethodName)

Count = int | np.integer[Any] | Literal["all"] | None
"""How many triplets: a number, all of them, or as many as svds takes by itself."""

Which = Literal["largest", "smallest"]

Seed = int | np.integer[Any] | Sequence[int] | None
"""A seed; None: another one each time. For a batch also one for each matrix."""

_DEFAULT_COUNT = 500
# Pairs (a tolerance that hardly any solve meets, one that nearly all meet), in units of eps. With
# tolerances of 0.5, 1, 2, 4 and 8 eps, 0, 6, 16, 63 and 77 of 77 float32 solves by Golub–Kahan
# converged, and 0, 17, 51, 77 and 77 by the exact method. In float64 it was 0, 0, 0, 7 and 16 of
# 66, and 0, 0, 5, 18 and 35 (`python -m benchmarks rounding`).
_REACH = {torch.float32: (1.0, 8.0), torch.float64: (2.0, 50.0)}


@dataclass(frozen=True)
class ProblemSize:
    """The size of an operator. The operator need not exist: `jvpsvd layers` plans without one."""

    shape: tuple[int, int]
    """(m, n)."""
    dtype: torch.dtype
    device: torch.device | None = None
    """Device of bases and result; None: the CPU."""
    batch: int | None = None
    """Number of matrices in the batch; None: a single operator."""
    chunk: int | None = None
    """Vectors beyond which a wider product costs no less per vector; None if unknown."""
    in_memory: bool = False
    """Whether the entries are in memory, so that products of a small matrix cost nearly nothing."""
    held: int = 0
    """Bytes that the operator holds besides weights, as far as it is known."""
    selected: int | None = 0
    """Bytes that a part of a batch copies for each matrix; None if it cannot be divided."""
    precision: torch.dtype | None = None
    """Lowest precision that products are computed in; None: the dtype."""
    widest: int | None = None
    """About how many entries a vector takes on its way through a network; None if unknown."""
    entries: int | None = None
    """Stored entries of a sparse matrix; None for other operators."""

    @classmethod
    def of(cls, A: LinearOperator) -> ProblemSize:
        """Return the size of an operator."""
        m, n = A.shape[-2:]
        batch = A.batch[0] if A.batch else None
        chunk = None if A.batch else A.chunk
        matrix = A if isinstance(A, MatrixOperator) else A.T
        in_memory = isinstance(matrix, MatrixOperator)
        entries = matrix.entries if isinstance(matrix, MatrixOperator) else None
        of_memory = A.held_bytes, A.selection_bytes
        of_network = A if isinstance(A, LinearMapOperator) else A.T
        widest = of_network.widest if isinstance(of_network, LinearMapOperator) else None
        given = batch, chunk, in_memory, *of_memory, A.precision, widest, entries
        return cls((m, n), A.dtype, A.device, *given)


@dataclass(frozen=True, eq=False)
class Request(ComparedByFields):
    """What a caller asks for. `check_request` checks the arguments and makes one."""

    k: int
    """Triplets to compute, from 1 to min(m, n)."""
    tol: float = 1e-5
    """Largest residual, relative to s₁, of a converged triplet."""
    method: str = "auto"
    """One of METHODS."""
    block_size: int | None = None
    """Vectors per step; None: the plan chooses."""
    memory: int | None = None
    """Bytes for what the operator holds, bases and result; None: half of the GPU's, or of the
    job's or machine's, after what the operator holds."""
    seed: Seeds = 0
    """Seed of all random numbers; of a batch also one for each matrix."""
    vectors: bool = True
    """Whether to return vectors."""
    start: Tensor | None = None
    """(short, j) vectors of the shorter side to start from; None: random ones."""
    energy: float | None = None
    """Share of ‖A‖²_F that the triplets are to hold; as few are returned as suffice."""
    tail: float | None = None
    """Values above this size, relative to s₁, are wanted."""

    smallest: int | None = None
    """How many of the last values are wanted; then k is min(m, n). None: the first k are."""

    @property
    def searches_rank(self) -> bool:
        """Whether k is only an upper bound, and the rank is searched for."""
        return self.energy is not None or self.tail is not None


def check_request(
    size: ProblemSize,
    k: Count = None,
    which: Which = "largest",
    tol: float | np.floating[Any] = 1e-5,
    method: str = "auto",
    block_size: int | np.integer[Any] | None = None,
    memory: int | str | None = None,
    seed: Seed = 0,
    vectors: bool = True,
    start: Tensor | None = None,
    energy: float | None = None,
    tail: float | None = None,
) -> Request:
    """Return the request for an operator of this size, if its arguments are valid.

    Raises:
        ArgumentError: On an argument out of range; see `svds` for what each may be.

    >>> check_request(ProblemSize((3, 2), torch.float32), 3)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: k=3 must be a whole number from 1 to min(3, 2) = 2
    """
    m, n = size.shape
    if size.dtype not in _REACH:
        raise ArgumentError(
            f"svds works in float32 or float64, the operator is {size.dtype}; convert the matrix, "
            "or the network and its inputs, by .float() first, or differentiate in float32: "
            "JacobianOperator(f, x, dtype=torch.float32)"
        )
    if method not in METHODS:
        raise ArgumentError(
            f"method={method!r} is unknown; use one of {', '.join(map(repr, METHODS))}"
        )
    refuse_other_words(which)
    one_of("which", which, get_args(Which))
    if energy is not None or tail is not None:
        _check_search(size, method, energy, tail)
    count = _count(k, m, n)
    smallest = which == "smallest"
    if smallest and method not in ("auto", "exact"):
        raise ArgumentError(
            f'method={method!r} finds the largest values only; the smallest need method="exact"'
        )
    if start is not None:
        _check_start(start, size)
    _refuse_unused(method, smallest, start, block_size)
    check_flag("vectors", vectors)
    return Request(
        k=min(m, n) if smallest else count,
        tol=reached_tolerance(tol, size.precision or size.dtype),
        method="exact" if smallest else method,
        block_size=None if block_size is None else whole_number("block_size", block_size, 1),
        memory=None if memory is None else parse_memory(memory),
        seed=choose_seed(seed) if _is_one(seed) else _check_seeds(seed, size),
        vectors=bool(vectors),
        start=start,
        energy=None if energy is None else proper_fraction("energy", energy),
        tail=None if tail is None else proper_fraction("tail", tail),
        smallest=count if smallest else None,
    )


def choose_seed(seed: int | np.integer[Any] | None) -> int:
    """Return a seed, one of no choice of the caller if it is None.

    Raises:
        ArgumentError: If it is no whole number from 0 to 2⁶³ − 1.

    >>> choose_seed(7), choose_seed(None) == choose_seed(None)
    (7, False)
    """
    return secrets.randbits(63) if seed is None else whole_number("seed", seed, 0, LARGEST_SEED)


def _is_one(seed: Any) -> TypeGuard[int | np.integer[Any] | None]:
    several = isinstance(seed, list | tuple | range)
    return not (several or (isinstance(seed, Tensor | np.ndarray) and seed.ndim == 1))


def _check_seeds(seeds: Any, size: ProblemSize) -> tuple[int, ...]:
    """Return the seeds of the matrices of a batch."""
    if size.batch is None:
        raise ArgumentError(f"seed={shown(seeds)} is for a batch; give one seed")
    if len(seeds) != size.batch:
        raise ArgumentError(
            f"seed has {count_noun(len(seeds), 'number')} for {size.batch} matrices; give one for "
            "each, or one for all"
        )
    if isinstance(seeds, Tensor | np.ndarray):
        seeds = seeds.tolist()
    return tuple(whole_number(f"seed[{i}]", s, 0, LARGEST_SEED) for i, s in enumerate(seeds))


def out_of_reach(
    tol: float, dtype: torch.dtype, precision: torch.dtype | None = None
) -> str | None:
    """Return a warning if rounding hardly ever lets residuals meet the tolerance.

    Other tolerances return None. `precision` is the lowest one that products are computed in, if
    it is lower than the dtype.

    >>> print(out_of_reach(1e-8, torch.float32))
    tol=1e-08 is below the rounding of float32, and most residuals will stay above it; ask for
    1e-06 or use float64
    >>> out_of_reach(1e-8, torch.float64) is out_of_reach(1e-6, torch.float32) is None
    True
    """
    lowest = precision or dtype
    hardly, mostly = _reach(lowest)
    if tol >= hardly:
        return None
    name, inside = str(lowest).removeprefix("torch."), ""
    wider = "" if dtype == torch.float64 else " or use float64"
    if lowest != dtype:
        inside, wider = " that fn casts to", f" or let fn compute in {dtype}"
    return (
        f"tol={tol:g} is below the rounding of {name}{inside}, and most residuals will stay above "
        f"it; ask for {mostly:.0e}{wider}"
    )


def _reach(precision: torch.dtype) -> tuple[float, float]:
    """Return a tolerance that hardly any solve meets, and one that nearly all meet."""
    eps = float(torch.finfo(precision).eps)
    hardly, mostly = _REACH.get(precision, _REACH[torch.float32])
    return hardly * eps, mostly * eps


def _count(k: Count, m: int, n: int) -> int:
    if k is None:
        return min(_DEFAULT_COUNT, m, n)
    if isinstance(k, str) and k == "all":
        return min(m, n)
    return whole_number("k", k, 1, min(m, n), f"min({m}, {n})")


def reached_tolerance(tol: Any, dtype: torch.dtype) -> float:
    """Return a tolerance; for 0 the one that nearly all solves of the dtype reach.

    Raises:
        ArgumentError: If it is not 0 and does not lie between 0 and 1.

    >>> reached_tolerance(0, torch.float32) < 1e-6
    True
    """
    if not isinstance(tol, bool) and isinstance(tol, Real) and tol == 0:
        return _reach(dtype)[1]
    return proper_fraction("tol", tol)


def _check_search(size: ProblemSize, method: str, energy: float | None, tail: float | None) -> None:
    if energy is not None and tail is not None:
        raise ArgumentError("energy= and tail= both say how many triplets; give one of them")
    if method != "randomized":
        name = "tail" if energy is None else "energy"
        raise ArgumentError(f'{name}= needs method="randomized", got method={shown(method)}')
    if size.batch is not None:
        raise ArgumentError(
            "the matrices of a batch have ranks of their own; search them one at a time"
        )


def _refuse_unused(
    method: str, smallest: bool, start: Tensor | None, block_size: int | np.integer[Any] | None
) -> None:
    """Refuse arguments that the method asked for has no use for; "auto" may choose another one."""
    asked = 'which="smallest"' if smallest else f'method="{method}"'
    other = "" if smallest else ', or ask for method="golub-kahan"'
    if start is not None and (smallest or method in ("exact", "randomized")):
        raise ArgumentError(
            f"start= is of no use to {asked}, which begins anew; leave it out{other}"
        )
    if block_size is not None and method == "randomized":
        raise ArgumentError(
            f"block_size= is of no use to {asked}, whose blocks follow from k; leave it out"
        )


def _check_start(start: Tensor, size: ProblemSize) -> None:
    if not isinstance(start, Tensor):
        raise ArgumentError(
            f"start is {type(start).__name__}; give an SVDResult or a tensor of vectors"
        )
    expected = (*(() if size.batch is None else (size.batch,)), min(size.shape))
    if start.ndim != len(expected) + 1 or start.shape[:-1] != expected or start.shape[-1] == 0:
        sides = "result.U" if size.shape[0] <= size.shape[1] else "result.Vh.mT"
        raise ArgumentError(
            f"start has shape {tuple(start.shape)}; give ({', '.join(map(str, expected))}, j), "
            f"vectors of the shorter side as columns: {sides} of an earlier result, or start=result"
        )
    if (start.dtype, start.device) != (size.dtype, size.device):
        raise ArgumentError(
            f"start is {start.dtype} on {start.device}; give it in {size.dtype} on {size.device}"
        )
    if not torch.isfinite(start).all():
        raise ArgumentError("start holds NaN or infinity; give finite vectors")
