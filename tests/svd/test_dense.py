import pytest
import torch
from svd_problems import line, orthonormal, repeat, with_values

from jvpsvd.svd.dense import _by_qr_iteration, dense_svd


@pytest.mark.parametrize("decompose", [dense_svd, _by_qr_iteration])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (12, 5), (5, 12)])
def test_both_ways_give_the_thin_decomposition(decompose, dtype, shape):
    s = torch.cat([repeat(2, 1), line(2, 0, min(shape) - 1)])
    matrix = with_values(s, *shape).to(dtype)
    U, found, Vh = decompose(matrix)
    eps = torch.finfo(dtype).eps
    assert U.dtype == found.dtype == Vh.dtype == dtype
    assert (U.shape, Vh.shape) == ((shape[0], min(shape)), (min(shape), shape[1]))
    assert torch.allclose(found.double(), s, atol=20 * eps)
    assert (U * found @ Vh - matrix).abs().max() < 60 * eps


def test_a_transposed_view_is_decomposed_as_it_reads():
    matrix = orthonormal(6, 4, 1).T * line(4, 1, 6)
    U, s, Vh = _by_qr_iteration(matrix)
    assert torch.allclose(U * s @ Vh, matrix)
