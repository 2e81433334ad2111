"""Bounds and estimates of results whose squares leave the range of their dtype."""

import math

import pytest
import torch
from support.svd_problems import line, with_values

from jvpsvd import spectral_density, svds
from jvpsvd.errors import ArgumentError


@pytest.mark.parametrize("c", [1e-28, 1e-21, 1.0, 1e20, 1e35])
def test_bounds_of_float32_values(c):
    values = line(1, 0.1, 6)
    matrix = (with_values(values, 9, 6) * c).float()
    found = svds(matrix, "all")
    true = torch.linalg.svdvals(matrix.double())
    upper = found.upper_bounds().double()
    assert (upper >= true * (1 - 1e-6)).all()
    assert (upper <= true * (1 + 1e-3)).all()
    condition = found.condition_number()
    assert condition.low <= 10 <= condition.high <= 10.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("c", [1e-60, 1e60])
def test_values_that_another_dtype_cannot_hold(c, dtype):
    found = svds(torch.eye(3, dtype=torch.float64) * c, 2)
    with pytest.raises(ArgumentError, match="cannot hold singular values"):
        found.to(dtype)
    assert svds(torch.zeros(3, 3), 2).to(dtype).s.eq(0).all()


@pytest.mark.parametrize("known", [True, False])
def test_norms_of_any_order(known):
    matrix = torch.diag(torch.linspace(1, 2, 40, dtype=torch.float64))
    spectrum = svds(matrix, 2).spectrum if known else spectral_density(matrix)
    with pytest.raises(ArgumentError, match="exceeds what float64 can hold"):
        spectrum.schatten(1e-3)
    assert float(spectrum.schatten(1000.0)) == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("c", [1e-30, 1.0, 1e30])
def test_counts_at_any_threshold(c):
    spectrum = spectral_density(torch.diag(torch.linspace(1, 2, 40)) * c, probes=4)
    for threshold in (5e-324, 1e-310, 1e-100):
        assert round(spectrum.count(threshold).value) == 40
    for threshold in (1e100, 1e300, 1.7e308):
        found = spectrum.count(threshold)
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_zeros_have_no_volume_and_no_effective_rank():
    spectrum = spectral_density(torch.zeros(30, 20), probes=3)
    assert spectrum.log_volume().value == -math.inf
    rank = spectrum.effective_rank()
    assert rank.basis == "all values are 0"
    assert not math.isnan(rank.standard_error)


def test_the_volume_of_equal_values():
    volume = spectral_density(torch.eye(3) * 1e30, probes=5).log_volume()
    assert volume.value == pytest.approx(3 * math.log(1e30), rel=1e-5)


def test_one_step_of_one_vector_is_not_certain():
    true = torch.linspace(0.01, 1, 30).double()
    for seed in range(10):
        spectrum = spectral_density(torch.diag(true), probes=1, steps=1, seed=seed)
        low, high = spectrum.schatten(0.5).interval(0.9999)
        assert low <= float((true**0.5).sum() ** 2) <= high


def test_the_value_that_a_dtype_cannot_hold_is_named():
    batch = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    batch[1] *= 1e-60
    with pytest.raises(ArgumentError, match=r"cannot hold singular values of 1\.0e-60"):
        svds(batch, 1).to(torch.float32)


@pytest.mark.parametrize("nonzero", [1, 2, 50])
@pytest.mark.parametrize("seed", range(4))
def test_dimensions_and_their_bounds_are_possible_numbers(nonzero, seed):
    values = torch.cat([torch.ones(nonzero), torch.zeros(200 - nonzero)])
    spectrum = spectral_density(torch.diag(values), probes=2, seed=seed)
    for found in (spectrum.participation_ratio(), spectrum.effective_rank()):
        assert 1 <= found.low <= found.value * (1 + 1e-12) <= found.high * (1 + 2e-12)
        assert found.high <= 200
    entropy = spectrum.entropy()
    assert 0 <= entropy.low <= entropy.value + 1e-12 <= entropy.high + 2e-12
    assert entropy.high <= math.log(200)
