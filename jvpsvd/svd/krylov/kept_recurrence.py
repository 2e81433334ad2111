"""The recurrence of the random start, kept before restarts and probe columns change it."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.quadrature import AllValues, NoSample, Recurrences, SpectralSample


class KeptRecurrence:
    """B and R of a factorisation, or of a batch, as they were at the first change.

    Args:
        random: Whether the start was random. A given start is no sample of all directions.
    """

    def __init__(self, random: bool) -> None:
        self._random = random
        self._kept: tuple[Tensor, Tensor, int] | None = None

    def keep(self, bases: Factorization) -> None:
        """Keep B and R if nothing was kept before; they are not copied."""
        if self._kept is None:
            self._kept = bases.B, bases.R, bases.steps

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        if self._kept is not None:
            B, R, steps = self._kept
            self._kept = B[index], R[index], steps

    def sample(self, bases: Factorization, matrix: int) -> SpectralSample:
        """Return what is known of the whole spectrum of one matrix."""
        if bases.exhausted:
            B = bases.B.reshape(-1, bases.size, bases.size)[matrix]
            return AllValues(torch.linalg.svdvals(B))
        if not self._random:
            return NoSample("the start was given, so it is no random sample")
        B, R, steps = self._kept or (bases.B, bases.R, bases.steps)
        B, R = (one.reshape(-1, *one.shape[-2:])[matrix][None] for one in (B, R))
        return Recurrences(B, R, bases.block_size, steps)
