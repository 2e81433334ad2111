import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway, wasserstein_distance

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    class_means,
    log_spectra,
    nearest_class,
    row_distances,
    variance_ratio,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def noise(photos, k, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(photos, k, generator=generator, dtype=torch.float64)


def labelled(classes, each):
    return [label for label in range(classes) for _ in range(each)]


def planted(classes, each, k, strength, seed):
    """Rows scattered about the means of their classes; means deviate by `strength` times the
    noise."""
    means = strength * noise(classes, k, seed + 1)
    return noise(classes * each, k, seed) + means.repeat_interleave(each, 0)


# Spectra


def test_log_spectra_are_logs_above_the_floor():
    found = log_spectra(np.array([[4.0, 2.0, 1e-9], [1.0, 0.5, 0.0]]), floor=0.01)
    expected = torch.tensor([[4.0, 2.0, 0.04], [1.0, 0.5, 0.01]], dtype=torch.float64).log()
    torch.testing.assert_close(found, expected)


def test_the_floor_is_eps_of_the_dtype_unless_given():
    for dtype in (torch.float32, torch.float64):
        found = log_spectra(torch.tensor([[1.0, 0.0]], dtype=dtype))
        assert float(found[0, 1]) == pytest.approx(math.log(torch.finfo(dtype).eps))


def test_the_shape_of_a_spectrum_has_no_gain():
    s = noise(5, 20, 0).abs().sort(1, descending=True)[0]
    gain = torch.tensor([1.0, 3.0, 0.2, 1e5, 1e-5])[:, None]
    torch.testing.assert_close(log_spectra(s * gain, shape=True), log_spectra(s, shape=True))
    assert log_spectra(s, shape=True).mean(1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("s", "message"),
    [
        (torch.ones(3), "give spectra as rows"),
        (torch.tensor([[2.0, 1.0], [1.0, 2.0]]), r"s\[1\] is no spectrum"),
        (torch.tensor([[2.0, -1.0]]), r"s\[0\] is no spectrum"),
        (torch.tensor([[2.0, 1.0], [0.0, 0.0]]), r"s\[1\] is no spectrum"),
        (torch.tensor([[2.0, math.nan]]), "is nan"),
    ],
)
def test_what_is_no_spectrum_is_refused(s, message):
    with pytest.raises(ArgumentError, match=message):
        log_spectra(s)


def test_class_means_by_hand():
    rows = torch.tensor([[1.0, 0.0], [5.0, 1.0], [3.0, 4.0]])
    found = class_means(rows, np.array([7, 2, 7]))
    assert found.classes == (7, 2)
    assert found.counts.tolist() == [2, 1]
    assert found.means.tolist() == [[2.0, 2.0], [5.0, 1.0]]
    torch.testing.assert_close(found.deviations[0], torch.tensor([2.0, 8.0]).double().sqrt())
    assert found.deviations[1].isnan().all()


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.ones(3), "abc", "rows have shape"),
        (torch.ones(3, 2), "ab", "2 labels for 3 photos"),
        (torch.ones(2, 2), [[1], [2]], "must be hashable"),
    ],
)
def test_rows_and_labels_must_fit(rows, labels, message):
    for function in (class_means, variance_ratio, nearest_class):
        with pytest.raises(ArgumentError, match=message):
            function(rows, labels)


# Distances


def test_l2_is_the_root_mean_square():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    found = row_distances(rows)
    assert float(found[0, 1]) == pytest.approx(math.sqrt(12.5))
    assert float(found[0, 2]) == 0
    assert torch.equal(found, found.T)


@QUICK
@given(st.integers(1, 40), st.integers(0, 99))
def test_wasserstein_is_scipy_s_and_at_most_l2_of_sorted_rows(k, seed):
    rows = noise(4, k, seed)
    found = row_distances(rows, "wasserstein")
    theirs = [[wasserstein_distance(a, b) for b in rows.numpy()] for a in rows.numpy()]
    torch.testing.assert_close(found, torch.tensor(theirs, dtype=torch.float64))
    assert (found <= row_distances(rows.sort(1)[0]) + 1e-12).all()


def test_small_distances_survive_large_rows():
    rows = torch.full((60, 30), 1e6, dtype=torch.float64)
    rows[1:] += 1e-6
    assert float(row_distances(rows)[0, 1]) == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("kind", ["l2", "wasserstein"])
