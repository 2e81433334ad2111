"""A network of which most singular values are sampled, although all are known here."""

import torch
from torch import nn

SIZE, ABOVE_ONE = 500, 250
# So many that svds does not compute the Jacobian as a whole.
_OUTPUTS = 5000


def sampled_network():
    """A linear network: its Jacobian, and so what a random start samples, is that of every input.

    Two groups of values are told apart after few steps, so that sampling is all that counts are
    off by.

    Returns:
        The network, and its participation ratio. `ABOVE_ONE` of `SIZE` values are ≥ 1.
    """
    generator = torch.Generator().manual_seed(0)
    groups = torch.linspace(2.2, 1.8, ABOVE_ONE - 3), torch.linspace(0.3, 0.1, SIZE - ABOVE_ONE)
    s = torch.cat([torch.tensor([8.0, 7.0, 6.0]), *groups])
    U, V = (
        torch.linalg.qr(torch.randn(rows, SIZE, generator=generator)).Q for rows in (_OUTPUTS, SIZE)
    )
    net = nn.Sequential(nn.Linear(SIZE, _OUTPUTS, bias=False)).eval().requires_grad_(False)
    net[0].weight.copy_((U * s) @ V)
    return net, float(s.square().sum() ** 2 / s.pow(4).sum())


def root_mean_square(numbers):
    """About 1, of errors in units of their standard error."""
    return float(torch.tensor(numbers).square().mean().sqrt())
