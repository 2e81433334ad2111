"""Timings decide between methods where the numbers of products do not."""

import dataclasses
import re
import time

import pytest
import torch
from support.svd_problems import line, planned

from jvpsvd import LinearOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.svd import ProblemSize, parse_memory
from jvpsvd.svd.cost import ProductCost, exact_seconds, golub_kahan_seconds, measured_cost
from jvpsvd.svd.memory import Footprint

# 1000 products against about 2 · 400: within a factor of two.
UNDECIDED = ((4000, 1000), 4, 200)


def undecided(**options):
    shape, itemsize, k = UNDECIDED
    return planned(shape, itemsize, k, **{"memory": "8GiB", **options})


@pytest.mark.parametrize("width", [1, 4, 16])
@pytest.mark.parametrize("shape", [(1200, 1100), (1100, 1200), (3, 1200, 1100)])
def test_measuring_takes_two_blocks_and_one_in_each_direction(width, shape):
    A = MatrixOperator(torch.ones(shape))
    cost = measured_cost(A, width)
    assert cost.forward > 0
    assert cost.reverse > 0
    taken = (2 * width + 1) * (shape[0] if len(shape) == 3 else 1)
    assert A.products == (taken, taken)


def test_measuring_costs_little_compared_with_the_products_of_the_shorter_side():
    A = MatrixOperator(torch.ones(900, 320))
    measured_cost(A, 128)
    assert A.products == (11, 11)


def test_near_choices_are_undecided_until_measured():
    assert undecided().undecided
    assert undecided().predicted_seconds is None
    assert undecided(cost=ProductCost(1e-3, 1e-3)).predicted_seconds > 0


@pytest.mark.parametrize(
    ("shape", "k", "memory"),
    [((4000, 1000), 20, "8GiB"), ((4000, 1000), 20, None), ((300, 200), 40, "8GiB")],
)
def test_clear_choices_are_not_measured(shape, k, memory):
    assert not planned(shape, 4, k, memory=memory).undecided


def test_given_methods_are_not_timed():
    assert not undecided(method="exact").undecided
    assert not undecided(method="golub-kahan").undecided


def test_what_does_not_fit_is_not_measured():
    chosen = planned((4000, 1000), 4, 60, memory="20MiB")
    assert chosen.method == "golub-kahan"
    assert not chosen.undecided


@pytest.mark.parametrize("shape", [(4000, 1000), (1000, 4000)])
def test_the_cost_flips_the_choice_both_ways(shape):
    """The exact method takes products of one direction only, so expensive ones of the other favour
    it."""
    cheap, dear = 1e-6, 1.0
    one, other = ProductCost(cheap, dear), ProductCost(dear, cheap)
    if shape[0] < shape[1]:
        one, other = other, one
    assert planned(shape, 4, 200, memory="8GiB", cost=one).method == "exact"
    assert planned(shape, 4, 200, memory="8GiB", cost=other).method == "golub-kahan"
    exact, iterated = (planned(shape, 4, 200, memory="8GiB", cost=c).reason for c in (one, other))
    number = r"[0-9.]+ s"
    rows = "1000 products of the shorter side"
    assert re.fullmatch(rf"{rows}, {number} against about \d+, {number}", exact)
    assert re.fullmatch(rf"about \d+ products, {number} against 1000, {number}", iterated)
    for reason in (exact, iterated):  # that of the method that runs stands first, and is smaller
        first, second = (float(time) for time in re.findall(r"([0-9.]+) s\b", reason))
        assert first < second


@pytest.mark.parametrize(("reverse", "method"), [(0.7, "exact"), (0.1, "golub-kahan")])
def test_a_small_difference_that_was_measured_changes_no_choice(reverse, method):
    """The number of products favours the exact method here, a cheap reverse product the other
    one."""
    shape, itemsize, k = (4000, 1000), 4, 320  # 1000 products against 1042
    assert planned(shape, itemsize, k, memory="8GiB").method == "exact"
    cost = ProductCost(1.0, reverse)
    assert planned(shape, itemsize, k, memory="8GiB", cost=cost).method == method


