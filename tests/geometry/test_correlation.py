import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    average_tree,
    bootstrap_interval,
    mantel,
    matrix_correlation,
    row_distances,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
FUNCTIONS = (matrix_correlation, mantel, bootstrap_interval)


def distances(classes, seed, dimension=3):
    generator = torch.Generator().manual_seed(seed)
    return row_distances(torch.randn(classes, dimension, generator=generator, dtype=torch.float64))


def permuted(matrix, seed=0):
    order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(seed))
    return matrix[order][:, order]


def pairs(matrix):
    return matrix.numpy()[np.triu_indices(len(matrix), 1)]


def planted(depth, noise, seed):
    """Leaves of a binary tree: edges of the paths between them, and noisy points that follow it."""
    count = 2**depth
    generator = torch.Generator().manual_seed(seed)
    points = torch.zeros(count, 20, dtype=torch.float64)
    path = torch.zeros(count, count, dtype=torch.float64)
    leaf = torch.arange(count)
    for level in range(depth):
        branch = leaf >> (depth - 1 - level)
        steps = torch.randn(2 ** (level + 1), 20, generator=generator, dtype=torch.float64)
        points += steps[branch]
        path += 2 * (branch[:, None] != branch).double()
    points += noise * torch.randn(count, 20, generator=generator, dtype=torch.float64)
    return path, row_distances(points)


# Correlation


@QUICK
@given(st.integers(4, 12), st.integers(0, 99), st.booleans())
def test_correlations_are_scipy_s(classes, seed, tied):
    first, second = distances(classes, seed), distances(classes, seed + 1)
    if tied:
        first, second = first.round(), second.round()
    if len(set(pairs(first))) < 2 or len(set(pairs(second))) < 2:
        return
    for kind, theirs in (("spearman", scipy.stats.spearmanr), ("pearson", scipy.stats.pearsonr)):
        expected = theirs(pairs(first), pairs(second)).statistic
        assert matrix_correlation(first, second, kind=kind) == pytest.approx(expected, abs=1e-12)


def test_spearman_sees_only_the_order():
    first, second = distances(8, 0), distances(8, 1)
    found = matrix_correlation(first, second)
    assert matrix_correlation(first**3 + 7, second.exp() * 1e9) == pytest.approx(found)
    assert matrix_correlation(1 - first, second) == pytest.approx(-found)
    assert matrix_correlation(first, first) == pytest.approx(1)


def test_the_diagonal_and_the_order_of_classes_do_not_matter():
    first, second = distances(9, 0), distances(9, 1)
    found = matrix_correlation(first, second)
    assert matrix_correlation(permuted(first), permuted(second)) == pytest.approx(found)
    assert matrix_correlation(first + torch.eye(9), second.numpy()) == found


