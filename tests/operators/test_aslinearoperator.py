"""Other libraries' matrices and operators as ours."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
import torch

from jvpsvd import MatrixOperator, aslinearoperator, svds
from jvpsvd.errors import ArgumentError

LAYOUTS = {
    "coo": torch.Tensor.to_sparse,
    "hybrid coo": lambda t: t.to_sparse(1),
    "uncoalesced coo": lambda t: torch.stack([t.to_sparse(), t.to_sparse()]).sum(0) / 2,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "bsr": lambda t: t.to_sparse_bsr((2, 1)),
    "bsc": lambda t: t.to_sparse_bsc((2, 1)),
}
DTYPES = {np.float32: torch.float32, np.float64: torch.float64}


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def field_of_records(array):
    records = np.zeros(array.shape, dtype=[("before", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def field_of_recarray(array):
    records = np.zeros(array.shape, dtype=[("before", "i2"), ("value", array.dtype)])
    records["value"] = array
    return records.view(np.recarray).value


def reversed_twice(array):
    return array[::-1, ::-1].copy()[::-1, ::-1]


WRAPPERS = {
    "tensor": torch.from_numpy,
    "array": lambda a: a,
    "transposed array": lambda a: np.ascontiguousarray(a.T).T,
    "strided array": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "negative strides": reversed_twice,
    "read-only array": read_only,
    "field of records": field_of_records,
    "field of a recarray": field_of_recarray,
    "masked array without a masked entry": np.ma.masked_array,
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "np.matrix": np.matrix,
    "csr_matrix": scipy.sparse.csr_matrix,
    "coo_array": scipy.sparse.coo_array,
    "csc_array": scipy.sparse.csc_array,
    "dia_array": scipy.sparse.dia_array,
    "dok_array": scipy.sparse.dok_array,
    "lil_matrix": scipy.sparse.lil_matrix,
    "scipy operator": sla.aslinearoperator,
    "scipy operator of sparse": lambda a: sla.aslinearoperator(scipy.sparse.csr_array(a)),
    "transposed scipy operator": lambda a: sla.aslinearoperator(a.T.copy()).T,
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRAPPERS)
def test_products_shape_and_dtype(name, dtype):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((4, 3)).astype(dtype)
    V, U = rng.standard_normal((3, 2)).astype(dtype), rng.standard_normal((4, 2)).astype(dtype)
    A = aslinearoperator(WRAPPERS[name](matrix))
    assert A.shape == (4, 3)
    assert A.dtype == DTYPES[dtype]
    forward, reverse = A @ torch.from_numpy(V), A.T @ torch.from_numpy(U)
    assert forward.dtype == reverse.dtype == DTYPES[dtype]
    np.testing.assert_allclose(forward.numpy(), matrix @ V, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reverse.numpy(), matrix.T @ U, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((A @ torch.from_numpy(V[:, 0])).numpy(), forward[:, 0], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support:UserWarning")
@pytest.mark.parametrize("shape", [(4, 3), (2, 6)])
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_torch_is_multiplied(layout, dtype, shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    A = aslinearoperator(LAYOUTS[layout](matrix))
    torch.testing.assert_close(A @ torch.eye(shape[1], dtype=dtype), matrix)
    torch.testing.assert_close(A.T @ torch.eye(shape[0], dtype=dtype), matrix.T)
    torch.testing.assert_close(svds(A, 2).s, torch.linalg.svdvals(matrix)[:2])


def memory_mapped(mode):
    def mapped(array, folder):
        array.tofile(folder / "matrix")
        return np.memmap(folder / "matrix", dtype=array.dtype, mode=mode, shape=array.shape)

    return mapped


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_an_array_in_a_file_is_as_it_was(mode, tmp_path):
    array = np.random.default_rng(0).standard_normal((5, 4))
    result = svds(memory_mapped(mode)(array, tmp_path), 2)
    np.testing.assert_allclose(result.s, np.linalg.svd(array)[1][:2])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "matrix").reshape(5, 4), array)


def test_an_operator_is_returned_as_it_is():
    A = MatrixOperator(torch.eye(2))
    assert aslinearoperator(A) is A


def test_a_scipy_operator_that_returns_its_argument_does_not_share_it():
    identity = sla.LinearOperator(
        (3, 3), matvec=lambda v: v, rmatvec=lambda v: v, matmat=lambda V: V, dtype=np.float64
    )
    V = torch.ones(2, 3, dtype=torch.float64).T
    aslinearoperator(identity).matmat(V).zero_()
    assert V.eq(1).all()


def test_a_foreign_buffer_that_is_used_again_does_not_change_earlier_products():
    buffers = {}

    def product(V):
        buffer = buffers.setdefault(V.shape, np.zeros(V.shape))
        buffer[:] = V
        return buffer

    sides = dict.fromkeys(("matvec", "rmatvec", "matmat", "rmatmat"), product)
    A = aslinearoperator(sla.LinearOperator((2, 2), dtype="f8", **sides))
    first = A.matmat(torch.ones(2, 1, dtype=torch.float64))
    A.matmat(torch.zeros(2, 1, dtype=torch.float64))
    assert first.eq(1).all()


class Malformed:
    """An operator whose products are not what its shape and dtype promise."""

    shape = (2, 3)
    dtype = np.dtype(np.float64)

    def __init__(self, product):
        self.matmat = self.rmatmat = product


@pytest.mark.parametrize(
    "product",
    [
        lambda V: np.ones((3, V.shape[1])),
        lambda V: np.ones(2),
        lambda V: np.ones((2, V.shape[1] + 1)),
        lambda V: np.ones((2, V.shape[1]), dtype=complex),
    ],
    ids=["wrong rows", "a vector", "wrong width", "complex"],
)
def test_a_product_of_another_shape_or_kind_is_refused(product):
    with pytest.raises(ArgumentError, match="check its matmat and rmatmat"):
        aslinearoperator(Malformed(product)) @ torch.ones(3, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.ones((2, 2), dtype=int), "int64"),
        (np.ones((2, 2), dtype=complex), "complex128"),
        (np.ones((2, 2), dtype=np.longdouble), "longdouble|float128|float64"),
        (np.ones((2, 2), dtype=object), "object"),
        (np.ones((2, 2), dtype=[("a", "f8")]), "dtype .*'a'"),
        (np.ones((2, 2), dtype="M8[s]"), "datetime64"),
        (np.full((2, 2), "x"), "<U1"),
        (np.ma.masked_array(np.ones((2, 2)), [[True, False], [False, False]]), "masked entries"),
        (np.ma.masked_greater(np.arange(4.0).reshape(1, 2, 2), 2), r"A\.filled\(0\)"),
        (torch.ones(2, 2, device="meta"), "on meta"),
        (torch.ones(2, 2).to_mkldnn(), "_mkldnn"),
        (np.ones(2), "two-dimensional"),
        (np.ones((2, 2, 2, 2)), "two-dimensional"),
        (torch.ones(2, 2, dtype=torch.int32), "int32"),
        (scipy.sparse.eye_array(2, dtype=int), "int64"),
        (scipy.sparse.eye_array(2, dtype=complex), "complex128"),
        (scipy.sparse.coo_array(np.ones(2)), "two sides"),
        (sla.aslinearoperator(np.eye(2, dtype=complex)), "complex128"),
        ([[1.0, 2.0]], "list"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_real_operator_is_refused_by_name(A, message):
    with pytest.raises(ArgumentError, match=message):
        aslinearoperator(A)


@pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(2)]), "nested"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), "nested"),
        (lambda: torch.masked.masked_tensor(torch.ones(2, 2), torch.eye(2) > 0), "masked"),
        (lambda: torch.ones(2, 2, 2).to_sparse_csr(), "sparse shape"),
    ],
)
def test_tensors_that_lack_entries_or_a_product_are_refused(made, message):
    with pytest.raises(ArgumentError, match=message):
        aslinearoperator(made())


def test_vectors_of_another_dtype_are_not_cast():
    A = aslinearoperator(scipy.sparse.eye_array(3, format="csr"))
    with pytest.raises(ArgumentError, match="nothing is cast silently"):
        A @ torch.ones(3)


def test_vectors_may_require_grad():
    A = aslinearoperator(2 * scipy.sparse.eye_array(3, format="csr"))
    v = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (A @ v).sum().backward()
    assert v.grad.tolist() == [2.0, 2.0, 2.0]
