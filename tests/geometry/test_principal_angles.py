import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jvpsvd import svds
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    chordal_distance,
    class_contrast,
    compare_spaces,
    geodesic_distance,
    mean_overlap,
    pairwise_angles,
    pairwise_overlaps,
    principal_angles,
    random_overlap,
    random_space,
    singular_space,
)

QUICK = settings(max_examples=80, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float64)


def pair_at(angles, n, seed=0):
    """Bases of two spaces at these principal angles, turned at random in Rⁿ."""
    theta = torch.tensor(angles, dtype=torch.float64)
    turn = random_space(n, 2 * len(angles), seed)
    first, orthogonal = turn[:, : len(angles)], turn[:, len(angles) :]
    return first, first * theta.cos() + orthogonal * theta.sin()


def mixed(basis, seed):
    """The same space by another basis, which is not orthonormal."""
    d = basis.shape[1]
    turn = random_space(d, d, seed)
    stretch = torch.linspace(1, 3, d, dtype=torch.float64)
    return basis @ (turn * stretch).to(basis.dtype)


@pytest.mark.parametrize(
    "angles",
    [
        [0.3, 0.7, 1.5],
        [1e-14, 1e-9, 1e-4],
        [0.0, 1e-8, math.pi / 2],
        [1.0, math.pi / 2 - 1e-9, math.pi / 2],
        [math.pi / 4 - 1e-9, math.pi / 4, math.pi / 4 + 1e-9],
        [0.0, 0.0, 0.0],
        [math.pi / 2] * 3,
    ],
)
def test_angles_are_found_small_and_large(angles):
    found = principal_angles(*pair_at(angles, 40))
    torch.testing.assert_close(found, torch.tensor(angles, dtype=torch.float64), rtol=0, atol=3e-15)


def test_angles_are_scipy_s():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    A, B = random_space(30, 4, 0), random_space(30, 7, 1)
    theirs = scipy_linalg.subspace_angles(A.numpy(), B.numpy())[::-1]
    torch.testing.assert_close(principal_angles(A, B), torch.from_numpy(theirs.copy()))


def test_angles_come_in_degrees_too():
    first, second = pair_at([math.pi / 6, math.pi / 3], 9)
    assert principal_angles(first, second, degrees=True).tolist() == pytest.approx([30, 60])


@QUICK
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(0, 99),
    st.sampled_from(DTYPES),
)
def test_spaces_are_compared_whatever_their_bases_and_axes(a, b, more, seed, dtype):
    n = max(a, b) + more
    A, B = random_space(n, a, seed), random_space(n, b, seed + 1)
    angles = principal_angles(A, B)
    assert angles.shape == (min(a, b),)
    assert (angles[1:] >= angles[:-1]).all()
    turn = random_space(n, n, seed + 2)
    other = principal_angles((turn @ mixed(A, 3)).to(dtype), (turn @ mixed(B, 4)).to(dtype))
    # a + b > n makes angles 0, which float32 bases can only show to their own rounding.
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(other, angles, rtol=0, atol=tolerance)
    torch.testing.assert_close(principal_angles(B, A), angles, rtol=0, atol=1e-12)
    overlap = mean_overlap(A, B)
    assert float(overlap) == pytest.approx(float((angles.cos() ** 2).mean()), abs=1e-12)
    must = max(0, a + b - n)
    assert (angles[:must] < 1e-12).all()


@QUICK
@given(st.integers(1, 5), st.integers(0, 99))
def test_distances_are_metrics_and_the_projectors_own(d, seed):
    A, B, C = (random_space(8, d, seed + i) for i in range(3))
    projectors = [Q @ Q.T for Q in (A, B)]
    chordal = chordal_distance(principal_angles(A, B))
    direct = torch.linalg.matrix_norm(projectors[0] - projectors[1]) / math.sqrt(2)
    assert float(chordal) == pytest.approx(float(direct), abs=1e-12)
    for distance in (chordal_distance, geodesic_distance):
        ab, bc, ac = (float(distance(principal_angles(*p))) for p in ((A, B), (B, C), (A, C)))
        assert ac <= ab + bc + 1e-12
        assert float(distance(principal_angles(A, mixed(A, seed)))) < 1e-12
    assert float(chordal) <= float(geodesic_distance(principal_angles(A, B)))


