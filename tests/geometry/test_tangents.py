import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.geometry_problems import normal

from jvpsvd import svds
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    energy_shares,
    family_tangent,
    orthonormal_basis,
    pca_basis,
    random_shares,
    random_space,
    singular_space,
    tangent_alignment,
)

QUICK = settings(max_examples=80, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float64)


@QUICK
@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 999), st.sampled_from([0.01, 1.0]))
def test_a_basis_keeps_every_leading_span(d, spare, seed, skew):
    """For nearly orthonormal vectors another method runs; both give Gram–Schmidt's result."""
    given_ones = random_space(d + spare, d, seed) + skew * normal(d + spare, d, seed=seed + 1)
    norms = 10.0 ** torch.randint(-3, 4, (d,), generator=torch.Generator().manual_seed(seed))
    Q = orthonormal_basis(given_ones * norms)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(d, dtype=torch.float64))
    inside = Q.mT @ (given_ones / torch.linalg.vector_norm(given_ones, dim=0))
    assert inside.tril(-1).abs().max() <= 1e-12
    assert (inside.diagonal() > 0).all()
    tolerance = max(1e-12, 1e-13 / float(torch.linalg.svdvals(inside)[-1]))
    assert (torch.linalg.vector_norm(inside, dim=0) - 1).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_orthonormal_basis_stays_what_it_is(dtype):
    basis = random_space(40, 7).to(dtype)
    assert (orthonormal_basis(basis) - basis).abs().max() <= 4 * torch.finfo(dtype).eps


def test_columns_of_any_length_span():
    basis = random_space(5, 2)
    for scales in ([1e-300, 1e300], [1e-20, 1.0]):
        torch.testing.assert_close(orthonormal_basis(basis * basis.new_tensor(scales)), basis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_that_depend_but_for_their_rounding_are_refused(dtype):
    columns = normal(20, 3)
    columns = torch.cat([columns, columns @ normal(3, 1, seed=1)], dim=1).to(dtype)
    with pytest.raises(ArgumentError, match="linearly dependent"):
        orthonormal_basis(columns)
    tilted = columns[:, :1] + 1e-4 * columns[:, 1:2]
    Q = orthonormal_basis(torch.cat([columns[:, :1], tilted], dim=1))
    torch.testing.assert_close(Q.mT @ Q, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shares_of_a_known_direction(dtype):
    tangent = torch.tensor([1.0, 2.0, 2.0, 4.0], dtype=dtype)
    shares = energy_shares(tangent, torch.eye(4, dtype=dtype)[:, [3, 0, 1]])
    assert shares.tolist() == pytest.approx([16 / 25, 17 / 25, 21 / 25])
    assert shares.dtype == torch.float64


@QUICK
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 999))
def test_shares_rise_and_do_not_depend_on_norms_rotations_or_bases(k, spare, seed):
    n = k + spare
    basis, tangents = random_space(n, k, seed), normal(n, 3, seed=seed + 1)
    shares = energy_shares(tangents, basis)
    assert shares.shape == (k, 3)
    assert (shares.diff(dim=0) >= 0).all()
    assert (shares <= 1).all()
    turn = random_space(n, n, seed + 2)
    norms = torch.tensor([1e-200, -1.0, 1e200], dtype=torch.float64)
    torch.testing.assert_close(energy_shares(turn @ tangents * norms, turn @ basis), shares)
    torch.testing.assert_close(energy_shares(tangents[:, 1], basis), shares[:, 1])
    mixed = basis @ random_space(k, k, seed + 3)
    torch.testing.assert_close(energy_shares(tangents, mixed)[-1], shares[-1])
    inside = energy_shares(basis @ normal(k, seed=seed), basis)
    assert float(inside[-1]) == pytest.approx(1, rel=1e-14)


def test_shares_in_singular_vectors():
    values = torch.diag(torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64))
    result = svds(values, 3)
    assert energy_shares(torch.tensor([3.0, 0.0, 4.0]), result).tolist() == pytest.approx(
        [0, 0.64, 1], abs=1e-12
    )


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (30, 12)])
def test_a_random_direction_follows_the_beta_distribution(n, k):
    mean, deviation = random_shares(n, k)
    for d in range(1, min(k, n - 1) + 1):
        beta = scipy.stats.beta(d / 2, (n - d) / 2)
        assert float(mean[d - 1]) == pytest.approx(beta.mean())
        assert float(deviation[d - 1]) == pytest.approx(beta.std())
    if k == n:
        assert (float(mean[-1]), float(deviation[-1])) == (1, 0)


def test_random_directions_have_the_shares_of_chance():
    n, k, draws = 20, 8, 20000
    shares = energy_shares(normal(n, draws), random_space(n, k))
    mean, deviation = random_shares(n, k)
    assert ((shares.mean(1) - mean).abs() <= 5 * deviation / math.sqrt(draws)).all()
    torch.testing.assert_close(shares.std(1), deviation, rtol=0.05, atol=0)


