"""Sparse matrices of SciPy and torch: copied by rows for both products, and checked."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from support.sparse import random_sparse

from jvpsvd import aslinearoperator, svds
from jvpsvd.errors import ArgumentError

FORMATS = ("csr", "csc", "coo", "dia", "bsr", "lil", "dok")


def scattered(format="csr", dtype=np.float64, shape=(60, 90)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)  # of many diagonals
        return random_sparse(shape, 0.1, format, dtype)


def products(A):
    m, n = A.shape
    forward, reverse = torch.eye(n, dtype=A.dtype), torch.eye(m, dtype=A.dtype)
    return A.matmat(forward).numpy(), A.rmatmat(reverse).numpy().T


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", FORMATS)
def test_both_products_of_every_format(format, dtype):
    matrix = scattered(format, dtype)
    for found in products(aslinearoperator(matrix)):
        np.testing.assert_allclose(found, matrix.toarray(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (1, 7), (7, 1)])
def test_blocks_of_every_width(shape, count, dtype):
    matrix = torch.from_numpy(scattered(shape=shape).toarray()).to(dtype)
    matrix[0, 0] = 1
    A, generator = aslinearoperator(matrix.to_sparse_csr()), torch.Generator().manual_seed(0)
    for product, dense in ((A.matmat, matrix), (A.rmatmat, matrix.T)):
        by_columns = torch.randn(count, dense.shape[1], dtype=dtype, generator=generator).T
        before = by_columns.clone()
        for block in (by_columns, by_columns.contiguous()):
            torch.testing.assert_close(product(block), dense @ block)
            assert torch.equal(block, before)


def unsorted():
    return sp.csr_array(([1.0, 2.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))


def repeated():
    return sp.csr_array(([1.0, 2.0, 4.0, 3.0], [1, 1, 0, 2], [0, 3, 4]), shape=(2, 3))


def empty_rows():
    return sp.csr_array((np.ones(1), [1], [0, 0, 1, 1]), shape=(3, 2))


def with_wide_indices():
    matrix = scattered()
    return sp.csr_array(
        (matrix.data, matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)),
        shape=matrix.shape,
    )


@pytest.mark.parametrize("make", [unsorted, repeated, empty_rows, with_wide_indices, scattered])
def test_a_matrix_of_scipy_stays_as_it_was(make):
    matrix, before = make(), make()
    for found in products(aslinearoperator(matrix)):
        np.testing.assert_allclose(found, before.toarray())
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(before, name))


@pytest.mark.parametrize("transposed", [False, True])
def test_later_changes_of_the_matrix_have_no_effect(transposed):
    matrix = scattered()
    given = matrix.T if transposed else matrix
    A, before = aslinearoperator(given), given.toarray()
    matrix.data[:] = 0
    matrix.indices[:] = 0
    for found in products(A):
        np.testing.assert_array_equal(found, before)


def test_later_changes_of_a_tensor_have_no_effect():
    dense = torch.tensor(scattered().toarray())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = dense.to_sparse_csr()
    A = aslinearoperator(tensor)
    tensor.values().zero_()
    for found in products(A):
        np.testing.assert_array_equal(found, dense)


@pytest.mark.parametrize("indices", [[0, 3], [1, 0], [-1, 0], [0, 1 << 32]])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_tensor_with_wrong_indices_is_refused(indices):
    pointers, values = torch.tensor([0, 2]), torch.ones(2)
    tensor = torch.sparse_csr_tensor(
        pointers, torch.tensor(indices), values, (1, 3), check_invariants=False
    )
    with pytest.raises(ArgumentError, match=r"indices that are none .*; build it anew"):
        aslinearoperator(tensor)


def test_what_cannot_be_laid_out_by_rows_is_refused():
    class Broken:
        shape, dtype = (2, 2), np.dtype(np.float64)

        def tocsr(self):
            raise ValueError("no rows here")

    with pytest.raises(
        ArgumentError, match=r"Broken cannot be .* \(ValueError: no rows here\); give"
    ):
        aslinearoperator(Broken())


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_the_largest_values_of_a_large_matrix(format):
    matrix = scattered(format, shape=(800, 600))
    result = svds(matrix, 4, tol=1e-9)
    assert result.method == "golub-kahan"
    np.testing.assert_allclose(result.s, np.linalg.svd(matrix.toarray())[1][:4], rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_half_precision_is_refused(layout, dtype):
    A = torch.from_numpy(scattered().todense()).to(dtype).to_sparse(layout=layout)
    with pytest.raises(ArgumentError, match=f"float32 or float64, not in {dtype}; convert"):
        aslinearoperator(A)
