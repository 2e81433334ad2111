import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jvpsvd import svds
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    count_above,
    dimensions,
    entropy_dimension,
    largest_gap,
    participation_ratio,
    stable_rank,
)

QUICK = settings(max_examples=150, deadline=None, derandomize=True)
ENERGY_WEIGHTED = (stable_rank, participation_ratio, entropy_dimension)

spectra = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


@pytest.mark.parametrize("d", [1, 3, 7])
def test_d_equal_values_and_zeros_have_dimension_d_by_every_estimate(d):
    found = dimensions(torch.cat([torch.full((d,), 2.0), torch.zeros(9 - d)]).double())
    assert int(found.count) == int(found.gap) == d
    for estimate in (found.stable_rank, found.participation, found.entropy):
        assert float(estimate) == pytest.approx(d, rel=1e-12)
    assert not found.count_cut
    assert found.energy is None


def test_a_geometric_spectrum_has_the_sums_of_its_series():
    """s² = qⁱ: Σp² = (1 − q)/(1 + q) and −Σ p log p = −log(1 − q) − q log q / (1 − q)."""
    q = 0.8
    s = q ** (torch.arange(400, dtype=torch.float64) / 2)
    assert float(stable_rank(s)) == pytest.approx(1 / (1 - q))
    assert float(participation_ratio(s)) == pytest.approx((1 + q) / (1 - q))
    entropy = -math.log(1 - q) - q * math.log(q) / (1 - q)
    assert float(entropy_dimension(s)) == pytest.approx(math.exp(entropy))


@QUICK
@given(spectra, st.sampled_from([1e-200, 1e-3, 7.0, 1e200]))
def test_scaling_changes_the_count_alone(s, scale):
    one, other = dimensions(s), dimensions(scale * s)
    if not ties(s):
        assert int(other.gap) == int(one.gap)
    for name in ("gap_ratio", "participation", "entropy", "stable_rank"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-9, atol=0)
    assert int(one.count) == sum(value >= 1 for value in s.tolist())
    assert int(other.count) == sum(scale * value >= 1 for value in s.tolist())


def ties(s):
    """Return whether there is no gap, or two equal ones, up to rounding."""
    drops = torch.cat([s[:-1] / s[1:], torch.ones(1)]).sort(descending=True)[0]
    return float(drops[0] / drops[1]) < 1 + 1e-9


@QUICK
@given(spectra)
def test_the_estimates_are_ordered_as_renyi_entropies(s):
    bounds = [1.0, *(float(f(s)) for f in ENERGY_WEIGHTED), float(len(s))]
    for low, high in itertools.pairwise(bounds):
        assert low <= high * (1 + 1e-12)


@QUICK
@given(spectra, st.integers(1, 19))
def test_a_cut_spectrum_gives_lower_bounds_and_fro2_better_ones(s, k):
    cut, fro2 = s[: min(k, len(s))], float((s**2).sum())
    for estimate in ENERGY_WEIGHTED:
        alone, helped, true = (
            float(x) for x in (estimate(cut), estimate(cut, fro2=fro2), estimate(s))
        )
        assert alone <= helped * (1 + 1e-9)
        assert helped <= true * (1 + 1e-9)
    assert float(stable_rank(cut, fro2=fro2)) == pytest.approx(float(stable_rank(s)))


@pytest.mark.parametrize("estimate", [participation_ratio, entropy_dimension])
def test_fro2_makes_the_bound_exact_where_the_rest_equals_the_last_value(estimate):
    s = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert float(estimate(s[:2], fro2=13.0)) == pytest.approx(float(estimate(s)))
    assert float(estimate(s[:2])) < 0.9 * float(estimate(s))


def test_an_estimated_fro2_below_the_energy_that_is_there_changes_nothing():
    s = torch.tensor([2.0, 1.0])
    found = dimensions(s, fro2=4.9)
    assert float(found.energy) == 1.0
    assert float(found.participation) == float(participation_ratio(s))
    assert float(dimensions(s, fro2=10.0).energy) == pytest.approx(0.5)


def test_nothing_follows_a_value_of_0():
    found = dimensions([2.0, 2.0, 0.0], fro2=9.0)
    assert float(found.participation) == float(found.entropy) == pytest.approx(2)


def test_fro2_is_one_number_or_one_for_each_photo():
    s = torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    ranks = stable_rank(s, fro2=torch.tensor([16.0, 3.0]))
    assert ranks.tolist() == [4.0, 3.0]
    assert stable_rank(s, fro2=16.0).tolist() == [4.0, 16.0]


def test_the_gap_is_sought_in_the_window():
    s = [100.0, 10.0, 9.0, 8.0, 1.0, 0.9]
    assert int(largest_gap(s).dimension) == 1
    inner = largest_gap(s, window=(2, 5))
    assert int(inner.dimension) == 4
    assert float(inner.ratio) == pytest.approx(8)
    assert int(largest_gap(s, window=(2, 3)).dimension) == 3
    assert int(largest_gap(s, window=(5, 5)).dimension) == 5


