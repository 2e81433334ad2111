"""The smallest singular values, where all can be had."""

import numpy as np
import pytest
import torch
from support.svd_problems import spectrum, with_values

import jvpsvd
from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (40, 40)])
def test_they_are_the_last_of_all_and_descend(shape, dtype, vectors):
    matrix = with_values(spectrum("line", 40), *shape).to(dtype)
    whole = svds(matrix, "all", vectors=vectors)
    result = svds(matrix, 3, which="smallest", vectors=vectors)
    assert torch.equal(result.s, whole.s[-3:])
    assert torch.equal(result.residuals, whole.residuals[-3:])
    assert (result.k, result.method, result.which) == (3, "exact", "smallest")
    assert result.converged.all()
    assert (result.s[:-1] >= result.s[1:]).all()
    if vectors:
        assert (result.U.shape, result.Vh.shape) == ((shape[0], 3), (3, shape[1]))
        assert torch.equal(result.U, whole.U[:, -3:])
        torch.testing.assert_close(matrix @ result.Vh.T, result.U * result.s, atol=1e-5, rtol=0)
        assert result.U.untyped_storage().nbytes() <= 3 * shape[0] * dtype.itemsize


def test_of_a_batch():
    matrix = torch.randn(4, 9, 7, dtype=torch.float64)
    result = svds(MatrixOperator(matrix), 2, which="smallest")
    torch.testing.assert_close(result.s, torch.linalg.svdvals(matrix)[:, -2:])
    assert result.of(3).certificate.complete


def test_the_certificate_says_what_share_they_hold_and_how_they_stand_to_rounding():
    values = torch.tensor([3.0, 2.0, 1.0, 1e-9])
    matrix = torch.diag(values) @ with_values(torch.ones(4), 4, 4).float()
    result = svds(matrix, 2, which="smallest")
    assert result.certificate.energy_share == pytest.approx(1 / 14, rel=1e-3)
    assert (result.certificate.complete, result.certificate.guaranteed) == (True, 2)
    assert result.below_residual.tolist() == [False, True]
    assert (result.upper_bounds() >= result.s).all()


def test_they_are_shown_plotted_and_saved_as_such(tmp_path):
    result = svds(torch.diag(torch.arange(1.0, 10)), 3, which="smallest")
    assert str(result).startswith("3 smallest singular triplets of a 9 x 9 operator")
    assert ">i = 7<" in result._repr_html_()
    result.save(tmp_path / "a")
    assert jvpsvd.load(tmp_path / "a") == result
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs the plot extra")
    pyplot.switch_backend("Agg")
    assert np.array_equal(result.plot().lines[0].get_xdata(), [7, 8, 9])
    pyplot.close("all")


def test_a_jacobian_s_smallest_values():
    linear = torch.nn.Linear(20, 12).double()
    J = JacobianOperator(linear, torch.randn(20, dtype=torch.float64))
    result = svds(J, 4, which="smallest")
    torch.testing.assert_close(result.s, torch.linalg.svdvals(linear.weight.detach())[-4:])


def test_where_all_values_cannot_be_had_one_line_says_why():
    with pytest.raises(ArgumentError) as caught:
        svds(torch.ones(1000, 1000), 1, which="smallest", memory="1MiB")
    said = str(caught.value)
    assert said.startswith('which="smallest", for which all 1000 values are computed, of a 1000 x')
    assert said.endswith("products alone do not lead to the smallest values")
    assert "\n" not in said


@pytest.mark.parametrize("method", ["golub-kahan", "randomized"])
def test_other_methods_find_the_largest(method):
    with pytest.raises(ArgumentError, match='the smallest need method="exact"'):
        svds(torch.eye(5), 1, which="smallest", method=method)


@pytest.mark.parametrize("which", ["small", None, 1])
def test_what_is_neither(which):
    with pytest.raises(ArgumentError, match='use "largest" or "smallest"'):
        svds(torch.eye(5), 1, which=which)