def test_a_space_and_a_part_of_it_overlap_fully():
    space = random_space(10, 4)
    assert float(mean_overlap(space, space[:, 1:3])) == 1.0
    assert float(mean_overlap(space, torch.eye(10))) == 1.0
    assert principal_angles(space, space[:, :1]).tolist() == pytest.approx([0], abs=1e-15)


@pytest.mark.parametrize(("n", "a", "b"), [(30, 5, 5), (30, 3, 12), (6, 1, 1), (9, 5, 6)])
def test_random_spaces_overlap_by_the_mean_and_deviation_that_are_stated(n, a, b):
    mean, std = random_overlap(n, a, b)
    many = 3000
    drawn = torch.stack(
        [mean_overlap(random_space(n, a, 0), random_space(n, b, i + 1)) for i in range(many)]
    )
    assert float(drawn.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(many))
    assert float(drawn.std()) == pytest.approx(std, rel=0.1)
    assert mean == max(a, b) / n


def test_a_whole_space_is_no_chance():
    assert random_overlap(5, 5) == (1.0, 0.0)
    assert random_overlap(5, 2, 5) == (1.0, 0.0)
    assert random_overlap(1, 1) == (1.0, 0.0)
    assert math.isnan(compare_spaces([torch.eye(3)] * 2).excess)


def test_pairs_of_many_spaces_are_each_of_them():
    spaces = torch.stack([random_space(12, 3, seed) for seed in range(5)])
    overlaps, angles = pairwise_overlaps(spaces), pairwise_angles(list(spaces.float()))
    assert torch.equal(overlaps, overlaps.T)
    assert angles.shape == (5, 5, 3)
    assert angles.diagonal().abs().max() == 0
    for i in range(5):
        for j in range(5):
            expected = float(mean_overlap(spaces[i], spaces[j]))
            assert float(overlaps[i, j]) == pytest.approx(expected, abs=1e-12)
            torch.testing.assert_close(
                angles[i, j], principal_angles(spaces[i], spaces[j]), rtol=0, atol=1e-5
            )
    assert geodesic_distance(angles).shape == (5, 5)


def test_overlaps_take_spaces_of_several_dimensions_and_angles_do_not():
    spaces = [torch.eye(6)[:, :1], torch.eye(6)[:, :3].numpy()]
    assert pairwise_overlaps(spaces)[0, 1] == 1.0
    with pytest.raises(ArgumentError, match=r"dimensions \[1, 3\]"):
        pairwise_angles(spaces)


def test_one_space_everywhere_is_all_excess_and_random_ones_are_none():
    space = random_space(50, 4)
    same = compare_spaces([mixed(space, i) for i in range(4)])
    assert same.mean == pytest.approx(1)
    assert same.excess == pytest.approx(1)
    means = []
    for draw in range(300):
        found = compare_spaces([random_space(20, 3, 100 * draw + i) for i in range(6)])
        means.append(found.mean)
    assert found.random_mean == pytest.approx(3 / 20)
    assert np.mean(means) == pytest.approx(0.15, abs=5 * found.random_deviation / math.sqrt(300))
    assert np.std(means) == pytest.approx(found.random_deviation, rel=0.15)


def test_left_spaces_agree_where_the_output_is_a_shared_frame():
    """J = U S V' with one U for all points and a different V at each point, as in hypothesis 2."""
    U, s = random_space(15, 3), torch.tensor([5.0, 4.0, 3.0], dtype=torch.float64)
    results = [svds((U * s) @ random_space(30, 3, i + 1).T, 3) for i in range(6)]
    left, right = (
        compare_spaces([singular_space(r, 3, side) for r in results]) for side in ("left", "right")
    )
    assert left.excess == pytest.approx(1, abs=1e-9)
    assert abs(right.mean - right.random_mean) < 5 * right.random_deviation


def test_classes_with_spaces_of_their_own_are_distinguished():
    one, two = random_space(20, 2, 0), random_space(20, 2, 1)
    spaces = [mixed(one, i) for i in range(5)] + [mixed(two, i) for i in range(5)]
    found = compare_spaces(spaces, labels=["a"] * 5 + ["b"] * 5, permutations=999).contrast
    assert found.within == pytest.approx(1)
    assert found.across == pytest.approx(float(mean_overlap(one, two)))
    assert found.difference == pytest.approx(found.within - found.across)
    # One of the 126 splits into five and five is as good.
    assert found.p_value == pytest.approx(1 / 126, abs=0.01)


