"""Complex numbers: refused wherever they come in, with what does instead, which is right."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
import torch

from jvpsvd import JacobianOperator, MatrixOperator, aslinearoperator, svds
from jvpsvd.errors import ArgumentError

A = np.random.default_rng(0).standard_normal((2, 7, 5)).astype(np.complex128)
A = A[0] + 1j * A[1]
TRUTH = np.linalg.svd(A)[1]
EMBEDDING = r"complex \(.*real \[\[Re A, -Im A\], \[Im A, Re A\]\].*each twice: give that and 2k"
PARTS = "view_as_complex of a real point, torch.view_as_real of a complex value"


@pytest.mark.parametrize(
    "matrix",
    [
        A,
        A.astype(np.complex64),
        np.stack([A, A]),
        torch.from_numpy(A),
        torch.from_numpy(A).conj(),
        torch.from_numpy(A).to_sparse(),
        scipy.sparse.csr_array(A),
        sla.aslinearoperator(A),
    ],
    ids=["array", "complex64", "batch", "tensor", "conjugate", "coo", "SciPy sparse", "operator"],
)
def test_a_matrix_is_refused_with_the_real_one_that_does(matrix):
    for take in (aslinearoperator, lambda m: svds(m, 2)):
        with pytest.raises(ArgumentError, match=EMBEDDING) as caught:
            take(matrix)
        assert "\n" not in str(caught.value)


def test_the_real_matrix_has_each_value_twice():
    real = np.block([[A.real, -A.imag], [A.imag, A.real]])
    s = svds(real, 6, tol=1e-12).s
    np.testing.assert_allclose(s[::2], TRUTH[:3], rtol=1e-12)
    np.testing.assert_allclose(s[1::2], TRUTH[:3], rtol=1e-12)


Z = torch.from_numpy(A[0])


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (torch.sin, Z),
        (lambda x: x + 1j, Z.real),
        (lambda x: x["a"], {"a": Z.real, "z": Z}),
        (lambda x: x["z"], {"z": Z, "a": Z.real}),
        (lambda x: (x, 1j * x), Z.real),
    ],
    ids=["point", "value", "tree", "tree that uses it", "tree of values"],
)
def test_a_function_is_refused_with_what_to_write(fn, x):
    with pytest.raises(ArgumentError, match=PARTS) as caught:
        JacobianOperator(fn, x)
    assert "\n" not in str(caught.value)


def test_complex_parameters_are_not_held_fixed_in_silence():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.z = torch.nn.Parameter(Z.clone())
            self.a = torch.nn.Parameter(Z.real.clone())

        def forward(self, x):
            return (self.z * self.a * x).real

    with pytest.raises(ArgumentError, match=PARTS):
        JacobianOperator.wrt_parameters(Net().eval(), torch.ones(5, dtype=torch.float64))
    J = JacobianOperator.wrt_parameters(
        Net().eval(), torch.ones(5, dtype=torch.float64), names=["a"]
    )
    assert J.shape == (5, 5)


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_a_function_of_real_parts_has_each_value_twice(derivatives):
    matrix = torch.from_numpy(A)

    def fn(parts):
        return torch.view_as_real(matrix @ torch.view_as_complex(parts))

    J = JacobianOperator(fn, torch.view_as_real(Z).clone(), derivatives=derivatives)
    np.testing.assert_allclose(svds(J, 6, tol=1e-12).s[::2], TRUTH[:3], rtol=1e-9)


def test_a_complex_vector_is_multiplied_by_parts():
    operator = MatrixOperator(torch.from_numpy(A.real))
    with pytest.raises(ArgumentError, match=r"multiply V\.real and V\.imag apart"):
        operator @ Z
    with pytest.raises(ArgumentError, match=r"multiply U\.real and U\.imag apart"):
        operator.rmatmat(torch.zeros(7, 1, dtype=torch.complex128))
