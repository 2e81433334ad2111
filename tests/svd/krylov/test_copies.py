"""Copies of a value beyond the width of a block are found, or excluded, beside the triplets."""

import pytest
import torch
from support.svd_problems import Diagonal

from jvpsvd.svd.krylov.batch_convergence import BatchConvergence
from jvpsvd.svd.krylov.copies import (
    excludes_copies,
    shows_displacing_value,
    shows_value_beside_sharp_ones,
)
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.multiplicity import least_bound_on_copies, values_lie_close
from jvpsvd.svd.krylov.ritz import ritz_triplets

DTYPES = (torch.float32, torch.float64)


def bases_of(values, width, size, seed=0):
    bases = GolubKahanFactorization(Diagonal(values), block_size=width, seed=seed, capacity=size)
    bases.initialize()
    while bases.size < size:
        bases.expand()
    return bases


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_copies_beyond_the_width_are_found(width, more, dtype):
    values = torch.cat([2 * torch.ones(width + more), torch.linspace(0.9, 0, 500)])
    bases = bases_of(values.to(dtype), width, 12 * width)
    ritz = ritz_triplets(bases, width + more + 1)
    found = int((ritz.s > 1.99).sum())  # rounding may have brought up more than the width
    assert excludes_copies(bases, ritz, 1e-4) is (found == width + more)
    assert found < width + more or not more or dtype == torch.float32


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("copies", [2, 3])
def test_early_those_beside_accurate_triplets_are_found(copies, seed):
    values = torch.cat([torch.tensor([3.0] * copies), torch.linspace(1, 0, 3000)]).double()
    bases = bases_of(values, 2, 26, seed)
    ritz = ritz_triplets(bases, 20)
    assert (ritz.estimates[:2] < 1e-7).all()
    assert (ritz.estimates[4:] > 1e-3).any()
    assert int((ritz.s > 2.9).sum()) == 2
    assert shows_value_beside_sharp_ones(bases, ritz, 1e-4) is (copies == 3)


@pytest.mark.parametrize("copies", [1, 2])
def test_any_value_that_would_displace_others_is_shown(copies):
    values = torch.cat([torch.tensor([3.0] + [2.0] * copies), torch.linspace(0.9, 0, 300)])
    bases = bases_of(values.double(), 1, 60)
    ritz = ritz_triplets(bases, 4)
    found = int((ritz.s > 1.99).sum())
    assert shows_displacing_value(bases, ritz, 1e-2) is (found < 1 + copies)


def test_nothing_is_searched_for_below_the_last_value():
    bases = bases_of(torch.linspace(2, 0, 300).double(), 2, 12)
    ritz = ritz_triplets(bases, 6)
    assert 2 * torch.linalg.vector_norm(ritz.estimates) > ritz.s[0] - ritz.s[-1]
    before = bases.operator.products
    assert not shows_displacing_value(bases, ritz, 1e-2)
    assert bases.operator.products == before


def test_copies_are_excluded_until_a_value_rises():
    values = torch.cat([torch.tensor([3.0, 3.0, 2.0]), torch.linspace(1, 0, 300)]).double()
    bases = bases_of(values, 2, 40)
    ritz = ritz_triplets(bases, 4)
    test = BatchConvergence(1, 4, 1e-4, 2, 2)
    test.check(ritz, bases)
    assert not test.copies_are_excluded(ritz.s)
    test.exclude_copies(ritz.s)
    assert test.copies_are_excluded(ritz.s)
    assert test.copies_are_excluded(ritz.s + 1e-4)
    assert not test.copies_are_excluded(ritz.s + torch.tensor([0, 0, 1e-3, 0]))


VALUES = torch.tensor([4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]).double()


@pytest.mark.parametrize(
    ("k", "width", "bound"),
    [
        (7, 2, 2.0),  # copies of 1 would displace nothing
        (6, 2, 2.0),
        (5, 2, 3.0),
        (7, 1, 2.0),
        (2, 1, 4.0),
        (7, 3, float("inf")),  # no value fills the block
        (3, 5, float("inf")),  # nor can it
    ],
)
def test_the_least_value_whose_copies_displace_others_is_the_bound(k, width, bound):
    s = VALUES[:k]
    found = least_bound_on_copies(s, torch.zeros(k), 1e-6, width, torch.float64)
    assert found == pytest.approx(bound, abs=1e-12)


def test_residuals_lower_the_bound():
    """A value of A (I - V V') is off by twice the norm of all residuals, a copy by its own."""
    residuals = torch.full((7,), 1e-3)
    found = least_bound_on_copies(VALUES, residuals, 1e-6, 2, torch.float64)
    assert found == pytest.approx(2 - 1e-3 - 2e-3 * 7**0.5, abs=1e-6)
    residuals = torch.full((7,), 0.3)
    found = least_bound_on_copies(VALUES, residuals, 0.45, 2, torch.float64)
    assert found == pytest.approx(2.8 - 0.6 * 7**0.5, abs=1e-6)  # a tolerance above the last value


@pytest.mark.parametrize(
    ("values", "tol", "width", "close"),
    [
        ([3.0, 2.0, 1.9995, 1.0], 1e-4, 2, False),
        ([3.0, 2.0, 1.9995, 1.0], 1e-3, 2, True),
        ([3.0, 2.0, 1.9995, 1.0], 1e-3, 1, True),  # as in blocks of two
        ([3.0, 2.0, 1.9995, 1.0], 1e-3, 3, False),
        ([3.0, 2.0, 1.9995, 1.999, 1.0], 1e-3, 3, True),
        ([3.0, 2.0, 2.0], 1e-3, 2, False),  # nothing follows
        ([3.0, 2.0, 2.0, 1.998], 1e-3, 2, False),  # within a tolerance
        ([3.0, 2.0, 2.0, 1.0], 1e-5, 2, False),  # a fine tolerance
        ([3.0], 1e-3, 4, False),
        ([0.0, 0.0, 0.0, 0.0], 1e-3, 2, False),
        ([2.0**-i for i in range(20)], 1e-2, 2, False),  # gaps decrease
        ([1 - i / 300 for i in range(20)], 1e-2, 2, False),
    ],
)
def test_values_lie_close_where_a_gap_of_a_tolerance_follows(values, tol, width, close):
    assert values_lie_close(torch.tensor(values), tol, width) is close
