"""What a solve holds in memory: bases, their products and the result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from jvpsvd.machine import granted_memory

# Bytes of a step and of measured residuals, counted generously: tests/svd/test_memory_ceiling.py
# solves under a hard limit of memory. A step holds so many blocks in addition to the bases (the
# product, copies of it, and its orthonormalised form), each wider by the probe columns.
_BLOCKS_OF_A_STEP, _PROBE_COLUMNS = 8, 4
# Residuals are summed in float64, in parts of at most this many bytes or of a few columns.
_MEASURING_COLUMNS, _MEASURING = 4, 1 << 27
# Without a basis of the longer side, so many triplets are measured at once, and so many blocks of
# their left vectors are held meanwhile.
_MEASURED_TOGETHER, _MEASURED_BLOCKS = 64, 5
# Storage of the bases begins at twice the triplets plus twice this many blocks, which is more than
# the 1.7 k columns and 12 blocks that `plan` predicts at tol 1e-4. Bases of narrow blocks, which
# take longest to converge, begin as if blocks were of the second number of columns.
_BLOCKS_RESERVED, _NARROW_RESERVED = 8, 4


@dataclass(frozen=True)
class Footprint:
    """The bytes that each part of a solver takes for k triplets of B matrices (m, n).

    >>> size = Footprint(long=1000, short=10, k=2, itemsize=4, batch=1, vectors=True)
    >>> size.result, size.column
    (8080, 4080)
    """

    long: int
    short: int
    k: int
    itemsize: int
    batch: int
    vectors: bool

    @property
    def result(self) -> int:
        """The triplets; the vectors of the short side are computed in any case."""
        one = result_bytes(self.long, self.short, self.k, self.itemsize, self.vectors)
        return self.batch * one

    @property
    def column(self) -> int:
        """One column of the Golub–Kahan bases: V and A'U on the short side, U on the long one."""
        return self.batch * (2 * self.short + self.long) * self.itemsize

    @property
    def values_column(self) -> int:
        """The same without U."""
        return self.batch * 2 * self.short * self.itemsize

    def workspace(self, block_size: int) -> int:
        """Bytes that Golub–Kahan holds besides its bases: the blocks of a step, later the result.

        Probe columns make the last steps wider. In a batch, finished results are held while other
        matrices go on.
        """
        both = self.batch * (self.long + self.short) * self.itemsize
        step = bytes_of_a_step(block_size, both)
        whole = 4 * 8 * self.k * self.batch * (self.long + self.short)
        measuring = self.result + max(_MEASURING_COLUMNS * both, min(_MEASURING, whole))
        return max(step, measuring) if self.batch == 1 else step + measuring

    def without_left(self, columns: int) -> int:
        """Bytes of bases of so many columns on the short side alone, and of measuring triplets."""
        images = self.k if self.vectors else 0
        measured = _MEASURED_BLOCKS * min(self.k, _MEASURED_TOGETHER)
        held = self.long * (images + measured) + self.short * columns
        return self.result + self.batch * self.itemsize * held

    def exact(self) -> int:
        """The matrix, its factors, the images of the right vectors, and the result."""
        held = 1 if self.itemsize < 8 else 3
        matrix = self.short * self.long * self.itemsize * held
        images = self.long * self.k * self.itemsize
        return self.result + self.batch * (matrix + images + 4 * self.short**2 * 8)

    def subspace(self, width: int) -> int:
        """The result, and the blocks of a step that is as wide as the whole subspace."""
        both = self.batch * (self.long + self.short) * self.itemsize
        return self.result + _BLOCKS_OF_A_STEP * both * width


def result_bytes(long: int, short: int, k: int, itemsize: int, vectors: bool) -> int:
    """Return the bytes of the triplets of one matrix."""
    return (long + short if vectors else short) * k * itemsize


def bytes_of_a_step(block_size: int, both: int) -> int:
    """Return the bytes of a step's blocks, where one column of V and one of U take `both` bytes.

    >>> bytes_of_a_step(16, 1000)
    160000
    """
    return _BLOCKS_OF_A_STEP * (block_size + _PROBE_COLUMNS) * both


def reserved_columns(max_size: int, k: int, block_size: int) -> int:
    """Return how many columns to reserve for bases that may grow to `max_size` columns.

    >>> reserved_columns(300, 40, 8), reserved_columns(1000, 40, 8)
    (300, 208)
    """
    usual = _usual(k, block_size)
    return max_size if max_size <= 2 * usual else usual


def without_growth(fits: int, k: int, block_size: int) -> int:
    """Return how large bases may become where memory fits `fits` columns: growing copies them.

    >>> without_growth(300, 40, 8), without_growth(1000, 40, 8)
    (300, 500)
    """
    usual = _usual(k, block_size)
    return fits if fits <= 2 * usual else max(2 * usual, fits // 2)


def _usual(k: int, block_size: int) -> int:
    """Return a number of columns that suffices for most solves, so that they need not grow."""
    return 2 * (k + _BLOCKS_RESERVED * max(block_size, _NARROW_RESERVED))


def memory_of(device: torch.device | None = None) -> int:
    """Return the bytes of memory of a GPU, or those of this machine that this process may use.

    >>> memory_of(torch.device("cpu")) == memory_of()
    True
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return _granted_memory()


@cache
def _granted_memory() -> int:
    """Return `granted_memory()`, asked once: it reads dozens of files, a tenth of a small solve."""
    return granted_memory()
