"""A result as the triple it is, on another device, in another dtype, as arrays."""

import numpy as np
import pytest
import torch
from support.svd_problems import line, with_values

from jvpsvd import MatrixOperator, svds
from jvpsvd.errors import ArgumentError


@pytest.mark.parametrize("batch", [(), (3,)])
def test_it_unpacks_as_the_svd_of_torch_does(batch):
    matrix = torch.randn(*batch, 8, 6, dtype=torch.float64)
    U, s, Vh = svds(MatrixOperator(matrix), 6)
    assert (U.shape, s.shape, Vh.shape) == ((*batch, 8, 6), (*batch, 6), (*batch, 6, 6))
    torch.testing.assert_close(U * s[..., None, :] @ Vh, matrix)


@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_without_vectors_it_is_still_three(shape, method):
    result = svds(with_values(line(2, 1, 40), *shape), 4, method=method, vectors=False)
    U, s, Vh = result
    assert U is None
    assert Vh is None
    assert s is result.s
    assert result.numpy().U is None
    assert result.numpy().Vh is None


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("vectors", [True, False])
def test_shape_and_k(batch, vectors):
    result = svds(MatrixOperator(torch.randn(*batch, 4, 9)), 3, vectors=vectors)
    assert result.shape == (*batch, 4, 9)
    assert result.k == 3
    if batch:
        assert (result.of(1).shape, result.of(1).k) == ((4, 9), 3)


def test_arrays_hold_the_same_numbers():
    result = svds(torch.randn(7, 5, dtype=torch.float64), 3)
    arrays = result.numpy()
    assert arrays._fields == ("U", "s", "Vh")
    for array, tensor in zip(arrays, result, strict=True):
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float64
        assert np.array_equal(array, tensor)


def test_a_dtype_changes_the_floating_tensors_alone():
    result = svds(torch.randn(7, 5), 3)
    wide = result.to(torch.float64)
    kinds = [one.dtype for one in (wide.U, wide.s, wide.Vh, wide.residuals)]
    assert kinds == [torch.float64] * 4
    assert wide.converged.dtype == torch.bool
    assert wide.to(torch.float32) == result
    assert wide.certificate == result.certificate


def test_a_device_and_a_dtype_go_together():
    moved = svds(torch.randn(7, 5), 3).to("meta", torch.float64)
    assert {one.device.type for one in (*moved, moved.residuals, moved.converged)} == {"meta"}
    assert moved.s.dtype == torch.float64


def test_a_dtype_in_words_is_told_how_it_is_written():
    with pytest.raises(ArgumentError, match=r"^a dtype is no text; give torch\.float64$"):
        svds(torch.eye(3), 1).to("float64")


@pytest.mark.parametrize("target", ["gpu!", torch.int64, torch.complex64, None, 1.5])
def test_what_is_no_device_and_no_real_dtype(target):
    with pytest.raises(ArgumentError) as caught:
        svds(torch.eye(3), 1).to(target)
    assert "\n" not in str(caught.value)


def test_results_are_equal_if_all_they_say_is():
    matrix = with_values(line(2, 1, 20), 20, 20)
    result = svds(matrix, 3)
    assert result == result.to("cpu")
    assert result != svds(matrix, 3, vectors=False)
    assert result != svds(matrix, 2)
    assert result != result.to(torch.float32)
    assert result != "a result"


@pytest.mark.gpu
def test_to_a_gpu_and_back():
    result = svds(torch.randn(7, 5), 3)
    there = result.to("cuda")
    assert there.s.is_cuda
    assert there != result
    assert there.to("cpu") == result
    assert np.array_equal(there.numpy().U, result.U)
