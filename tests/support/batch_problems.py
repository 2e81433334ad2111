"""Functions at several points, as a batch and one by one."""

import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


class Block(nn.Module):
    """Attention and a gated MLP, each behind a LayerNorm."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.narrow(nn.functional.silu(self.wide(self.norms[1](x))))


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), (5,)


def convnet():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        norm,
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2),
        nn.Flatten(),
    )
    return net, (1, 2, 6, 6)


def transformer():
    return Block(4), (1, 3, 4)


def looks_at_values():
    return (lambda x: x**2 if x.sum() > 0 else 3 * x.flip(0)), (4,)


def other_path_below_zero(x):
    """Recorded as if the sum were positive: a recording cannot read it, and does not raise here."""
    try:
        positive = bool(x.sum() > 0)
    except Exception:
        positive = True
    return x**2 if positive else 3 * x


def cannot_be_batched_twice():
    """Torch's rule for a batch of the backward pass of PReLU is wrong for a batch of batches."""
    return nn.Sequential(nn.Linear(6, 6), nn.PReLU()), (2, 6)


BUILDS = [mlp, convnet, transformer, looks_at_values, cannot_be_batched_twice]


def problem(build, dtype, count=4, **options):
    """Return a batched operator and the operators of its points."""
    torch.manual_seed(0)
    fn, shape = build()
    if isinstance(fn, nn.Module):
        fn = fn.to(dtype).eval()
    X = torch.randn(count, *shape, dtype=dtype)
    J = JacobianOperator(fn, X, batch_dims=1, **options)
    return J, [JacobianOperator(fn, x, derivatives="transforms") for x in X]


def blocks(count, rows, dtype, width=3):
    return torch.randn(count, width, rows, dtype=dtype).mT, torch.randn(rows, width, dtype=dtype)


def check(J, singles):
    """Compare all products of a batch with those of single operators."""
    (count,), (m, n) = J.batch, singles[0].shape
    assert J.shape == (count, m, n) == (len(singles), m, n)
    for rows, many, name in ((n, J.matmat, "matmat"), (m, J.rmatmat, "rmatmat")):
        own, shared = blocks(count, rows, J.dtype)
        tolerance = {"rtol": 0, "atol": TOLERANCE[J.dtype]}
        apart = torch.stack([getattr(A, name)(V) for A, V in zip(singles, own, strict=True)])
        torch.testing.assert_close(many(own), apart, **tolerance)
        torch.testing.assert_close(many(own.contiguous()), apart, **tolerance)
        apart = torch.stack([getattr(A, name)(shared) for A in singles])
        torch.testing.assert_close(many(shared), apart, **tolerance)
        assert many(shared).stride()[-2:] == (1, apart.shape[-2])


def matrices(count, m, n, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, m, n, dtype=dtype, generator=generator)


def split(batch):
    return [MatrixOperator(matrix) for matrix in batch]
