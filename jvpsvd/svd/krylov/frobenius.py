"""Estimates from random columns: ‖A‖²_F, and the norm of A outside of the bases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jvpsvd.svd.krylov.factorization import Factorization


def estimated_frobenius(B: Tensor, exact: int, n: int) -> tuple[Tensor, Tensor]:
    """Estimate ‖A‖²_F and its standard error, from A V = U B with U orthonormal.

    The first `exact` columns of V contribute Σ |A v|² exactly. The other columns are uniformly
    random in the orthogonal complement, of dimension n − exact, so (n − exact) |A v|² has the rest
    of ‖A‖²_F as its mean. (Meyer, Musco, Musco & Woodruff, 2021, split a trace in the same way.)

    Args:
        B: (s, s) projected operator; a batch has leading dimensions.
        exact: Number of leading columns that are no random sample.
        n: Length of V's columns.

    >>> estimated_frobenius(torch.diag(torch.tensor([3.0, 2.0])), 1, 2)
    (tensor(13.), tensor(0.))
    """
    squares = (B**2).sum(-2)
    sample = squares[..., exact:]
    count, rest = sample.shape[-1], n - exact
    fro2 = squares[..., :exact].sum(-1) + rest * sample.mean(-1)
    if count == rest:
        return fro2, torch.zeros_like(fro2)
    if count == 1:
        return fro2, torch.full_like(fro2, math.inf)
    return fro2, rest * sample.std(-1) / math.sqrt(count)


class ProbeSample:
    """Estimates from the random columns of a factorisation, updated when columns are added.

    Args:
        matrices: Number of matrices in the batch.
    """

    def __init__(self, matrices: int) -> None:
        self.fro2 = torch.full((matrices,), math.nan)
        """(B,) estimates of ‖A‖²_F."""
        self.fro2_error = self.fro2
        """(B,) standard errors of `fro2`."""
        self._waiting = 0
        self._first = 0

    def start(self, bases: Factorization) -> None:
        """Use the random starting block as the first sample."""
        self._waiting = bases.size
        self.update(bases)

    def add(self, columns: int, first: int) -> None:
        """Note that random columns were added to the next block.

        Args:
            columns: Number of random columns.
            first: Number of leading columns of the bases that `outside` leaves out from now on.
        """
        self._waiting += columns
        self._first = first

    def restart(self, kept: int) -> None:
        """Note that a restart has kept `kept` columns."""
        self._first = kept

    def update(self, bases: Factorization) -> None:
        """Update the estimate of ‖A‖²_F if random columns have entered the bases."""
        if self._waiting:
            exact = bases.size - self._waiting
            n = bases.operator.shape[-1]
            fro2, error = estimated_frobenius(bases.B, exact, n)
            self.fro2, self.fro2_error = fro2.reshape(-1), error.reshape(-1)
            self._waiting = 0

    def norms(self, bases: Factorization, matrix: int) -> tuple[float, float, float]:
        """Return ‖A‖²_F of a matrix, its standard error, and the norm of A outside of the bases.

        The last is that of the columns of B added since the last sample, NaN if there are none. It
        bounds ‖A − A V V'‖₂ from below, where V is the basis before that sample.
        """
        B = bases.B.reshape(-1, bases.size, bases.size)[matrix]
        if bases.exhausted:
            return float((B**2).sum()), 0.0, 0.0
        columns = B[:, self._first :]
        outside = float(torch.linalg.matrix_norm(columns, 2)) if columns.numel() else math.nan
        return float(self.fro2[matrix]), float(self.fro2_error[matrix]), outside

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        self.fro2, self.fro2_error = self.fro2[index], self.fro2_error[index]