def test_distances_of_spectra_do_not_see_a_common_factor(kind):
    s = noise(6, 30, 0).abs().sort(1, descending=True)[0]
    torch.testing.assert_close(
        row_distances(log_spectra(7 * s), kind), row_distances(log_spectra(s), kind)
    )


def test_another_distance_is_refused():
    for function in (row_distances, lambda rows, kind: nearest_class(rows, "aabb", kind=kind)):
        with pytest.raises(ArgumentError, match="kind='cosine' must be"):
            function(torch.ones(4, 2), kind="cosine")


# Variance


def test_f_of_one_entry_is_the_textbook_s():
    rows = planted(4, 6, 1, 0.7, 0)
    found = variance_ratio(rows, labelled(4, 6), permutations=999)
    theirs = f_oneway(*rows[:, 0].view(4, 6).numpy())
    assert found.f == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.chance_share == 3 / 23
    assert float(found.entry_shares[0]) == pytest.approx(found.share)


def test_f_of_many_entries_adds_sums_of_squares():
    rows = planted(3, 4, 5, 0.5, 1)
    groups = rows.view(3, 4, 5)
    between = 4 * ((groups.mean(1) - rows.mean(0)) ** 2).sum(0)
    within = ((groups - groups.mean(1, keepdim=True)) ** 2).sum((0, 1))
    found = variance_ratio(rows, labelled(3, 4), permutations=9)
    assert found.f == pytest.approx(float(between.sum() / 2 / (within.sum() / 9)))
    torch.testing.assert_close(found.entry_shares, between / (between + within))


def test_planted_classes_are_found_and_invariant():
    rows, labels = planted(6, 5, 40, 1.0, 2), labelled(6, 5)
    found = variance_ratio(rows, labels, permutations=499)
    assert found.p_value == 1 / 500
    assert found.f > 2
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for other in (
        variance_ratio(1e8 * rows + 3, labels, permutations=9),
        variance_ratio(rows[order], [f"class {labels[i]}" for i in order], permutations=9),
        variance_ratio(rows.numpy(), np.array(labels), permutations=9),
    ):
        assert other.f == pytest.approx(found.f)


def test_p_values_of_labels_that_mean_nothing_are_uniform():
    p = sorted(
        variance_ratio(noise(20, 3, seed), labelled(5, 4), permutations=99, seed=seed).p_value
        for seed in range(200)
    )
    # Kolmogorov–Smirnov at 1 % for 200 draws is 0.115; p-values add one step.
    assert max(abs(value - (i + 0.5) / 200) for i, value in enumerate(p)) < 0.13


def test_an_entry_that_never_varies_has_no_share():
    rows = noise(6, 3, 0)
    rows[:, 1] = 0.1
    found = variance_ratio(rows, "aabbcc", permutations=9)
    assert found.entry_shares.isnan().tolist() == [False, True, False]


def test_photos_that_are_their_class_have_no_bound():
    rows = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    found = variance_ratio(rows, "aabb", permutations=999)
    assert found.f == math.inf
    assert found.share == 1
    assert found.p_value == pytest.approx(1 / 3, abs=0.05)  # 2 of 6 relabellings keep the classes


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.full((4, 2), 0.1), "aabb", "all rows are the same"),
        (noise(4, 2, 0), "aaaa", "1 classes of 4 photos"),
        (noise(4, 2, 0), "abcd", "4 classes of 4 photos"),
    ],
)
def test_variance_needs_something_to_compare(rows, labels, message):
    with pytest.raises(ArgumentError, match=message):
        variance_ratio(rows, labels)


# Nearest class


def naive_precision(rows, labels, leave_out):
    """Two naive classifiers: the photo counts in its class mean, or is left out of that mean
    alone."""
    index = torch.tensor(labels)
    hits = 0
    for i, row in enumerate(rows):
        distances = []
        for label in range(int(index.max()) + 1):
            mine = index == label
            if leave_out:
                mine[i] = False
            distances.append(float((rows[mine].mean(0) - row).norm()))
        hits += distances.index(min(distances)) == labels[i]
    return hits / len(rows)


