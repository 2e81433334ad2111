"""Large batches: as many matrices in lock step as the memory holds, one part after another.

Matrices that are solved together are multiplied, orthogonalised and checked together, which keeps a
GPU busy. All of them hold bases, and bases that are too small for what a solve needs restart again
and again. So a part has as many matrices as get the bases that one alone would use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.machine import in_words
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.budget import bytes_for_solve
from jvpsvd.svd.memory import result_bytes
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.plan import Plan, plan
from jvpsvd.svd.request import ProblemSize, Request
from jvpsvd.svd.solver import Solver
from jvpsvd.svd.triplets import Triplets

# Bases hold so many times the predicted columns, so that none of the matrices restarts them: flat
# spectra take more than are predicted. A guess.
_MARGIN = 1.5


@dataclass(frozen=True)
class InParts:
    """Solve a batch part after part; all triplets are held until the end.

    Args:
        solver: Solves a part in lock step.
        together: Largest number of matrices in a part.
    """

    solver: Solver
    together: int

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the triplets of all matrices, in their order.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
            ArgumentError: If products are too large or too small for their dtype.
        """
        count = A.batch[0]
        found: list[Triplets] = []
        for part in torch.arange(count).tensor_split(-(-count // self.together)):
            first, last = int(part[0]), int(part[-1])
            start = None if request.start is None else request.start[first : last + 1]
            seed = request.seed if isinstance(request.seed, int) else request.seed[first : last + 1]
            monitor.begin_part(request.k * first, request.k * count)
            try:
                of_part = replace(request, start=start, seed=seed)
                found.append(self.solver.solve(A.select(part), of_part, monitor))
            except (ArgumentError, NonFiniteError) as error:
                raise type(error)(_in_the_batch(str(error), part, count)) from error
        return _join_parts(found)


def _in_the_batch(message: str, part: Tensor, count: int) -> str:
    """Return an error of a part, with the index of its matrix in the whole batch.

    >>> _in_the_batch("operator 1 of 2: products of about 1e-200 …", torch.tensor([4, 5]), 6)
    'operator 5 of 6: products of about 1e-200 …'
    """
    first, last = int(part[0]), int(part[-1])
    said, found = re.subn(
        rf"operator (\d+) of {len(part)}\b",
        lambda match: f"operator {first + int(match[1])} of {count}",
        message,
    )
    if found:
        return said
    if first == last:
        return f"operator {first} of {count}: {message}"
    return f"of operators {first} to {last}, {message}"


def matrices_together(size: ProblemSize, request: Request) -> int:
    """Return how many matrices of a batch to solve in lock step: as many as the memory holds.

    Raises:
        ArgumentError: If not even one fits into the memory, beside the triplets of all.

    >>> size = ProblemSize((15680, 150528), torch.float32, batch=32)
    >>> [matrices_together(size, Request(500, memory=gib << 30)) for gib in (70, 20, 12)]
    [32, 8, 1]
    """
    count = size.batch or 1
    _refuse_triplets(count, size, request)
    plan(replace(size, batch=1), request)  # refuses one that has no room even alone
    try:
        alone = _plan_of(1, size, request)
    except ArgumentError:  # no room beside the copy of one
        plan(size, request)
        return count
    for parts in range(1, count):
        together = -(-count // parts)
        try:
            chosen = _plan_of(together, size, request)
        except ArgumentError:
            continue
        predicted = int(_MARGIN * chosen.predicted_products / 2)
        wanted = min(size.shape[0], size.shape[1], _count_columns(alone, request), predicted)
        if chosen.method == alone.method and _count_columns(chosen, request) >= wanted:
            return together
    return 1


def plan_batch(size: ProblemSize, request: Request) -> Plan:
    """Return the plan of a batch, in as many parts as its memory takes.

    Raises:
        ArgumentError: If not even one matrix fits into the memory.
    """
    together, count = matrices_together(size, request), size.batch or 1
    if together == count:
        return plan(size, request)
    chosen = _plan_of(together, size, request)
    held = (count - together) * _count_result_bytes(size, request)
    held += _count_copied_bytes(together, size)
    return replace(
        chosen,
        solver=InParts(chosen.solver, together),
        predicted_bytes=chosen.predicted_bytes + held,
        reason=f"{chosen.reason}; {together} of {count} matrices in lock step fit the memory",
        undecided=None,
    )


def _count_columns(chosen: Plan, request: Request) -> int:
    """Return how many columns the bases of a plan hold; 0 if U would have no room in them."""
    solver = chosen.solver
    if request.vectors or not isinstance(solver, GolubKahan) or solver.values_size is None:
        return chosen.max_size
    fits = chosen.max_size >= request.k + 2 * chosen.block_size
    return solver.values_size if fits else 0


def _refuse_triplets(count: int, size: ProblemSize, request: Request) -> None:
    """Raise ArgumentError if the triplets of a batch alone do not fit into the memory."""
    needed, memory = count * _count_result_bytes(size, request), bytes_for_solve(size, request)
    if needed > memory:
        m, n = size.shape
        raise ArgumentError(
            f"k={request.k} triplets of {count} operators {m} x {n} take {in_words(needed)}, more "
            f"than the memory allows ({in_words(memory)}); solve fewer at a time, or lower k"
        )


def _plan_of(together: int, size: ProblemSize, request: Request) -> Plan:
    """Return the plan of a part of a batch, beside its copy and the triplets of all others."""
    others = (size.batch or 1) - together
    if not others:
        return plan(size, request)
    held = others * _count_result_bytes(size, request) + _count_copied_bytes(together, size)
    left = max(0, bytes_for_solve(size, request) - held)
    return plan(replace(size, batch=together, held=0), replace(request, memory=left))


def _count_copied_bytes(together: int, size: ProblemSize) -> int:
    """Return the bytes of the part of an operator: it is a copy, beside the whole."""
    return together * (size.selected or 0)


def _count_result_bytes(size: ProblemSize, request: Request) -> int:
    m, n = size.shape
    return result_bytes(max(m, n), min(m, n), request.k, size.dtype.itemsize, request.vectors)


def _join_parts(parts: Sequence[Triplets]) -> Triplets:
    def join(sides: Sequence[Tensor | None]) -> Tensor | None:
        # Transposed, so that columns stay contiguous.
        kept = [side.mT for side in sides if side is not None]
        return torch.cat(kept).mT if len(kept) == len(sides) else None

    return Triplets(
        torch.cat([part.s for part in parts]),
        torch.cat([part.residuals for part in parts]),
        join([part.U for part in parts]),
        join([part.V for part in parts]),
        tuple(one for part in parts for one in part.evidence),
        tuple(one for part in parts for one in part.samples),
    )
