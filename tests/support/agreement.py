"""What tests of the products of an operator compare them with, and how closely."""

import copy

import torch
from torch import nn

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def check_products(J, expected):
    """Both products with all unit vectors are the matrix, on the scale of its largest entry."""
    m, n = J.shape
    assert (m, n) == tuple(expected.shape)
    scale = TOLERANCE[J.dtype] * expected.abs().max()
    assert (J.matmat(torch.eye(n, dtype=J.dtype)).double() - expected).abs().max() <= scale
    assert (J.rmatmat(torch.eye(m, dtype=J.dtype)).double() - expected.T).abs().max() <= scale


def compare(A, matrix):
    """All products of an operator are those of a dense matrix of the same dtype."""
    m, n = matrix.shape
    assert A.shape == (m, n)
    assert A.dtype == matrix.dtype
    torch.testing.assert_close(A @ torch.eye(n, dtype=matrix.dtype), matrix)
    torch.testing.assert_close(A.T @ torch.eye(m, dtype=matrix.dtype), matrix.T)


def in_double(fn):
    """A copy of a network in float64; other functions take what they are given."""
    return copy.deepcopy(fn).double() if isinstance(fn, nn.Module) else fn


class Fn(nn.Module):
    """A function of x and of layers, as a module that can be copied and converted."""

    def __init__(self, fn, *layers):
        super().__init__()
        self.fn, self.layers = fn, nn.ModuleList(layers)

    def forward(self, x):
        return self.fn(x, *self.layers)
