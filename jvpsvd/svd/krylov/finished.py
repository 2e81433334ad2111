"""The triplets of a batch's matrices, collected as the matrices finish."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.quadrature import SpectralSample
from jvpsvd.svd.triplets import Evidence, Triplets


class FinishedTriplets:
    """The triplets of the finished matrices, in the order of the batch.

    Args:
        A: The operator, or the batch.
        k: Number of triplets of each matrix.

    >>> from jvpsvd.operators import MatrixOperator
    >>> finished = FinishedTriplets(MatrixOperator(torch.ones(2, 3, 3)), 1)
    >>> from jvpsvd.svd.krylov.quadrature import NoSample
    >>> evidence, sample = Evidence(9.0, 0.0, True, "all of it", 1, 0.0), NoSample("none")
    >>> for index in (1, 0):
    ...     part = torch.full((1, 1), float(index))
    ...     finished.add([index], Triplets(part, part, None, None, (evidence,), (sample,)))
    >>> finished.triplets().s.tolist()
    [[0.0], [1.0]]
    """

    def __init__(self, A: LinearOperator, k: int) -> None:
        self._batch = A.batch
        self._k = k
        self._whole: Triplets | None = None
        self._evidence: dict[int, Evidence] = {}
        self._samples: dict[int, SpectralSample] = {}

    @property
    def count(self) -> int:
        """Number of finished matrices."""
        return len(self._evidence)

    def add(self, matrices: list[int], part: Triplets) -> None:
        """Add the triplets of these matrices of the batch."""
        self._evidence.update(zip(matrices, part.evidence, strict=True))
        self._samples.update(zip(matrices, part.samples, strict=True))
        if not self._batch or len(matrices) == self._batch[0]:
            self._whole = part
            return
        if self._whole is None:
            count = self._batch[0]
            s = part.s.new_empty(count, self._k)
            U, V = (_columns_like(side, count) for side in (part.U, part.V))
            self._whole = Triplets(s, s.clone(), U, V, (), ())
        whole = self._whole
        for into, one in (
            (whole.s, part.s),
            (whole.residuals, part.residuals),
            (whole.U, part.U),
            (whole.V, part.V),
        ):
            if into is not None and one is not None:
                into[torch.tensor(matrices, device=into.device)] = one

    def triplets(self) -> Triplets:
        """Return the triplets of all matrices."""
        whole = self._whole
        if whole is None:
            raise TypeError("no matrix has finished")
        matrices = sorted(self._evidence)
        evidence = tuple(self._evidence[matrix] for matrix in matrices)
        samples = tuple(self._samples[matrix] for matrix in matrices)
        return replace(whole, evidence=evidence, samples=samples)


def _columns_like(side: Tensor | None, count: int) -> Tensor | None:
    return None if side is None else side.new_empty(count, side.shape[-1], side.shape[-2]).mT
