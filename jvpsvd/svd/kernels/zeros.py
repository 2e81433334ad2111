"""Zeros around a matrix, and in place of what has no effect."""

from __future__ import annotations

import torch
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


def convert_coefficients(C: Tensor, basis: Tensor) -> Tensor:
    """Return coefficients (s, j) in the dtype and on the device of a basis, the tiniest ones as 0.

    Singular vectors of a banded matrix have many entries near the smallest number of float32, and
    processors multiply subnormal numbers slowly. Entries below tiny / eps = 1e-31 of the largest
    change a combination of unit vectors by less than its rounding. The range of float64 is wide
    enough.

    >>> C = torch.tensor([[1.0, 1e-40]], dtype=torch.float64)
    >>> convert_coefficients(C, torch.empty(0))
    tensor([[1., 0.]])
    """
    limits = torch.finfo(basis.dtype)
    if C.numel() and basis.dtype != torch.float64:
        sizes = C.abs()
        least = limits.tiny / limits.eps * sizes.amax(dim=(-2, -1), keepdim=True)
        C = torch.where(sizes < least, 0.0, C)
    return C.to(dtype=basis.dtype, device=basis.device, non_blocking=True)
