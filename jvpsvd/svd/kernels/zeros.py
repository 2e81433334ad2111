"""Zeros around a matrix."""

from __future__ import annotations

from torch import Tensor


def with_zeros(matrix: Tensor, *, left: int = 0, above: int = 0, below: int = 0) -> Tensor:
    """Return a matrix with columns of zeros to its left, and rows of zeros above and below it.

    `torch.nn.functional.pad` of torch 2.6 does not take a matrix without rows.

    >>> import torch
    >>> with_zeros(torch.ones(1, 1), left=1, below=1)
    tensor([[0., 1.],
            [0., 0.]])
    >>> with_zeros(torch.ones(0, 0), below=2).shape
    torch.Size([2, 0])
    """
    *batch, rows, columns = matrix.shape
    wider = matrix.new_zeros(*batch, above + rows + below, left + columns)
    wider[..., above : above + rows, left:] = matrix
    return wider