def test_alignment_is_compared_with_chance_and_another_basis():
    tangents, basis, other = normal(9, 2), random_space(9, 4), random_space(9, 2, 1)
    found = tangent_alignment(tangents, basis, against=other)
    torch.testing.assert_close(found.shares, energy_shares(tangents, basis))
    torch.testing.assert_close(found.other, energy_shares(tangents, other))
    torch.testing.assert_close(found.random_mean, random_shares(9, 4)[0])
    torch.testing.assert_close(found.random_std, random_shares(9, 4)[1])
    assert tangent_alignment(tangents, basis).other is None


def test_both_sides_of_a_result_and_of_a_batch():
    matrix = normal(6, 4)
    result = svds(matrix, 3)
    U, s, Vh = torch.linalg.svd(matrix)
    for side, truth in (("left", U), ("right", Vh.mT)):
        found = singular_space(result, 2, side)
        cosines = torch.linalg.svdvals(truth[:, :2].mT @ found)
        assert cosines.tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(
        matrix @ singular_space(result, 1), s[0] * singular_space(result, 1, "left")
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_principal_directions_are_those_about_the_mean(dtype):
    axes = random_space(6, 3)
    along = torch.tensor([[5.0, 0, 0], [0, 2, 0], [0, 0, 1]], dtype=torch.float64)
    points = (torch.cat([along, -along]) @ axes.mT + 7.0).to(dtype)
    found = pca_basis(points)
    assert found.shape == (6, 3)
    tolerance = 100 * torch.finfo(dtype).eps
    assert ((axes.mT @ found).abs() - torch.eye(3)).abs().max() <= tolerance
    torch.testing.assert_close(pca_basis(points, 2), found[:, :2])
    with pytest.raises(ArgumentError, match=r"d=4 .* vary in = 3"):
        pca_basis(points, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0.0, 0.7, -40.0])
def test_the_tangent_of_a_circle(at, dtype):
    """f''' = −f': the difference falls short by h²/6, and its estimate is three times that."""

    def circle(t):
        return 2 * torch.tensor([[math.cos(t), math.sin(t)]], dtype=torch.float64).to(dtype)

    found = family_tangent(circle, at=at, step=0.01)
    expected = torch.tensor([[-math.sin(at), math.cos(at)]], dtype=torch.float64)
    # Values round, and so does the point, both divided by the step.
    tolerance = torch.finfo(dtype).eps * 200 + 1e-14 * abs(at)
    assert (found.direction - expected).abs().max() <= tolerance
    assert found.speed == pytest.approx(2 * math.sin(0.01) / 0.01, abs=2 * tolerance)
    assert found.error == pytest.approx(0.01**2 / 2, rel=1e-3, abs=2 * tolerance)
    own = family_tangent(circle, at=at)
    assert (own.direction - expected).abs().max() <= 20 * torch.finfo(dtype).eps ** (2 / 3) * 40


def test_arrays_are_families_too():
    found = family_tangent(lambda t: np.array([3 * t, 4 * t]), at=1.0)
    assert found.direction.tolist() == pytest.approx([0.6, 0.8])


def test_a_kink_shows_in_the_error():
    smooth = family_tangent(lambda t: torch.tensor([t, t**2]), step=0.1)
    kinked = family_tangent(lambda t: torch.tensor([t, max(0.0, t - 0.1)]), step=0.1)
    assert smooth.error <= 1e-6
    assert kinked.error == pytest.approx(0.25)


EYE = torch.eye(3)
RESULT = svds(EYE.double(), 2)
REFUSED = {
    "n ≥ d": lambda: orthonormal_basis(torch.ones(2, 3)),
    "hue has shape \\(3,\\)": lambda: orthonormal_basis(torch.ones(3), "hue"),
    "dependent": lambda: orthonormal_basis(torch.zeros(3, 1)),
    "is nan": lambda: orthonormal_basis(EYE * math.nan),
    "tangent is 0": lambda: energy_shares(torch.zeros(3), EYE),
    "tangent 1 is 0": lambda: energy_shares(torch.eye(3) * torch.tensor([1, 0, 1]), EYE),
    "match them": lambda: energy_shares(torch.ones(4), EYE),
    "several as columns": lambda: energy_shares(torch.ones(3, 1, 1), EYE),
    "k=4": lambda: random_shares(3, 4),
    "n=2.0": lambda: random_shares(2.0, 1),
    "d=3": lambda: singular_space(RESULT, 3),
    "side='top'": lambda: singular_space(RESULT, 1, "top"),
    "no vectors": lambda: singular_space(svds(EYE.double(), 2, vectors=False), 1),
    "one row each": lambda: pca_basis(torch.ones(3)),
    "all points are the same": lambda: pca_basis(torch.full((4, 3), 0.1)),
    "does not move": lambda: family_tangent(lambda t: torch.ones(2)),
    "step=0": lambda: family_tangent(lambda t: torch.ones(2) * t, step=0),
    "keep one": lambda: family_tangent(lambda t: torch.ones(2 if t > 0 else 3)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_tangent_is_refused(message):
    with pytest.raises(ArgumentError, match=message):
        REFUSED[message]()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_family_must_stay_finite(value):
    with pytest.raises(ArgumentError, match=r"family\(.*give finite numbers"):
        family_tangent(lambda t: torch.tensor([t, value if t > 0 else 0.0]))
