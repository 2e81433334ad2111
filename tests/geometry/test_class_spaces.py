import math

import pytest
import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import average_space, principal_angles, random_space, space_distances


def photos(count, n, k, seed=0):
    bases = [random_space(n, k, seed + i) for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    s = [
        torch.rand(k, generator=generator, dtype=torch.float64).sort(descending=True)[0] + 0.1
        for _ in range(count)
    ]
    return bases, s


def average_gram(bases, s):
    return sum((V * x**2) @ V.T for V, x in zip(bases, s, strict=True)) / len(bases)


@pytest.mark.parametrize(("count", "n", "k"), [(4, 30, 5), (1, 10, 10), (7, 12, 6)])
def test_the_space_is_that_of_the_dense_average(count, n, k):
    bases, s = photos(count, n, k)
    found = average_space(bases, s, 3)
    values, vectors = torch.linalg.eigh(average_gram(bases, s))
    torch.testing.assert_close(found.weights, values.flip(0)[:3])
    assert principal_angles(found.basis, vectors.flip(1)[:, :3]).max() < 1e-7
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(3, dtype=torch.float64))
    assert found.share == pytest.approx(float(values.flip(0)[:3].sum() / values.sum()))
    assert found.gap == pytest.approx(float(values[-3] / values[-4]))


def test_small_weights_are_not_rounded_away():
    V = random_space(40, 3)
    s = torch.tensor([1.0, 1e-6, 1e-10], dtype=torch.float64)
    found = average_space([V, V], [s, s], 3)
    torch.testing.assert_close(found.weights, s**2, rtol=1e-4, atol=0)
    assert found.gap == math.inf


def test_photos_may_differ_in_k_and_come_as_tensors():
    bases, s = photos(3, 20, 4)
    once = average_space(torch.stack(bases), torch.stack(s), 2)
    assert principal_angles(once.basis, average_space(bases, s, 2).basis).max() < 1e-7
    bases[1], s[1] = bases[1][:, :2], s[1][:2]
    found = average_space(bases, s, 2)
    torch.testing.assert_close(
        found.weights, torch.linalg.eigvalsh(average_gram(bases, s)).flip(0)[:2]
    )


def test_unit_traces_give_all_photos_the_same_weight():
    V, W = torch.eye(4)[:, :1], torch.eye(4)[:, 1:2]
    strong, weak = torch.tensor([100.0]), torch.tensor([1.0])
    loud = average_space([V, W, W], [strong, weak, weak], 1)
    assert abs(float(loud.basis[0, 0])) == pytest.approx(1)
    fair = average_space([V, W, W], [strong, weak, weak], 1, unit_trace=True)
    assert abs(float(fair.basis[1, 0])) == pytest.approx(1)
    torch.testing.assert_close(fair.weights, torch.tensor([2 / 3], dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
def test_scale_does_not_turn_the_space(scale):
    bases, s = photos(3, 20, 4)
    found = average_space(bases, [scale * x for x in s], 2)
    assert principal_angles(found.basis, average_space(bases, s, 2).basis).max() < 1e-7


def test_shared_directions_are_found_among_private_ones():
    shared = random_space(60, 2)
    bases, s = [], []
    for seed in range(5):
        private = random_space(60, 4, seed + 10)
        private = torch.linalg.qr(private - shared @ (shared.T @ private))[0]
        bases.append(torch.cat([private, shared], 1))
        s.append(torch.ones(6, dtype=torch.float64))
    # Each photo has six equal values. Only all photos together show which directions are shared.
    assert principal_angles(average_space(bases, s, 2).basis, shared).max() < 1e-6


@pytest.mark.parametrize(
    ("bases", "s", "d", "message"),
    [
        ([], [], 1, "no spaces were given"),
        ([torch.eye(3)], [], 1, "1 bases and 0 spectra"),
        ([torch.eye(3)], [torch.ones(2)], 1, "basis 0 has shape"),
        ([torch.ones(3)], [torch.ones(1)], 1, "basis 0 has shape"),
        ([torch.eye(3), torch.eye(4)], [torch.ones(3), torch.ones(4)], 1, "basis 1 lives in R"),
        ([torch.eye(3)], [torch.zeros(3)], 1, "all singular values of photo 0 are 0"),
        ([torch.eye(3)[:, :2]] * 2, [torch.ones(2)] * 2, 3, "the directions that the average has"),
        ([torch.eye(3)], [torch.tensor([1.0, math.inf, 0])], 1, "is inf"),
    ],
)
def test_what_does_not_fit_is_refused(bases, s, d, message):
    with pytest.raises(ArgumentError, match=message):
        average_space(bases, s, d)


def test_distances_between_spaces_by_hand():
    tilted = torch.tensor([[math.cos(0.3)], [math.sin(0.3)], [0.0]], dtype=torch.float64)
    spaces = [torch.eye(3)[:, :1], tilted, torch.eye(3)[:, 2:]]
    chordal, geodesic = space_distances(spaces), space_distances(spaces, "geodesic")
    assert float(chordal[0, 1]) == pytest.approx(math.sin(0.3))
    assert float(geodesic[0, 1]) == pytest.approx(0.3)
    assert float(chordal[1, 2]) == pytest.approx(1)
    for distances in (chordal, geodesic):
        assert torch.equal(distances, distances.T)
        assert not distances.diagonal().any()
    with pytest.raises(ArgumentError, match="kind='l2' must be"):
        space_distances(spaces, "l2")


def test_a_planted_hierarchy_of_spaces_is_in_the_distances():
    """Classes of a family share two of three directions."""
    spaces = []
    for family in range(3):
        common = random_space(50, 2, family)
        for member in range(4):
            own = random_space(50, 1, 100 + 10 * family + member)
            turned = torch.linalg.qr(torch.cat([common, own], 1))[0]
            spaces.append(average_space([turned] * 2, [torch.tensor([1.0, 1, 1])] * 2, 3).basis)
    distances = space_distances(spaces)
    family = torch.arange(12) // 4
    same = family[:, None] == family
    assert distances[same].max() < distances[~same].min()
