"""What random columns tell of an operator: ‖A‖²_F, and how much of it is outside the bases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jvpsvd.svd.krylov.factorization import Factorization


def estimated_frobenius(B: Tensor, exact: int, n: int) -> tuple[Tensor, Tensor]:
    """Return ‖A‖²_F and its standard error, from A V = U B with U orthonormal.

    The first `exact` columns of V count as they are. The others are uniformly random in the
    orthogonal complement of these, of dimension n − exact, where E (n − exact) |A v|² is the rest
    of ‖A‖²_F. (Removing an exact part from a stochastic trace: Meyer, Musco, Musco & Woodruff,
    2021.)

    Args:
        B: (s, s) projected operator; a batch has leading dimensions.
        exact: How many leading columns are no sample.
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
    """Estimates from the random columns of a factorisation, brought up to date as they are added.

    Args:
        matrices: How many matrices the batch has.
    """

    def __init__(self, matrices: int) -> None:
        self.fro2 = torch.full((matrices,), math.nan)
        """(B,) ‖A‖²_F."""
        self.fro2_error = self.fro2
        """(B,) standard errors."""
        self._waiting = 0
        self._first = 0

    def start(self, bases: Factorization) -> None:
        """Take the random block that the bases started from as a sample."""
        self._waiting = bases.size
        self.update(bases)

    def add(self, columns: int, first: int) -> None:
        """Note random columns that were added to the next block.

        Args:
            columns: How many.
            first: Columns of the bases that are left out of `outside` from now on.
        """
        self._waiting += columns
        self._first = first

    def restart(self, kept: int) -> None:
        """Note that the bases have shrunk."""
        self._first = kept

    def update(self, bases: Factorization) -> None:
        """Estimate ‖A‖²_F anew, if the bases were expanded by random columns."""
        if self._waiting:
            exact = bases.size - self._waiting
            n = bases.operator.shape[-1]
            fro2, error = estimated_frobenius(bases.B, exact, n)
            self.fro2, self.fro2_error = fro2.reshape(-1), error.reshape(-1)
            self._waiting = 0

    def outside(self, B: Tensor) -> float:
        """Return the norm of the columns of B that came since the last sample; NaN if none did.

        It bounds ‖A − A V V'‖₂ from below, for the bases V of that time.
        """
        columns = B[:, self._first :]
        return float(torch.linalg.matrix_norm(columns, 2)) if columns.numel() else math.nan

    def select(self, index: Tensor) -> None:
        """Keep these matrices of the batch only."""
        self.fro2, self.fro2_error = self.fro2[index], self.fro2_error[index]