def test_the_p_value_counts_relabellings():
    distances = 1 - torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    labels = torch.tensor([7, 7, 7, 2, 2, 2])
    for alternative, expected in (("less", 0.1), ("greater", 1.0), ("two-sided", 0.1)):
        test = class_contrast(distances, labels, alternative=alternative)
        assert (test.within, test.across) == (0.0, 1.0)
        assert test.p_value == pytest.approx(expected, abs=0.015)


def test_no_p_value_is_below_what_its_permutations_can_show():
    labels = [i // 10 for i in range(40)]
    same = torch.tensor(labels)[:, None] == torch.tensor(labels)
    assert class_contrast(same.double(), labels, permutations=49).p_value == 1 / 50


def test_the_p_value_is_uniform_where_labels_mean_nothing():
    generator = torch.Generator().manual_seed(0)
    p_values = []
    for seed in range(400):
        points = torch.randn(9, 2, generator=generator)
        distances = torch.cdist(points, points)
        p_values.append(
            class_contrast(
                distances, "abcabcabc", alternative="less", permutations=99, seed=seed
            ).p_value
        )
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) <= level)
        assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / 400)


def test_the_same_seed_gives_the_same_p_value_and_the_diagonal_is_not_read():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.rand(8, 8, generator=generator)
    matrix = matrix + matrix.T
    first = class_contrast(matrix, "aabbccdd", permutations=200, seed=5)
    assert first == class_contrast(matrix.fill_diagonal_(9), "aabbccdd", permutations=200, seed=5)
    p_values = {
        class_contrast(matrix, "aabbccdd", permutations=200, seed=seed).p_value for seed in range(5)
    }
    assert len(p_values) > 1


def test_labels_of_any_kind_name_the_same_classes():
    matrix = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.T
    numbers = [3, 3, 8, 8]
    expected = class_contrast(matrix, "aabb", permutations=50)
    for labels in (numbers, np.array(numbers), torch.tensor(numbers), list(torch.tensor(numbers))):
        assert class_contrast(matrix, labels, permutations=50) == expected
    with pytest.raises(ArgumentError, match="labels must be hashable"):
        class_contrast(matrix, [[1], [1], [2], [2]])


def test_random_spaces_are_repeatable_and_orthonormal():
    space = random_space(9, 4, seed=2)
    assert torch.equal(space, random_space(9, 4, seed=2))
    assert (space.T @ space - torch.eye(4)).abs().max() < 1e-14
    assert principal_angles(space, random_space(9, 4, seed=3)).max() > 0.1


EYE = torch.eye(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: principal_angles(EYE, torch.eye(5)), r"the second basis lives in R\^5"),
        (lambda: principal_angles(EYE[:, [0, 0]], EYE), "the first basis are linearly dependent"),
        (lambda: principal_angles(EYE * math.nan, EYE), r"the first basis\[0, 0\] is nan"),
        (lambda: principal_angles(EYE[0], EYE), "the first basis has shape"),
        (lambda: pairwise_overlaps([]), "no spaces were given"),
        (lambda: pairwise_overlaps(EYE), r"give P bases, \(P, n, d\)"),
        (lambda: pairwise_overlaps([EYE, EYE, EYE[:3, :2]]), r"space 2 lives in R\^3"),
        (lambda: compare_spaces([EYE]), "two or more"),
        (lambda: random_overlap(4, 5), "first=5"),
        (lambda: random_space(4, 0), "d=0"),
        (lambda: class_contrast(EYE, "aabb", alternative="more"), "alternative='more'"),
        (lambda: class_contrast(EYE, "aab"), "3 labels for 4 points"),
        (lambda: class_contrast(EYE, "abcd"), "no pair within a class"),
        (lambda: class_contrast(EYE, "aaaa"), "no pair across classes"),
        (lambda: class_contrast(EYE[:3], "aabb"), "matrix has shape"),
        (lambda: class_contrast(torch.ones(4, 4).triu(), "aabb"), "not symmetric"),
        (lambda: class_contrast(EYE, "aabb", permutations=0), "permutations=0"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
