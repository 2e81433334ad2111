"""Tune how many vectors go through automatic differentiation in one call.

Sizes are timed while they do work that has to be done, so that finding the best costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_RANGE = (4, 512)
# Another size than the first has to be clearly better: timings are noisy, and which kernel is
# taken for a size can show in the last digit.
_CLEARLY, _TRIALS = 0.85, 2
_CACHED_NUMBERS, _START_RANGE = 1 << 23, (8, 512)
# Share of a GPU's free memory that the first chunk may take.
_SHARE = 0.25


@dataclass
class Chunk:
    """Vectors per call of one product: timed, tuned, and halved where memory runs out.

    Args:
        size: Vectors per call to begin with.
        fixed: Whether the user chose it; it is not tuned then, but still halved.
        shortest: Seconds per vector below which times of calls cannot be told apart; a call that
            takes less ends the tuning.

    >>> chunk = Chunk(8)
    >>> chunk.next(16), chunk.next(3)
    (8, 3)
    """

    size: int
    fixed: bool = False
    shortest: float = 2e-4
    planned: int = field(init=False)
    """The first size, whatever was timed since: what is planned with it is reproducible."""
    _seconds: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.planned = self.size

    def next(self, left: int) -> int:
        """Return how many of the vectors left to take now."""
        size = next((s for s in self._untimed() if s <= left), self.size)
        return min(size, left)

    def is_timed(self, count: int) -> bool:
        """Return whether a call of so many vectors has not been timed often enough."""
        return count in self._untimed()

    def took(self, count: int, seconds: float) -> None:
        """Remember how long a call took; change the size where another is clearly better."""
        if not self.is_timed(count):
            return
        each = self._seconds.setdefault(count, [])
        each.append(seconds / count)
        if seconds / count < self.shortest:
            self.fixed = True
        timed = {s: min(t) for s, t in self._seconds.items() if len(t) >= _TRIALS}
        best = min(timed, key=timed.__getitem__, default=self.size)
        if best != self.size and timed[best] < _CLEARLY * timed.get(self.size, 0.0):
            self.size = best

    def halve(self, count: int) -> None:
        """Take half as many as in a call of `count` vectors from now on."""
        self.size = self.planned = max(1, count // 2)
        self.fixed = True

    def _untimed(self) -> list[int]:
        if self.fixed:
            return []
        low, high = _RANGE
        sizes = (self.planned, self.planned // 2, 2 * self.planned)
        return [s for s in sizes if low <= s <= high and len(self._seconds.get(s, ())) < _TRIALS]


@dataclass(frozen=True)
class Chunks:
    """The chunks of the two products of a linear map, tuned apart; one `Chunk` may serve both."""

    jvp: Chunk
    vjp: Chunk

    @staticmethod
    def fixed(size: int) -> Chunks:
        """Return chunks of a size that the user chose."""
        return Chunks(Chunk(size, fixed=True), Chunk(size, fixed=True))


def apply_in_chunks(
    apply: Callable[[Tensor], Tensor], rows: Tensor, out: Tensor, chunk: Chunk
) -> None:
    """Write apply(rows) to `out`, a chunk of rows at a time.

    Where memory runs out in a call, the chunk is halved, with a line in the log; the error is
    raised only for a single vector.

    Args:
        apply: Maps any number of rows.
        rows: (b, …).
        out: (b, …), one row for each.
        chunk: Updated.
    """
    start = 0
    while start < rows.shape[0]:
        count = chunk.next(rows.shape[0] - start)
        part, into = rows[start : start + count], out[start : start + count]
        timed = chunk.is_timed(count)
        began = _now(rows, timed)
        if runs_in_memory(partial(_apply, apply, part, into), count):
            if timed:
                chunk.took(count, _now(rows, timed) - began)
            start += count
        else:
            chunk.halve(count)


def _apply(apply: Callable[[Tensor], Tensor], part: Tensor, into: Tensor) -> None:
    into.copy_(apply(part).reshape(into.shape))


def runs_in_memory(work: Callable[[], object], count: int) -> bool:
    """Do `work` on `count` vectors; return whether the memory was enough.

    An error for a single vector is raised.
    """
    try:
        work()
    except RuntimeError as error:
        if count == 1 or not _is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
    else:
        return True
    # Outside of the handler, so that what the failed call held is free again.
    logger.warning(
        "out of memory with %d vectors in one call (%s); going on with %d",
        count,
        reason,
        count // 2,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def starting_chunk(numbers: int, bytes_per_vector: int | None, device: torch.device) -> Chunk:
    """Return a chunk to begin with.

    Args:
        numbers: Sizes of a vector and its image together.
        bytes_per_vector: What a product of one vector takes, if known.
        device: On a GPU the chunk fills a share of the memory that is free; on a CPU it stays near
            the last-level cache: wider ones only fault more pages in.

    >>> starting_chunk(150528 + 1000, None, torch.device("cpu")).size
    8
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fits = int(_SHARE * free) // (bytes_per_vector or 64 * numbers)
    else:
        fits = _CACHED_NUMBERS // (8 * numbers)
    low, high = _START_RANGE
    return Chunk(min(high, max(low, 1 << max(0, fits.bit_length() - 1))))


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _now(rows: Tensor, timed: bool) -> float:
    if timed and rows.is_cuda:
        torch.cuda.synchronize(rows.device)
    return time.perf_counter()