def test_the_cost_changes_no_clear_choice():
    cost = ProductCost(1e-9, 1.0)
    assert planned((4000, 1000), 4, 20, memory="8GiB", cost=cost).method == "golub-kahan"


def test_predicted_seconds_are_those_of_the_method():
    cost = ProductCost(0.5, 0.25)
    exact, iterated = (undecided(method=m, cost=cost) for m in ("exact", "golub-kahan"))
    size, columns = ProblemSize((4000, 1000), torch.float32), iterated.predicted_products // 2
    assert exact.predicted_seconds == exact_seconds(cost, size, 200)
    width = iterated.block_size
    assert iterated.predicted_seconds == golub_kahan_seconds(cost, size, 200, columns, width)
    assert exact.predicted_seconds >= 500
    assert iterated.predicted_seconds >= 0.75 * columns


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize(("k", "method"), [(100, "golub-kahan"), (300, "exact")])
def test_steps_and_projected_problems_count_where_products_are_cheap(itemsize, k, method):
    """Products with a matrix in memory take less time than the rest of a solve."""
    cost = ProductCost(5e-5, 6e-5)
    assert planned((1000, 1000), itemsize, k, memory="8GiB", cost=cost).method == method


def test_dense_work_is_that_of_every_matrix_of_a_batch():
    cost, k = ProductCost(0.0, 0.0), 100
    one, many = (ProblemSize((3000, 1000), torch.float32, batch=b) for b in (None, 8))
    assert exact_seconds(cost, many, k) == pytest.approx(8 * exact_seconds(cost, one, k))
    together, alone = (golub_kahan_seconds(cost, size, k, 230, 8) for size in (many, one))
    assert alone < together < 8 * alone  # they share their steps


def test_a_solve_measures_only_where_undecided():
    A = MatrixOperator(torch.randn(1200, 600, generator=torch.Generator().manual_seed(0)))
    assert planned((1200, 600), 4, 50, tol=1e-2).undecided
    result = svds(A, 50, tol=1e-2)
    assert result.plan.undecided
    assert result.plan.predicted_seconds > 0
    assert result.products == A.products  # including those that were timed
    assert svds(A, 5, tol=1e-2).plan.predicted_seconds is None


@pytest.mark.parametrize(
    ("k", "chunk", "expected"),
    [
        *((20, 1, 1), (20, 8, 2), (100, 8, 4), (100, 3, 3)),
        *((200, None, 16), (200, 1, 1), (200, 3, 3), (200, 9, 8), (200, 500, 16)),
        *((500, 1, 2), (500, 4, 8), (500, 8, 16), (500, 500, 16)),
    ],
)
def test_the_chunk_bounds_the_block_to_one_chunk_and_to_two_for_many_triplets(k, chunk, expected):
    chosen = planned((5000, 5000), 4, k, method="golub-kahan", chunk=chunk)
    assert chosen.block_size == expected


def test_a_given_block_size_is_not_bounded_by_the_chunk():
    chosen = planned((5000, 5000), 4, 200, method="golub-kahan", chunk=2, block_size=24)
    assert chosen.block_size == 24


def test_values_alone_fit_where_vectors_do_not():
    shape, k = (1_000_000, 500), 50
    size = Footprint(1_000_000, 500, k, 4, 1, False)
    memory = size.workspace(8) + 200 * size.values_column
    with pytest.raises(ArgumentError, match="raise memory"):
        planned(shape, 4, k, memory=memory, method="golub-kahan", block_size=8)
    chosen = planned(shape, 4, k, memory=memory, method="golub-kahan", block_size=8, vectors=False)
    assert chosen.solver.values_size == 200
    assert chosen.max_size < k
    assert chosen.predicted_bytes <= memory


@pytest.mark.parametrize("memory", ["60MiB", "100MiB", "1GiB", "8GiB"])
@pytest.mark.parametrize("method", ["auto", "golub-kahan", "exact", "randomized"])
@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("vectors", [True, False])
def test_predictions_never_exceed_the_budget(memory, method, batch, vectors):
    options = {
        "memory": memory,
        "method": method,
        "batch": batch,
        "vectors": vectors,
    }
    try:
        chosen = planned((9000, 2000), 4, 30, **options)
    except ArgumentError as refused:
        assert "raise memory" in str(refused)  # noqa: PT017
        return
    assert chosen.predicted_bytes <= parse_memory(memory)
    assert chosen.block_size >= 1


