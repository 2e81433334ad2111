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
    pixel_energy,
    random_space,
    random_spread,
    spatial_spread,
    spread_trend,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
LARGE = (1 << 20, 5)  # vectors of which two are taken at a time
DTYPES = (torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 4), (3, 5, 6)])
def test_one_pixel_is_one_pixel_and_a_uniform_image_all_of_them(dtype, shape):
    height, width = shape[-2:]
    one = torch.zeros(shape, dtype=dtype)
    one[..., height // 2, width - 1] = -2
    images = torch.stack([one, torch.full(shape, 0.5, dtype=dtype)])
    found = spatial_spread(images.flatten(1).mT, shape)
    assert found.participation.tolist() == pytest.approx([1, height * width])
    assert found.entropy.tolist() == pytest.approx([1, height * width])
    assert found.share.tolist() == pytest.approx([1 / (height * width), 1])
    assert found.entropy_share.tolist() == pytest.approx([1 / (height * width), 1])
    assert found.centre[0].tolist() == [height // 2, width - 1]
    assert found.centre[1].tolist() == pytest.approx([(height - 1) / 2, (width - 1) / 2])
    assert found.radius.tolist() == pytest.approx([0, found.uniform_radius], abs=1e-7)
    assert found.participation.dtype == torch.float64


def test_a_gaussian_blob_has_its_own_radius_and_area():
    sigma, (height, width) = 3.0, (61, 81)
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)
    squares = (y - 25.25) ** 2 + (x - 44.5) ** 2
    blob = (-squares / (4 * sigma**2)).exp()  # its energy has variance σ²
    found = spatial_spread(blob.flatten(), (height, width))
    assert found.centre.tolist() == pytest.approx([25.25, 44.5])
    assert float(found.radius) == pytest.approx(math.sqrt(2) * sigma)
    assert float(found.participation) == pytest.approx(4 * math.pi * sigma**2)
    assert float(found.entropy) == pytest.approx(2 * math.pi * math.e * sigma**2)


def test_few_pixels_far_apart_are_few_and_far():
    image = torch.zeros(11, 21)
    image[0, 0] = image[10, 20] = 1
    found = spatial_spread(image.flatten(), image.shape)
    assert float(found.participation) == pytest.approx(2)
    assert float(found.radius) == pytest.approx(math.hypot(5, 10))
    assert float(found.radius) > found.uniform_radius


@QUICK
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(-150, 150),
    st.integers(0, 999),
)
def test_norms_turned_channels_and_moved_pixels_change_nothing(c, h, w, power, seed):
    image = normal(c, h, w, seed=seed)
    found = spatial_spread(image.flatten(), (c, h, w))
    assert 1 - 1e-12 <= float(found.participation) <= float(found.entropy) * (1 + 1e-12)
    assert float(found.entropy) <= h * w * (1 + 1e-12)
    turned = torch.einsum("ij,jhw->ihw", random_space(c, c, seed), image)
    again = spatial_spread(-(10.0**power) * turned.flatten(), (c, h, w))
    for name in ("participation", "entropy", "centre", "radius"):
        # For a single pixel the radius is rounding.
        torch.testing.assert_close(getattr(again, name), getattr(found, name), rtol=1e-9, atol=1e-9)
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
    shuffled = spatial_spread(image.flatten(1)[:, order].flatten(), (c, h, w))
    torch.testing.assert_close(shuffled.participation, found.participation)
    torch.testing.assert_close(shuffled.entropy, found.entropy)
    mirrored = spatial_spread(image.flip(-1).flatten(), (c, h, w))
    torch.testing.assert_close(mirrored.radius, found.radius)
    assert float(mirrored.centre[1]) == pytest.approx(w - 1 - float(found.centre[1]))


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 8, 12), (4, 16, 5)])
def test_random_directions_have_the_spread_of_chance(shape):
    draws = 4000
    found = spatial_spread(normal(math.prod(shape), draws), shape)
    chance = random_spread(shape)
    participation = found.participation
    error = float(participation.std()) / math.sqrt(draws)
    # The expansion stops before the third order.
    assert float(participation.mean()) == pytest.approx(
        chance.participation, abs=4 * error + 0.003 * chance.participation
    )
    assert float(participation.std()) == pytest.approx(chance.participation_std, rel=0.12)
    assert float(found.entropy.log().mean().exp()) == pytest.approx(chance.entropy, rel=2e-3)
    squares = found.radius**2
    error = float(squares.std()) / math.sqrt(draws)
    assert float(squares.mean()) == pytest.approx(chance.radius**2, abs=4 * error)


