"""‖A‖²_F from the columns of a projected operator, some known and some a random sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def estimated_frobenius(B: Tensor, known: int, n: int) -> tuple[Tensor, Tensor]:
    """Return ‖A‖²_F and its standard error, from A V = U B with U orthonormal.

    The first `known` columns of V count as they are. The others are uniformly random in the
    orthogonal complement of these, of dimension n − known, where E (n − known) |A v|² is the rest
    of ‖A‖²_F. (Removing what is known from a stochastic trace: Meyer, Musco, Musco & Woodruff,
    2021.)

    Args:
        B: (s, s) projected operator; a batch has leading dimensions.
        known: How many leading columns are no sample.
        n: Length of V's columns.

    >>> estimated_frobenius(torch.diag(torch.tensor([3.0, 2.0])), 1, 2)
    (tensor(13.), tensor(0.))
    """
    squares = (B**2).sum(-2)
    sample = squares[..., known:]
    count, rest = sample.shape[-1], n - known
    fro2 = squares[..., :known].sum(-1) + rest * sample.mean(-1)
    if count == rest:
        return fro2, torch.zeros_like(fro2)
    if count == 1:
        return fro2, torch.full_like(fro2, math.inf)
    return fro2, rest * sample.std(-1) / math.sqrt(count)
