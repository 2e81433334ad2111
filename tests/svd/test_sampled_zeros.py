"""Values that are 0 or lie below rounding: what is large there is not bounded by their noise."""

import math

import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd.svd.estimate import Estimate


def bottleneck(dtype):
    """Return the spectrum of a network through 12 units: 188 values are 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 12), nn.Tanh(), nn.Linear(12, 200)).to(dtype)
    J = jvpsvd.JacobianOperator(net, torch.randn(1, 200, dtype=dtype))
    truth = torch.linalg.svdvals(J.to_dense().double())
    truth[12:] = 0
    return jvpsvd.svds(J, 5, method="golub-kahan").spectrum, truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_log_volume_of_a_deficient_matrix_has_no_lower_bound(dtype):
    spectrum, _ = bottleneck(dtype)
    found = spectrum.log_volume()
    assert found.low == -math.inf
    assert not found.resolved
    assert found.interval(0.999)[0] == -math.inf
    assert str(found).startswith("at most")


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_powers_leave_open_what_lies_below_rounding(p, dtype):
    spectrum, truth = bottleneck(dtype)
    norm = float((truth**p).sum()) ** (1 / p)
    found = spectrum.schatten(p)
    low, high = found.interval(0.9999)
    assert low <= norm <= high


def test_the_log_volume_of_all_values_is_bounded_where_they_exceed_rounding():
    values = torch.linspace(1, 2, 30)
    certain = jvpsvd.svds(torch.diag(values), "all").spectrum.log_volume()
    assert certain.resolved
    assert certain.low > -math.inf
    assert certain.value == pytest.approx(float(values.double().log().sum()), rel=1e-6)
    values = torch.tensor([1.0, 1e-3, 1e-9])  # the last is below rounding in float32
    found = jvpsvd.svds(torch.diag(values), "all").spectrum.log_volume()
    assert found.low == -math.inf
    assert not found.resolved


@pytest.mark.parametrize("steps", [3, 30])
def test_a_sample_has_no_lower_bound_of_the_log_volume(steps):
    values = torch.linspace(1, 2, 40).double()
    found = jvpsvd.spectral_density(torch.diag(values), steps=steps).log_volume()
    assert found.low == -math.inf
    assert found.interval(0.9999)[1] >= float(values.log().sum())


def test_a_number_without_a_bound_is_not_resolved():
    assert not Estimate(3.0, -math.inf, 3.0, math.inf).resolved
    assert not Estimate(3.0, 3.0, math.inf, 1.0).resolved