def test_chance_fills_less_than_the_image():
    for channels in (1, 3, 64):
        found = random_spread((channels, 500, 500))
        assert found.participation / 500**2 == pytest.approx(channels / (channels + 2), rel=1e-4)
    one_pixel = random_spread((1, 1))
    assert one_pixel.participation == pytest.approx(1)
    assert one_pixel.participation_std == pytest.approx(0, abs=1e-7)
    assert one_pixel.radius == 0


def test_all_forms_of_vectors_are_the_same():
    vectors, shape = normal(2 * 3 * 4, 7), (2, 3, 4)
    whole = spatial_spread(vectors, shape)
    assert whole.centre.shape == (7, 2)
    for given_as in (vectors, vectors.numpy(), vectors.mT.contiguous().mT, vectors.numpy()[:, ::1]):
        found = spatial_spread(given_as, shape)
        torch.testing.assert_close(found.participation, whole.participation)
        torch.testing.assert_close(found.centre, whole.centre)
    one = spatial_spread(vectors[:, 3], (1, 2, 3, 4))
    assert one.participation.shape == ()
    assert one.centre.shape == (2,)
    assert float(one.radius) == pytest.approx(float(whole.radius[3]))
    energy = pixel_energy(vectors, shape)
    assert energy.shape == (7, 3, 4)
    torch.testing.assert_close(energy.sum((1, 2)), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(1 / (energy**2).sum((1, 2)), whole.participation)
    torch.testing.assert_close(pixel_energy(vectors[:, 3], shape), energy[3])


def test_right_vectors_of_a_result_are_taken():
    result = svds(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]).double()), 3)
    found = spatial_spread(result, (2, 2))
    assert found.participation.tolist() == pytest.approx([1, 1, 1])
    assert found.centre.round().tolist() == [[0, 0], [0, 1], [1, 0]]


def test_vectors_are_left_as_they_were():
    vectors = normal(12, 2)
    before = vectors.clone()
    spatial_spread(vectors, (3, 4))
    assert torch.equal(vectors, before)
    frozen = vectors.numpy()
    frozen.flags.writeable = False
    spatial_spread(frozen, (3, 4))


@pytest.mark.parametrize(
    ("vectors", "shape", "message"),
    [
        (torch.ones(12), (3, 5), r"\(12,\); for images of shape \(3, 5\)"),
        (torch.ones(2, 12), (3, 4), "as columns"),
        (torch.ones(12, 2, 2), (3, 4), "as columns"),
        (torch.ones(12), (12,), r"must be \(C, H, W\)"),
        (torch.ones(12), (2, 1, 3, 2), r"must be \(C, H, W\)"),
        (torch.ones(12), (3, 4.0), "whole number"),
        (torch.ones(12, 0), (3, 4), "empty"),
        (torch.zeros(12), (3, 4), "vector 0 is 0"),
        (torch.tensor([[1.0, 0.0]] * 12), (3, 4), "vector 1 is 0"),
        (torch.full((12,), math.nan), (3, 4), "nan"),
        (torch.ones(12, dtype=torch.complex64), (3, 4), "real"),
    ],
)
def test_what_is_no_vector_over_an_image_is_refused(vectors, shape, message):
    with pytest.raises(ArgumentError, match=message):
        spatial_spread(vectors, shape)


def test_a_batch_of_results_is_refused():
    result = svds(torch.eye(4).expand(2, 4, 4), 2)
    with pytest.raises(ArgumentError, match=r"result\.of"):
        spatial_spread(result, (2, 2))