def test_a_batch_has_less_memory_for_each_matrix():
    one, four = (
        planned((9000, 2000), 4, 30, memory="80MiB", method="golub-kahan", batch=b)
        for b in (None, 4)
    )
    assert four.max_size < one.max_size / 3.9


class Tall(LinearOperator):
    """A diagonal matrix repeated along its rows: U costs far more than V."""

    def __init__(self, d, repeats):
        super().__init__((d.shape[0] * repeats, d.shape[0]), d.dtype)
        self.d, self.repeats = d / repeats**0.5, repeats

    def _matmat(self, V):
        return (V.mT * self.d).repeat(1, self.repeats).mT

    def _rmatmat(self, U):
        return (U.mT.unflatten(1, (self.repeats, -1)).sum(1) * self.d).mT


def tall_values_only(repeats, k):
    """An operator of rank 10, and options with memory for 40 columns where U is not kept."""
    truth = torch.cat([line(2, 1, 10), torch.zeros(490, dtype=torch.float64)])
    size = Footprint(500 * repeats, 500, k, 8, 1, False)
    memory = size.workspace(8) + 40 * size.values_column
    options = {"memory": memory, "method": "golub-kahan", "vectors": False, "block_size": 8}
    return Tall(truth, repeats), options


def test_values_alone_that_lose_rank_where_the_left_basis_does_not_fit_say_what_to_do():
    k = 20
    A, options = tall_values_only(40, k)
    chosen = planned(A.shape, 8, k, **options)
    assert chosen.solver.values_size >= k + 16
    assert chosen.max_size < k
    with pytest.raises(ArgumentError, match="fewer than k=20; raise memory"):
        svds(A, k, **options)


def test_memory_for_no_left_vector_is_not_memory_for_all():
    k = 20
    A, options = tall_values_only(200, k)
    assert planned(A.shape, 8, k, **options).max_size == 0
    with pytest.raises(ArgumentError):
        svds(A, k, **options)


def test_costs_are_plain_numbers():
    assert dataclasses.astuple(ProductCost(1.0, 2.0)) == (1.0, 2.0)


class Waiting(LinearOperator):
    """diag(1, 1/2, 1/3, …) on top of zeros; a product sleeps for some time per call and per
    vector."""

    def __init__(self, m, n, call, vector):
        super().__init__((m, n), torch.float64)
        self.call, self.vector = call, vector

    def _matmat(self, V):
        time.sleep(self.call + self.vector * V.shape[1])
        values = 1 / torch.arange(1, len(V) + 1, dtype=V.dtype)
        return torch.cat([values[:, None] * V, V.new_zeros(self.shape[0] - len(V), V.shape[1])])

    def _rmatmat(self, U):
        n = self.shape[1]
        return U[:n] / torch.arange(1, n + 1, dtype=U.dtype)[:, None]


@pytest.mark.parametrize(
    ("call", "vector", "m", "k", "block_size", "expected"),
    [
        (0.0, 0.02, 1 << 18, 3, None, 2),
        (0.25, 0.0, 1 << 18, 3, None, 8),
        (0.0, 0.02, 1 << 18, 3, 5, 5),
        (0.0, 0.0, 1 << 10, 3, None, 8),
        (0.0, 0.0, 1 << 18, 33, None, 8),
    ],
    ids=["vector by vector", "all at once", "as asked", "short", "many triplets"],
)
def test_blocks_are_narrow_where_wide_products_save_nothing(
    call, vector, m, k, block_size, expected
):
    result = svds(Waiting(m, 1000, call, vector), k, tol=1e-6, block_size=block_size)
    assert result.plan.block_size == expected
    assert result.converged.all()
    torch.testing.assert_close(result.s, 1 / torch.arange(1, k + 1, dtype=result.s.dtype))
    timed = block_size is None and k <= 32 and m >= 1 << 18
    assert result.products.forward == result.products.reverse + 4 * timed