def test_rounding_errors_have_no_gap():
    s = [2.0, 1.9, 1e-17, 1e-30, 0.0]
    gap = largest_gap(s)
    assert int(gap.dimension) == 2
    assert float(gap.ratio) == pytest.approx(0.95 / np.finfo(np.float64).eps)
    rough = largest_gap([1.0, 1e-2, 1e-7], floor=1e-3)
    assert (int(rough.dimension), float(rough.ratio)) == (1, pytest.approx(100))
    assert int(largest_gap([1.0, 1e-2, 1e-7]).dimension) == 2


def test_the_floor_is_that_of_the_dtype_or_of_the_solve():
    s = torch.tensor([1.0, 1e-2, 1e-12])
    assert float(largest_gap(s).ratio) == pytest.approx(1e-2 / 2.0**-23)
    # Down from 1e-2 to 1e-5 by a tolerance of 1e-3 is not seen: both lie under or at the floor.
    matrix = torch.diag(torch.tensor([1.0, 1e-2, 1e-5, 1e-9], dtype=torch.float64))
    assert float(largest_gap(svds(matrix, 3, tol=1e-3)).ratio) == pytest.approx(100)
    assert int(largest_gap(svds(matrix, 3, tol=1e-9)).dimension) == 2


def test_equal_values_have_no_gap():
    gap = largest_gap(torch.ones(2, 5))
    assert gap.dimension.tolist() == [0, 0]
    assert gap.ratio.tolist() == [1.0, 1.0]


def test_many_photos_are_each_of_them():
    s = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)).sort(descending=True)[0]
    together = dimensions(s, threshold=0.5, fro2=50.0)
    for i, one in enumerate(s):
        alone = dimensions(one, threshold=0.5, fro2=50.0)
        for name, value in vars(together).items():
            assert value.shape == (6,)
            torch.testing.assert_close(value[i], getattr(alone, name))


def test_results_lists_and_arrays_are_the_same_spectrum():
    result = svds(torch.diag(torch.tensor([3.0, 2.0, 0.1])), 3)
    values = result.s.tolist()
    backwards = np.array(values[::-1], dtype=np.float32)[::-1]
    backwards.flags.writeable = False
    for given_as in (values, tuple(values), np.array(values), backwards, result.s, result):
        assert int(count_above(given_as)) == 2
        assert float(participation_ratio(given_as)) == pytest.approx(
            float(participation_ratio(values)), rel=1e-6
        )
    batch = svds(torch.stack([torch.eye(3), torch.diag(torch.tensor([2.0, 0.0, 0.0]))]), 3)
    assert count_above(batch).tolist() == [3, 1]


def test_the_count_of_a_cut_spectrum_says_so():
    found = dimensions([[3.0, 2.0], [3.0, 0.5]])
    assert found.count_cut.tolist() == [True, False]


def test_zeros_count_0_but_have_no_other_dimension():
    assert count_above(torch.zeros(2, 3)).tolist() == [0, 0]
    for estimate in (*ENERGY_WEIGHTED, largest_gap, dimensions):
        with pytest.raises(ArgumentError, match="all singular values of photo 1 are 0"):
            estimate(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("estimate", [*ENERGY_WEIGHTED, count_above, largest_gap, dimensions])
@pytest.mark.parametrize(
    ("s", "message"),
    [
        ([1.0, math.nan], r"s\[1\] is nan"),
        ([[3.0, 1.0], [math.inf, 1.0]], r"s\[1, 0\] is inf"),
        ([1.0, -0.1], r"s\[1\] is negative"),
        ([3.0, 1.0, 2.0], r"s rises after s\[1\]"),
        ([], "s is empty"),
        (torch.ones(2, 2, 2), r"s has shape \(2, 2, 2\)"),
        (2.0, r"s has shape \(\)"),
        (torch.ones(2, dtype=torch.complex64), "give real numbers"),
        ([True, False], "give real numbers"),
        (["a", "b"], "no array of real numbers"),
        ([[1.0], [1.0, 0.5]], "no array of real numbers"),
    ],
)
def test_what_is_no_spectrum_is_refused(estimate, s, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        estimate(s)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: count_above(s, 0), "threshold=0 must be a positive"),
        (lambda s: count_above(s, math.nan), "threshold=nan must be a positive"),
        (lambda s: largest_gap(s, window=(0, 2)), r"window\[0\]=0"),
        (lambda s: largest_gap(s, window=(2, 3)), r"window\[1\]=3"),
        (lambda s: largest_gap(s, window=(2, 1)), r"window\[1\]=1"),
        (lambda s: largest_gap(s, floor=0.0), "floor=0.0"),
        (lambda s: largest_gap(s[:1]), "one singular value has no gap"),
        (lambda s: stable_rank(s, fro2=3.7), "fro2 is far below"),
        (lambda s: stable_rank(s, fro2=math.nan), "fro2 is nan"),
        (lambda s: stable_rank(s, fro2=torch.ones(2)), r"fro2 has shape \(2,\)"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(torch.tensor([3.0, 2.0, 1.0]))


@pytest.mark.parametrize("window", [3, (1,), (1, 2, 3), "12"])
def test_a_window_that_is_no_pair_is_refused(window):
    with pytest.raises(ArgumentError, match="smallest, largest"):
        largest_gap([3.0, 2.0, 1.0], window=window)