def test_vectors_too_long_to_be_taken_at_once_are_as_each_alone():
    vectors, shape = normal(*LARGE), (1024, 1024)
    together = spatial_spread(vectors, shape)
    alone = [spatial_spread(v, shape) for v in vectors.unbind(1)]
    for name in ("participation", "entropy", "centre", "radius"):
        each = torch.stack([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), each)


def test_a_zero_vector_is_counted_over_all_parts():
    vectors = torch.ones(*LARGE)
    vectors[:, 3] = 0
    with pytest.raises(ArgumentError, match="vector 3 is 0"):
        spatial_spread(vectors, (1024, 1024))


def test_a_trend_is_the_mean_over_photos_with_its_error():
    values = normal(6, 10) + torch.arange(10)
    trend = spread_trend(values)
    assert trend.index.tolist() == list(range(1, 11))
    torch.testing.assert_close(trend.mean, values.mean(0))
    torch.testing.assert_close(trend.error, values.std(0) / math.sqrt(6))
    assert trend.photos.tolist() == [6] * 10
    rho = [scipy.stats.spearmanr(np.arange(10), row).statistic for row in values.numpy()]
    assert trend.correlations.tolist() == pytest.approx(rho)
    assert trend.correlation == pytest.approx(np.mean(rho))
    assert trend.correlation_error == pytest.approx(np.std(rho, ddof=1) / math.sqrt(6))


def test_bins_take_each_photo_as_one():
    values = normal(4, 7)
    two = spread_trend(values, bins=2)
    assert two.index.tolist() == [2, 5.5]
    torch.testing.assert_close(two.mean[1], values[:, 3:].mean())
    torch.testing.assert_close(two.error[1], values[:, 3:].mean(1).std() / 2)
    edges = spread_trend(values, bins=[1, 2, 5])
    assert edges.index.tolist() == [1, 3, 6]
    torch.testing.assert_close(edges.mean[2], values[:, 4:].mean())
    assert spread_trend(values, bins=[3]).index.tolist() == [5]


def test_photos_may_have_different_numbers_of_vectors():
    trend = spread_trend([[1.0, 2.0, 3.0, 5.0], [3.0, 2.0]])
    assert trend.photos.tolist() == [2, 2, 1, 1]
    assert trend.mean.tolist() == [2, 2, 3, 5]
    assert trend.error[:2].tolist() == [1, 0]
    assert trend.error[2:].isnan().all()
    assert trend.correlations.tolist() == pytest.approx([1, -1])


def test_ties_share_their_rank():
    values = [1.0, 1.0, 2.0, 0.0, 3.0]
    rho = scipy.stats.spearmanr(range(5), values).statistic
    trend = spread_trend([values])
    assert trend.correlations.tolist() == pytest.approx([rho])
    assert math.isnan(trend.correlation_error)
    assert trend.error.isnan().all()


@QUICK
@given(st.integers(2, 30), st.integers(0, 999))
def test_any_rising_measure_of_the_same_order_has_the_same_correlation(k, seed):
    values = normal(3, k, seed=seed)
    once, again = spread_trend(values), spread_trend(values.exp(), bins=1)
    torch.testing.assert_close(once.correlations, again.correlations)
    torch.testing.assert_close(spread_trend(-values).correlations, -once.correlations)
    assert (once.correlations.abs() <= 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("values", "bins", "message"),
    [
        ([], None, "no photo"),
        ([[1.0]], None, "no trend"),
        ([[1.0, 2.0], [2.0, 2.0]], None, r"values\[1\]"),
        ([[[1.0, 2.0]]], None, "no trend"),
        ([[1.0, math.inf]], None, "finite"),
        ([[1.0, 2.0]], 3, "bins"),
        ([[1.0, 2.0]], 0, "bins"),
        ([[1.0, 2.0]], [], "rise"),
        ([[1.0, 2.0]], [2, 1], "rise"),
        ([[1.0, 2.0]], [0, 1], "whole number"),
        ([[1.0, 2.0]], [1, 3], "whole number"),
    ],
)
def test_what_has_no_trend_is_refused(values, bins, message):
    with pytest.raises(ArgumentError, match=message):
        spread_trend(values, bins=bins)
