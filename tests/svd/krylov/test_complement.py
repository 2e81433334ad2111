"""One random vector shows, or excludes, a value that the triplets found so far do not hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.svd_problems import Diagonal

from jvpsvd import MatrixOperator
from jvpsvd.errors import NonFiniteError
from jvpsvd.svd.krylov.complement import has_value_above

DTYPES = (torch.float32, torch.float64)


def unit(column, dtype=torch.float64):
    return (column / torch.linalg.vector_norm(column)).to(dtype)[:, None]


def random_start(seed, size, found=0):
    """Return a random unit vector orthogonal to the first unit vectors."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()
    start[:found] = 0
    return unit(start)


def random_square(size):
    return torch.randn(size, size, generator=torch.Generator().manual_seed(9)).double()


def first_unit_vectors(count, size, dtype=torch.float64):
    return torch.eye(size, dtype=dtype)[:, :count]


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_is_shown_or_excluded(dtype, scale):
    values = scale * torch.cat([torch.tensor([3.0, 2.0]), torch.linspace(1.9, 0, 298)])
    A, start = Diagonal(values.to(dtype)), random_start(0, 300, 2).to(dtype)
    V = first_unit_vectors(2, 300, dtype)
    assert has_value_above(1.95 * scale, A, V, start, steps=200) is False
    assert has_value_above(1.89 * scale, A, V, start, steps=200) is True
    assert has_value_above(1.95 * scale, A, V[:, :1], start, steps=200) is False
    start = random_start(0, 300, 1).to(dtype)
    assert has_value_above(1.95 * scale, A, V[:, :1], start, steps=200) is True


@pytest.mark.parametrize("share", [1e-3, 1e-5, 1e-7])
def test_a_small_share_suffices(share):
    """The chance of 1e-6 is that of a share below 7e-8 in 300 dimensions."""
    values = torch.cat([torch.tensor([2.0]), torch.linspace(1.9, 0, 299)]).double()
    start = random_start(1, 300, 1)
    start[0] = share
    V = torch.zeros(300, 0, dtype=torch.float64)
    assert has_value_above(1.99, Diagonal(values), V, start, steps=300) is True
    start[0] = 0
    assert has_value_above(1.99, Diagonal(values), V, start, steps=300) is False


@given(
    st.lists(st.floats(0, 1), min_size=12, max_size=40),
    st.integers(1, 4),
    st.floats(0.05, 1.0),
    st.integers(0, 1000),
)
def test_what_is_denied_is_not_there_and_what_is_claimed_is(values, found, bound, seed):
    s = torch.tensor(values, dtype=torch.float64).sort(descending=True).values
    A, start = Diagonal(s), random_start(seed, len(s), found)
    V = first_unit_vectors(found, len(s))
    answer = has_value_above(bound, A, V, start, steps=60)
    if answer is not None:
        rounding = 1e-12 if answer else -1e-12
        assert answer == bool(s[found] + rounding >= bound)


def test_it_gives_up_where_the_bound_is_too_near():
    values = torch.linspace(2, 1, 400, dtype=torch.float64)
    A, start = Diagonal(values), random_start(2, 400)
    V = torch.zeros(400, 0, dtype=torch.float64)
    assert has_value_above(2.0 + 1e-9, A, V, start, steps=60, halfway=0.35) is None
    assert A.products.forward < 60  # half of the steps show it
    assert A.products.forward == A.products.reverse


def test_it_does_not_give_up_where_a_value_is_about_to_show():
    """A Ritz value near the bound makes the numbers fall, at half of the steps in many cases."""
    values = torch.cat([torch.tensor([1.0]), torch.linspace(0.985, 0.3, 299)]).double()
    A, V = Diagonal(values), torch.zeros(300, 0, dtype=torch.float64)
    starts = [random_start(seed, 300) for seed in range(60)]
    shown = [has_value_above(0.999, A, V, start, steps=20) for start in starts]
    assert shown.count(True) >= 55
    assert shown.count(False) == 0


def test_v_is_projected_out_twice_where_products_lie_in_it():
    """A product that is mostly within V keeps rounding of V after one projection."""
    values = torch.cat([torch.tensor([1e10]), torch.linspace(2, 0, 199)]).double()
    Q = torch.linalg.qr(random_square(200)).Q
    A, V = MatrixOperator((Q * values) @ Q.T), Q[:, :1].contiguous()
    start = random_start(4, 200)
    start = unit((start - V @ (V.T @ start))[:, 0])
    answers = [has_value_above(bound, A, V, start, steps=150) for bound in (2.2, 1.9)]
    assert answers == [False, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_operator_without_values_beside_the_triplets_has_none(dtype):
    values = torch.zeros(50, dtype=dtype)
    values[0] = 1
    A, V = Diagonal(values), first_unit_vectors(1, 50, dtype)
    assert has_value_above(1e-3, A, V, random_start(3, 50, 1).to(dtype), steps=5) is False


def test_a_last_dimension_is_enough():
    A, V = Diagonal(torch.tensor([3.0, 2.0, 1.0]).double()), first_unit_vectors(2, 3)
    start = unit(torch.tensor([0.0, 0.0, 1.0]))
    assert [has_value_above(bound, A, V, start, steps=5) for bound in (0.5, 1.5)] == [True, False]


def test_products_that_are_not_numbers_are_refused():
    A = Diagonal(torch.full((9,), torch.nan))
    with pytest.raises(NonFiniteError, match="step 1 beside the triplets"):
        has_value_above(1.0, A, torch.zeros(9, 0), random_start(0, 9).float(), steps=5)
