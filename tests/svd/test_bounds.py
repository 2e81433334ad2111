"""Condition number, volume and rank, with the bounds that residuals and certificate allow."""

import dataclasses
import math

import pytest
import torch
from support.svd_problems import spectrum, with_values
from test_result import tanh_layers

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.svd import Estimate


def truth(matrix):
    s = torch.linalg.svdvals(matrix.double())
    return float(s[0] / s[-1]), float(s.log().sum()), s


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_the_true_numbers_lie_within_their_bounds(seed, method):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(30, 20 + seed, generator=generator)
    condition, volume, s = truth(matrix)
    result = svds(matrix, "all", method=method, on_unconverged="ignore")
    found = result.condition_number(), result.log_volume(), result.rank()
    for estimate, true in zip(found, (condition, volume, len(s)), strict=True):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low <= true <= estimate.high
        assert float(estimate) == pytest.approx(true, rel=1e-3)
        assert math.isfinite(estimate.high)
        assert estimate.standard_error == 0


def test_a_smallest_value_of_rounding_gives_a_bound_alone():
    fn, x = tanh_layers()
    condition, volume, s = truth(torch.func.jacrev(fn)(x.double()))
    result = svds(JacobianOperator(fn, x), 64)
    found = result.condition_number()
    assert found.value == found.low <= condition
    assert found.high == math.inf
    assert str(found).startswith("at least ")
    assert "may be 0" in found.basis
    found = result.log_volume()
    assert found.low == -math.inf
    assert volume <= found.value == found.high
    assert str(found).startswith("at most ")
    found = result.rank(1e-8)
    assert found.low <= int((s > 1e-8 * s[0]).sum()) <= found.high
    assert found.low < found.high


def test_of_fewer_than_all_values_condition_and_rank_are_bounds_and_there_is_no_volume():
    matrix = with_values(spectrum("harmonic", 200), 250, 200)
    result = svds(matrix, 20, method="golub-kahan")
    found = result.condition_number()
    assert 17 < found.value == found.low <= 20 * 1.001
    assert found.high == math.inf
    assert 'k="all" finds them' in found.basis
    found = result.rank(1e-3)
    assert (found.value, found.low, found.high) == (20, 20, 200)
    assert "180 smaller values are unknown" in found.basis
    found = result.rank(1 / 10.5)
    assert (found.value, found.low, found.high) == (10, 10, 10)
    with pytest.raises(ArgumentError, match=r'log_volume needs all 200 values, .* give k="all"'):
        result.log_volume()


def test_a_condition_below_one_is_impossible():
    result = svds(torch.eye(6), 2, on_unconverged="ignore")
    assert result.condition_number().low >= 1
    assert svds(torch.eye(6), "all").condition_number().value == 1


def test_of_zero():
    result = svds(torch.zeros(4, 3), "all")
    assert result.condition_number().value == math.inf
    assert result.rank().value == result.rank().high == 0
    assert result.log_volume().value == -math.inf


def test_what_is_unsound_bounds_nothing():
    result = svds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), "all")
    unsound = dataclasses.replace(result.certificate, combination_residual=1.0)
    result = dataclasses.replace(result, certificates=(unsound,))
    for found in (result.condition_number(), result.log_volume(), result.rank()):
        assert "not sound" in found.basis
    assert (result.rank().low, result.rank().high) == (0, 3)
    assert result.condition_number().high == result.log_volume().high == math.inf


@pytest.mark.parametrize("name", ["condition_number", "rank", "log_volume"])
def test_a_batch_has_one_for_each_matrix(name):
    result = svds(MatrixOperator(torch.randn(2, 5, 4)))
    with pytest.raises(ArgumentError, match=r"take result.of\(i\)"):
        getattr(result, name)()
    assert isinstance(getattr(result.of(0), name)(), Estimate)


@pytest.mark.parametrize("name", ["condition_number", "rank", "log_volume", "dimension"])
def test_of_the_smallest_alone_the_largest_is_missing(name):
    with pytest.raises(ArgumentError):
        getattr(svds(torch.eye(5), 2, which="smallest"), name)()
    assert float(getattr(svds(torch.eye(5), "all", which="smallest"), name)()) in (0, 1, 5)


@pytest.mark.parametrize("tol", [0, 1, -1, "1", True])
def test_a_relative_tolerance(tol):
    with pytest.raises(ArgumentError, match="must be a number that lies between 0 and 1"):
        svds(torch.eye(5), 2).rank(tol)


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate(2.0, 2.0, 2.0)) == str(Estimate(2.0, 2.0 - 1e-9, 2.0 + 1e-9)) == "2"
    assert str(Estimate(2.0, 1.0, 4.0, 0.25, "so")) == "between 1.00 and 4.00 (± 0.25): so"
    assert str(Estimate(2.0, 1.9, 2.1, 0.25, "so")) == "2.00 ± 0.25 (1.90 to 2.10): so"
    assert str(Estimate(2.0, 1.9, math.inf, 0.25)) == "at least 1.90 ± 0.25"
    assert str(Estimate(200.0, 199.9, 200.1, 25.0)) == "200 ± 25"
    assert str(Estimate(2.0, 1.0, 4.0)) == "between 1 and 4"
    assert str(Estimate(math.nan, -math.inf, math.inf, basis="none")) == "unknown: none"
