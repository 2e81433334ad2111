"""Matrices with known singular values, and what may be claimed about a result for them."""

import math
from functools import lru_cache

import torch

from jvpsvd import LinearOperator
from jvpsvd.svd import ProblemSize, check_request, plan
from jvpsvd.svd.memory import Footprint
from jvpsvd.svd.monitor import Monitor


@lru_cache(maxsize=8)
def orthonormal(rows, cols, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, cols, dtype=torch.float64, generator=generator))[0]


def with_values(s, m, n, seed=0):
    """Return an (m, n) float64 matrix with singular values s and random singular vectors."""
    p = min(m, n)
    assert s.shape == (p,)
    return (orthonormal(m, p, 2 * seed) * s.double()) @ orthonormal(n, p, 2 * seed + 1).T


def planned(
    shape, itemsize, k, *, cost=None, batch=None, chunk=None, device=None, saves=True, **options
):
    """Return the plan for an operator of this size that does not exist."""
    dtype = {4: torch.float32, 8: torch.float64}[itemsize]
    size = ProblemSize(tuple(shape), dtype, device, batch, chunk)
    return plan(size, check_request(size, k, **options), cost=cost, wide_products_save=saves)


def solved_by(solver, A, k, tol, *, seed=0, vectors=True, show=None):
    """Return the triplets that a solver finds of A (m, n), m ≥ n."""
    size = ProblemSize.of(A)
    request = check_request(size, k, tol=tol, seed=seed, vectors=vectors)
    return solver.solve(A, request, Monitor(show, lambda: A.products))


def line(high, low, count):
    return torch.linspace(high, low, count, dtype=torch.float64)


def repeat(value, count):
    return torch.full((count,), float(value), dtype=torch.float64)


def spectrum(name, p):
    """Return p singular values, descending, that are hard in a way the name says."""
    half, third = p // 2, p // 3
    made = {
        "equal": lambda: repeat(1, p),
        "cluster then line": lambda: torch.cat([repeat(1, third), line(0.9, 0.1, p - third)]),
        "cluster in the middle": lambda: torch.cat(
            [line(10, 5, p // 8), repeat(1, third), line(0.99, 0.5, p - p // 8 - third)]
        ),
        "two clusters": lambda: torch.cat([repeat(2, half), repeat(1, p - half)]),
        "low rank": lambda: torch.cat([line(5, 1, max(1, p // 4)), repeat(0, p - max(1, p // 4))]),
        "zero": lambda: repeat(0, p),
        "one huge": lambda: torch.cat([repeat(1e6, 1), line(1, 0.1, p - 1)]),
        "geometric": lambda: torch.logspace(0, -8, p, dtype=torch.float64),
        "clusters": lambda: torch.cat(
            [repeat(c, 1 + p // 5) + line(1e-9, 0, 1 + p // 5) for c in (5, 4, 3, 2, 1)]
        )[:p],
        "line": lambda: line(1, 0, p),
        "harmonic": lambda: 1 / torch.arange(1, p + 1, dtype=torch.float64),
        "cliff": lambda: torch.cat([repeat(1, half), repeat(1e-3, p - half)]),
        "one above a floor": lambda: torch.cat([repeat(1, 1), repeat(0.999, p - 1)]),
    }
    return made[name]()


SPECTRA = (
    "equal",
    "cluster then line",
    "cluster in the middle",
    "two clusters",
    "low rank",
    "zero",
    "one huge",
    "geometric",
    "clusters",
    "line",
    "harmonic",
    "cliff",
    "one above a floor",
)
TOL = {torch.float32: 1e-5, torch.float64: 1e-9}


def memory_for(columns, shape, k, itemsize, block_size=8):
    """Return the bytes with which Golub–Kahan has bases of so many columns."""
    size = Footprint(max(shape), min(shape), k, itemsize, 1, True)
    return size.workspace(block_size) + columns * size.column


class Diagonal(LinearOperator):
    """diag(d): as hard as any matrix with these values, since the solver starts at random."""

    def __init__(self, d):
        super().__init__((d.shape[0], d.shape[0]), d.dtype)
        self.d = d

    def _matmat(self, V):
        return self.d[:, None] * V

    def _rmatmat(self, U):
        return self.d[:, None] * U


def rounding(truth, dtype, shape):
    return 5 * torch.finfo(dtype).eps * float(truth[0]) * math.sqrt(max(shape))


def assert_truthful(result, truth, shape, rounding_factor=1):
    """No value is above the true one of its index, and no converged one is elsewhere.

    A converged value is within its residual of the true value *of the same index*, so nothing is
    missing before it; under tol · s₁, where residuals resolve no order, within tol · s₁. Rounding
    adds up over many restarts, for which `rounding_factor` allows.
    """
    s, truth = result.s.double(), truth.double()[: result.s.shape[0]]
    slack = rounding_factor * rounding(truth, result.s.dtype, shape)
    assert (s[:-1] >= s[1:]).all()
    assert (s <= truth + slack).all(), "a value that is not there"
    near = result.tol * float(truth[0])
    allowed = result.residuals.double() + slack
    allowed = torch.where(truth <= near, allowed.clamp_min(near), allowed)
    wrong = ((s - truth).abs() > allowed) & result.converged
    assert not wrong.any(), f"converged and wrong: {wrong.nonzero().flatten().tolist()}"
