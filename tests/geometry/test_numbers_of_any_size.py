"""Numbers whose squares or sums leave the range of float64 are scaled first, or refused."""

import math

import pytest
import torch

from jvpsvd import geometry
from jvpsvd.errors import ArgumentError

SCALES = [2.0**-1000, 2.0**-560, 1.0, 2.0**560, 2.0**1020]
far = pytest.mark.parametrize("c", SCALES)


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def distances(count):
    points = gaussian(count, 2)
    return torch.cdist(points, points)


@far
def test_means_and_deviations_of_classes(c):
    rows, labels = gaussian(6, 3), "aabbbc"
    found, scaled = geometry.class_means(rows, labels), geometry.class_means(c * rows, labels)
    assert torch.equal(scaled.means / c, found.means)
    assert torch.equal(scaled.deviations[:2] / c, found.deviations[:2])


@far
@pytest.mark.parametrize("kind", ["l2", "wasserstein"])
def test_distances_of_rows_and_nearest_classes(c, kind):
    rows = gaussian(8, 3)
    assert torch.equal(
        geometry.row_distances(c * rows, kind) / c, geometry.row_distances(rows, kind)
    )
    found, scaled = (
        geometry.nearest_class(each, "aaaabbbb", kind=kind, permutations=19)
        for each in (rows, c * rows)
    )
    assert scaled.p_value == found.p_value
    assert torch.equal(scaled.confusion, found.confusion)


@far
def test_variance_within_and_between_classes(c):
    rows = gaussian(8, 3)
    found, scaled = (
        geometry.variance_ratio(each, "aaaabbbb", permutations=19) for each in (rows, c * rows)
    )
    assert (scaled.f, scaled.p_value) == (found.f, found.p_value)


@pytest.mark.parametrize("c", [*SCALES, 2.0**-1060])
def test_the_shape_of_a_spectrum_with_a_zero(c):
    s = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    found, scaled = (geometry.log_spectra(each, shape=True) for each in (s, c * s))
    assert torch.allclose(found, scaled, rtol=0, atol=1e-12)


@far
def test_principal_directions(c):
    points = gaussian(6, 4)
    assert torch.equal(geometry.pca_basis(c * points), geometry.pca_basis(points))


def test_the_basis_of_subnormal_vectors():
    vectors = torch.tensor([[5e-324, 0.0], [5e-324, 1e-310]], dtype=torch.float64)
    found = geometry.orthonormal_basis(vectors)
    assert torch.allclose(found[:, 0], torch.tensor([0.5, 0.5]).double().sqrt())
    assert torch.allclose(found.mT @ found, torch.eye(2).double())


@far
def test_permutations_of_a_matrix(c):
    found, scaled = (
        geometry.class_contrast(each, "aaabbb", alternative="less", permutations=49)
        for each in (distances(6), c * distances(6))
    )
    assert (scaled.within / c, scaled.across / c) == (found.within, found.across)
    assert scaled.p_value == found.p_value


@far
def test_the_tree_of_distances(c):
    found, scaled = (geometry.average_tree(each) for each in (distances(5), c * distances(5)))
    assert torch.equal(scaled.cophenetic / c, found.cophenetic)
    assert (scaled.linkage[:, 2] / c == found.linkage[:, 2]).all()
    assert scaled.correlation == found.correlation


def test_a_matrix_of_large_numbers_that_is_not_symmetric():
    matrix = torch.tensor([[0.0, 1e308, 1], [-1e308, 0, 1], [1, 1, 0]], dtype=torch.float64)
    with pytest.raises(ArgumentError, match="not symmetric"):
        geometry.matrix_correlation(matrix, matrix)


@far
def test_the_trend_of_spreads(c):
    values = gaussian(3, 5)
    found, scaled = (geometry.spread_trend(each) for each in (values, c * values))
    assert torch.equal(scaled.mean / c, found.mean)
    assert torch.equal(scaled.error / c, found.error)


@far
def test_the_tangent_of_a_family(c):
    a, b = gaussian(2, 4)
    found, scaled = (
        geometry.family_tangent(lambda t, c=c: c * a + t * (c * b), step=0.5) for c in (1.0, c)
    )
    assert torch.allclose(scaled.direction, found.direction)
    assert scaled.speed / c == pytest.approx(found.speed)


def test_a_family_that_moves_too_fast():
    with pytest.raises(ArgumentError, match="more than float64 can hold"):
        geometry.family_tangent(
            lambda t: torch.tensor([math.copysign(1e308, t)], dtype=torch.float64)
        )


@pytest.mark.parametrize("c", [2.0**-500, 2.0**500])
def test_weights_of_an_average_space(c):
    bases, s = [torch.eye(3).double()[:, :2], torch.eye(3).double()[:, 1:]], gaussian(2).abs()
    found, scaled = (geometry.average_space(bases, [each, each]) for each in (s, c * s))
    assert torch.equal(scaled.weights / c / c, found.weights)
    assert (scaled.share, scaled.gap) == (found.share, found.gap)


@pytest.mark.parametrize("c", [2.0**-1000, 2.0**1000])
def test_weights_that_float64_cannot_hold(c):
    bases, s = [torch.eye(3).double()[:, :2]], c * torch.ones(2).double()
    with pytest.raises(ArgumentError, match="outside of float64"):
        geometry.average_space(bases, [s])
    shared = geometry.average_space(bases, [s], unit_trace=True)
    assert shared.weights.tolist() == pytest.approx([0.5])


def test_a_norm_far_above_the_values():
    s = torch.tensor([1e-170, 1e-171], dtype=torch.float64)
    for estimate in (geometry.participation_ratio, geometry.stable_rank, geometry.dimensions):
        with pytest.raises(ArgumentError, match="fro2 is far above"):
            estimate(s, fro2=1.0)


def test_what_float64_cannot_hold_is_refused():
    rows = torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64)
    with pytest.raises(ArgumentError, match="exceed what float64 can hold"):
        geometry.row_distances(rows)
    with pytest.raises(ArgumentError, match="exceed what float64 can hold"):
        geometry.class_means(rows, "aa")


@far
def test_changes_of_small_and_large_functions(c):
    x, W, direction = gaussian(3), gaussian(4, 3), gaussian(3)

    def respond(c):
        return geometry.perturbation_response(
            lambda z: torch.tanh(W @ z) * c, x, direction, [0.1, 0.5, 1.0]
        )

    found, scaled = respond(1.0), respond(c)
    for name in ("change", "linear", "nonlinear", "size"):
        assert torch.allclose(getattr(scaled, name) / c, getattr(found, name), rtol=1e-9), name
    ranges = [geometry.linearity_range(each) for each in (found, scaled)]
    assert torch.allclose(*ranges)