@pytest.mark.parametrize("kind", ["l2", "wasserstein"])
def test_noise_is_at_chance_in_many_dimensions(kind):
    labels = labelled(10, 5)
    found = [nearest_class(noise(50, 200, i), labels, kind=kind, permutations=20) for i in range(8)]
    hits = 50 * sum(one.precision for one in found)
    # 400 photos, 1 in 10: 40 ± 6.
    assert 20 < hits < 60
    assert found[0].chance == 0.1
    assert sum(one.null_mean for one in found) / 8 == pytest.approx(0.1, abs=0.015)


def test_the_naive_precisions_are_not_at_chance():
    labels = labelled(10, 5)
    within = [naive_precision(noise(50, 200, i), labels, leave_out=False) for i in range(8)]
    assert sum(within) / 8 > 0.9
    alone = [naive_precision(noise(50, 200, i), labels, leave_out=True) for i in range(8)]
    assert sum(alone) / 8 < 0.05


def test_precision_by_hand():
    # If one photo of two is left out, the other is the mean: 0 is nearest to 1, 1 to 0, 10 to 5, 5
    # to 10 …
    rows = torch.tensor([[0.0], [1.0], [10.0], [9.0]])
    found = nearest_class(rows, "aabb", permutations=999)
    assert found.precision == 1
    assert torch.equal(found.confusion, torch.eye(2, dtype=torch.float64))
    # 2 of 6 relabellings keep the classes.
    assert found.p_value == pytest.approx(1 / 3, abs=0.05)


def test_equally_near_classes_share_a_photo():
    found = nearest_class(torch.ones(6, 3), "aabbcc", permutations=9)
    assert found.precision == pytest.approx(1 / 3)
    assert found.null_deviation == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1
    torch.testing.assert_close(found.confusion, torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_planted_classes_are_distinguished_and_confused_by_family():
    # Two families of three classes: families are far apart, classes hardly.
    family = torch.tensor([-4.0, -4, -4, 4, 4, 4]).repeat_interleave(8)[:, None]
    rows = planted(6, 8, 5, 0.3, 3) + family
    found = nearest_class(rows, labelled(6, 8), permutations=199)
    assert found.p_value == 1 / 200
    assert found.precision > 2 * found.null_mean
    assert float(found.confusion[:3, 3:].sum() + found.confusion[3:, :3].sum()) == 0
    torch.testing.assert_close(found.confusion.sum(1), torch.ones(6, dtype=torch.float64))
    assert float(found.confusion.diagonal().mean()) == pytest.approx(found.precision)


def test_precision_does_not_depend_on_order_names_or_scale():
    rows, labels = planted(5, 2, 30, 3.0, 4), labelled(5, 2)  # so strong that pairing cannot matter
    found = nearest_class(rows, labels, permutations=9)
    assert found.precision == 1
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    names = [f"class {labels[i]}" for i in order]
    assert nearest_class(1e3 * rows[order] + 5, names, permutations=9).precision == 1


def test_classes_of_different_size_are_held_to_their_own_null():
    labels = [0] * 20 + [1] * 5 + [2] * 3
    found = nearest_class(noise(28, 100, 5), labels, permutations=199)
    assert found.null_mean > found.chance + 0.05  # the larger class attracts
    assert found.p_value > 0.01


def test_the_seed_decides():
    rows, labels = planted(4, 4, 10, 0.5, 6), labelled(4, 4)
    once, again = (nearest_class(rows, labels, permutations=50, seed=3) for _ in range(2))
    assert (once.precision, once.null_mean) == (again.precision, again.null_mean)


@pytest.mark.parametrize(
    ("labels", "message"),
    [("aaaa", "one class has no other"), ("aaab", "class 'b' has one photo")],
)
def test_nearest_needs_two_classes_of_two(labels, message):
    with pytest.raises(ArgumentError, match=message):
        nearest_class(noise(4, 2, 0), labels)


@pytest.mark.parametrize("function", [variance_ratio, nearest_class])
def test_permutations_are_counted_from_one(function):
    with pytest.raises(ArgumentError, match="permutations=0"):
        function(noise(4, 2, 0), "aabb", permutations=0)


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0, math.nan], np.array([0.0, 1.0, np.nan]), [0, 1, np.float32("nan")]]
)
def test_a_missing_label_of_pandas_is_refused(labels):
    """NaN is equal to no other: each such photo would be a class of its own."""
    for function in (class_means, variance_ratio, nearest_class):
        with pytest.raises(ArgumentError, match="label 2 is NaN, which is no class; leave that"):
            function(torch.ones(3, 2), labels)