def test_the_partial_correlation_is_that_of_residuals():
    x, y, z = (distances(10, seed) for seed in range(3))
    x, y = x + z, y + 2 * z

    def residual(matrix):
        values, by = pairs(matrix), np.stack([np.ones(45), pairs(z)], 1)
        return values - by @ np.linalg.lstsq(by, values, rcond=None)[0]

    expected = scipy.stats.pearsonr(residual(x), residual(y)).statistic
    found = matrix_correlation(x, y, control=z, kind="pearson")
    assert found == pytest.approx(expected)
    assert found < matrix_correlation(x, y, kind="pearson")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": torch.ones(5, 5)}, "all pairs of second are equal"),
        ({"second": distances(6, 0)}, "second is of 6 classes and first of 5"),
        ({"first": torch.ones(2, 2)}, "first has shape"),
        ({"first": torch.ones(5)}, "first has shape"),
        ({"first": torch.ones(5, 5).triu()}, "first is not symmetric"),
        ({"first": torch.full((5, 5), math.nan)}, "is nan"),
        ({"control": distances(5, 0)}, "control is the first or the second"),
        ({"control": 2 * distances(5, 1) + 1}, "control is the first or the second"),
        ({"kind": "kendall"}, "kind='kendall' must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(function, change, message):
    given = {"first": distances(5, 0), "second": distances(5, 1)} | change
    first, second = given.pop("first"), given.pop("second")
    with pytest.raises(ArgumentError, match=message) as caught:
        function(first, second, **given)
    assert "\n" not in str(caught.value)


# Mantel


def test_a_planted_hierarchy_is_found():
    path, found = planted(4, 1.0, 0)
    test = mantel(found, path, permutations=999)
    assert test.correlation > 0.25
    assert test.p_value == 1 / 1000
    assert abs(test.null_mean) < 0.02
    assert (test.classes, test.permutations, test.kind, test.partial) == (
        16,
        999,
        "spearman",
        False,
    )
    interval = bootstrap_interval(found, path, resamples=499)
    assert 0 < interval.low < test.correlation == interval.correlation
    assert interval.high < 1


def test_classes_that_were_shuffled_are_not():
    path, found = planted(4, 0.1, 1)
    assert mantel(permuted(found), path, permutations=999).p_value > 0.05


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_p_values_without_a_relation_are_uniform(kind):
    p = sorted(
        mantel(
            distances(8, seed), distances(8, 1000 + seed), kind=kind, permutations=99, seed=seed
        ).p_value
        for seed in range(200)
    )
    # Kolmogorov–Smirnov at 1 % for 200 draws is 0.115; p-values add one step.
    assert max(abs(value - (i + 0.5) / 200) for i, value in enumerate(p)) < 0.13


def test_the_p_value_of_few_classes_is_that_of_all_permutations():
    """4 of the 24 permutations of a rectangle's corners keep all distances."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0], [0.0, 3.0]])
    matrix = row_distances(points)
    keep = sum(
        torch.equal(matrix[list(order)][:, list(order)], matrix)
        for order in itertools.permutations(range(4))
    )
    assert keep == 4
    found = mantel(matrix, matrix, permutations=4000)
    assert found.correlation == pytest.approx(1)
    assert found.p_value == pytest.approx(4 / 24, abs=0.03)


def test_pairs_counted_as_independent_would_be_wrong():
    """The reason for Mantel's test: distances that share a point are dependent."""
    naive = permuting = 0
    for seed in range(200):
        first, second = distances(40, seed), distances(40, 1000 + seed)
        theirs = scipy.stats.spearmanr(pairs(first), pairs(second), alternative="greater")
        naive += theirs.pvalue <= 0.05
        permuting += mantel(first, second, permutations=99, seed=seed).p_value <= 0.05
    assert naive > 30
    assert permuting < 20  # 10 ± 3, as it should be


def test_a_control_takes_away_what_it_explains():
    z = distances(30, 0)
    x, y = z + 0.3 * distances(30, 1), z + 0.3 * distances(30, 2)
    assert mantel(x, y, permutations=199).p_value == 1 / 200
    partial = mantel(x, y, control=z, permutations=199)
    assert partial.partial
    assert abs(partial.correlation) < 0.2
    assert partial.p_value > 0.01
    # The control does not remove what it does not explain.
    assert mantel(x, y, control=distances(30, 5), permutations=199).p_value == 1 / 200


def test_seeds_and_counts():
    first, second = distances(8, 0), distances(8, 1)
    assert mantel(first, second, permutations=50) == mantel(first, second, permutations=50)
    assert mantel(first, second, permutations=50, seed=1) != mantel(first, second, permutations=50)
    with pytest.raises(ArgumentError, match="permutations=0"):
        mantel(first, second, permutations=0)
    with pytest.raises(ArgumentError, match="resamples=0"):
        bootstrap_interval(first, second, resamples=0)
    with pytest.raises(ArgumentError, match="confidence=1"):
        bootstrap_interval(first, second, confidence=1)


# Bootstrap


def test_a_perfect_relation_has_no_width():
    first = distances(10, 0)
    found = bootstrap_interval(first, first**2, resamples=99)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)
    assert found.resamples == 99


