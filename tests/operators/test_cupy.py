"""Operators under CuPy: without a copy on a GPU, and one clear line without one."""

import pytest
import torch

from jvpsvd import JacobianOperator, as_cupy, svds
from jvpsvd.errors import ArgumentError


def test_an_operator_on_the_cpu_is_refused_in_one_line():
    J = JacobianOperator(torch.sin, torch.ones(3))
    with pytest.raises(ArgumentError, match=r"on a CUDA GPU, this one is on cpu; .* use as_scipy"):
        as_cupy(J)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_solvers_of_cupy(dtype):
    cupy = pytest.importorskip("cupy")
    import cupyx.scipy.sparse.linalg as csl

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Tanh()).to("cuda", dtype)
    J = JacobianOperator(net, torch.randn(40, device="cuda", dtype=dtype))
    A = as_cupy(J)
    assert A.dtype == str(dtype).removeprefix("torch.")
    dense = J @ torch.eye(40, device="cuda", dtype=dtype)
    block = cupy.asfortranarray(cupy.random.rand(40, 5).astype(A.dtype))
    with cupy.cuda.Stream():
        found = A.matmat(block)
        cupy.cuda.get_current_stream().synchronize()
    torch.testing.assert_close(torch.from_dlpack(found), dense @ torch.from_dlpack(block))
    s = csl.svds(A, k=3, return_singular_vectors=False)
    expected = svds(J, k=3).s.flip(0)
    torch.testing.assert_close(torch.from_dlpack(cupy.sort(s)), expected, rtol=1e-4, atol=1e-5)