def test_a_class_drawn_twice_does_not_agree_with_itself():
    """If pairs of a class with itself counted, unrelated distances would correlate: 0 with 0."""
    inside = 0
    for seed in range(20):
        first, second = distances(12, seed, 20), distances(12, 100 + seed, 20)
        found = bootstrap_interval(first, second, resamples=199, seed=seed)
        inside += found.low < 0 < found.high
    assert inside >= 15


def test_the_interval_holds_the_correlation_of_the_population():
    def sample(classes, seed):
        generator = torch.Generator().manual_seed(seed)
        x, e = torch.randn(2, classes, 5, generator=generator, dtype=torch.float64)
        return row_distances(x), row_distances(x + e)

    population = matrix_correlation(*sample(1500, 10**6))
    held = 0
    for seed in range(80):
        found = bootstrap_interval(*sample(25, seed), resamples=199, seed=seed)
        held += found.low <= population <= found.high
    assert 70 <= held <= 80  # 76 ± 2; the interval is a little wide


def test_more_confidence_is_wider_and_more_classes_narrower():
    path, found = planted(5, 1.0, 0)
    wide = bootstrap_interval(found, path, confidence=0.99, resamples=499)
    narrow = bootstrap_interval(found, path, confidence=0.8, resamples=499)
    assert wide.low < narrow.low < narrow.high < wide.high
    few = bootstrap_interval(found[::4, ::4], path[::4, ::4], resamples=499)
    many = bootstrap_interval(found, path, resamples=499)
    assert many.high - many.low < few.high - few.low


def test_three_classes_may_have_too_few_resamples():
    """3 of 27 draws of three classes have one class, and 18 have two with a single distance."""
    first, second = distances(3, 0), distances(3, 1)
    with pytest.raises(ArgumentError, match="give more classes"):
        bootstrap_interval(first, second, resamples=99)


# Tree


def test_an_ultrametric_is_kept_by_its_tree():
    path, _ = planted(3, 0.0, 0)
    tree = average_tree(permuted(path))
    torch.testing.assert_close(tree.cophenetic, permuted(path))
    assert tree.correlation == pytest.approx(1)
    assert tree.linkage.shape == (7, 4)
    assert sorted(tree.order) == list(range(8))
    ordered = permuted(path)[list(tree.order)][:, list(tree.order)]
    assert float(ordered.diagonal(1).sum()) == float(path.diagonal(1).sum())  # siblings meet


def test_the_tree_by_hand():
    matrix = torch.tensor([[0.0, 1, 5, 6], [1, 0, 7, 6], [5, 7, 0, 2], [6, 6, 2, 0]])
    tree = average_tree(matrix)
    expected = torch.tensor([[0.0, 1, 6, 6], [1, 0, 6, 6], [6, 6, 0, 2], [6, 6, 2, 0]])
    torch.testing.assert_close(tree.cophenetic, expected.double())
    theirs = scipy.stats.pearsonr(pairs(matrix), pairs(expected)).statistic
    assert tree.correlation == pytest.approx(theirs)


def test_the_tree_of_points_can_be_held_against_the_planted_one():
    path, found = planted(4, 0.5, 3)
    tree = average_tree(found)
    assert 0.6 < tree.correlation < 1
    assert mantel(tree.cophenetic, path, permutations=199).p_value == 1 / 200


def test_a_tree_does_not_depend_on_the_order_of_classes():
    matrix = distances(12, 0)
    torch.testing.assert_close(
        average_tree(permuted(matrix)).cophenetic, permuted(average_tree(matrix).cophenetic)
    )
    scaled = average_tree(1e6 * matrix)
    assert scaled.correlation == pytest.approx(average_tree(matrix).correlation)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (-distances(4, 0), "some distances are negative"),
        (torch.ones(4, 4), "are equal"),
        (torch.ones(2, 2), "distances has shape"),
        (torch.ones(4, 4).tril(), "distances is not symmetric"),
    ],
)
def test_what_is_no_distance_has_no_tree(matrix, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ArgumentError, match=message):
            average_tree(matrix)
