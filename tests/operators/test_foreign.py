"""Objects of other libraries whose products cannot be relied on: found out at the beginning."""

import logging

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
import torch

from jvpsvd import aslinearoperator, svds
from jvpsvd.errors import AdjointError, ArgumentError, JvpsvdError, NonFiniteError

M, N = 30, 20


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((M, N))


def operator(matrix, **products):
    """A SciPy operator with the products of a matrix, some of them replaced."""
    right = {"matvec": lambda v: matrix @ v, "rmatvec": lambda u: matrix.T @ u}
    return sla.LinearOperator(matrix.shape, dtype=matrix.dtype, **{**right, **products})


def centred(matrix):
    """A sparse matrix minus its column means, as the documentation of many packages writes it."""
    X = scipy.sparse.csr_array(np.where(np.abs(matrix) > 1, matrix, 0.0))
    mean = np.asarray(X.mean(axis=0)).ravel()
    made = sla.LinearOperator(
        X.shape,
        matvec=lambda v: X @ v - mean @ v,
        rmatvec=lambda u: X.T @ u - mean * u.sum(),
        dtype=X.dtype,
    )
    return made, X.toarray() - mean


def scaled_by_entry(matrix):
    """diag(d) A: right for (n,), and an outer product for (n, 1)."""
    d = np.linspace(1, 2, N)
    made = operator(
        matrix, matvec=lambda v: matrix @ (d * v.ravel()), rmatvec=lambda u: d * (matrix.T @ u)
    )
    return made, matrix * d


def summed(matrix):
    """A + 1 1' by `sum()`, which adds up all columns of a block."""
    made = operator(
        matrix,
        matvec=lambda v: matrix @ v + v.sum(),
        rmatvec=lambda u: matrix.T @ u + u.sum(),
        matmat=lambda V: matrix @ V + V.sum(),
        rmatmat=lambda U: matrix.T @ U + U.sum(),
    )
    return made, matrix + 1


def first_column_only(matrix):
    """Blocks whose later columns were forgotten."""

    def forgetful(product):
        def of_block(V):
            out = product @ V
            out[:, 1:] = 0
            return out

        return of_block

    made = operator(matrix, matmat=forgetful(matrix), rmatmat=forgetful(matrix.T))
    return made, matrix


@pytest.mark.parametrize("made", [centred, scaled_by_entry, summed, first_column_only])
@pytest.mark.parametrize("k", [1, 5])
def test_vectors_count_where_blocks_differ(made, k, matrix, caplog):
    A, dense = made(matrix)
    with caplog.at_level(logging.WARNING):
        result = svds(A, k, method="golub-kahan", tol=1e-10)
    np.testing.assert_allclose(result.s, np.linalg.svd(dense)[1][:k], rtol=1e-9)
    # SciPy makes blocks of its vectors' products: from 1.18 on of vectors, before of columns.
    block = np.random.default_rng(0).standard_normal((len(dense[0]), 2))
    differ = made is summed or made is first_column_only or not blocks_agree(A, dense, block)
    assert ("one by one" in caplog.text) is differ
    assert result.converged.all()


def blocks_agree(A, dense, block):
    rows = np.random.default_rng(1).standard_normal((len(dense), 2))
    try:
        found = A.matmat(block), A.rmatmat(rows)
    except ValueError:
        return False
    return np.allclose(found[0], dense @ block) and np.allclose(found[1], dense.T @ rows)


@pytest.mark.parametrize("flavour", ["plain", "transposed", "scaled", "sum", "composed"])
def test_what_scipy_makes_of_operators_goes_by_vectors_too(flavour, matrix):
    A, dense = centred(matrix)
    made, truth = {
        "plain": (A, dense),
        "transposed": (A.T, dense.T),
        "scaled": (3 * A, 3 * dense),
        "sum": (A + sla.aslinearoperator(matrix), dense + matrix),
        "composed": (A @ sla.aslinearoperator(matrix.T), dense @ matrix.T),
    }[flavour]
    np.testing.assert_allclose(svds(made, 4, tol=1e-9).s, np.linalg.svd(truth)[1][:4], rtol=1e-8)


def test_blocks_that_agree_are_used_and_nothing_is_said(matrix, caplog):
    widths = []

    def counted(product):
        def of_block(V):
            widths.append(V.shape[1])
            return product @ V

        return of_block

    A = aslinearoperator(operator(matrix, matmat=counted(matrix), rmatmat=counted(matrix.T)))
    assert widths == [2, 2]
    A.matmat(torch.ones(N, 7, dtype=torch.float64))
    assert widths == [2, 2, 7]
    assert A.products == (7, 0)  # the comparison is not counted
    assert not caplog.records


class Vectors:
    """What has products of vectors alone."""

    def __init__(self, matrix):
        self.shape, self.dtype, self.matrix = matrix.shape, matrix.dtype, matrix

    def matvec(self, v):
        assert v.ndim == 1
        return self.matrix @ v

    def rmatvec(self, u):
        assert u.ndim == 1
        return self.matrix.T @ u


def test_products_of_vectors_alone_will_do(matrix):
    A = aslinearoperator(Vectors(matrix))
    V = torch.randn(N, 3, dtype=torch.float64)
    np.testing.assert_allclose(A @ V, matrix @ V.numpy())
    np.testing.assert_allclose(svds(A, 3, tol=1e-9).s, np.linalg.svd(matrix)[1][:3], rtol=1e-8)


def test_an_argument_that_is_written_into_is_a_copy(matrix):
    def spoiling(product):
        def of_block(V):
            image = product @ V
            V[:] = np.nan
            return image

        return of_block

    names = ("matvec", "matmat", "rmatvec", "rmatmat")
    sides = zip(names, (matrix, matrix, matrix.T, matrix.T), strict=True)
    A = aslinearoperator(operator(matrix, **{name: spoiling(side) for name, side in sides}))
    V = torch.ones(N, 2, dtype=torch.float64).T.contiguous().T
    A.matmat(V)
    A.matvec(V[:, 0])
    assert V.eq(1).all()
    assert svds(A, 5).converged.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.longdouble, ">f8"])
def test_products_of_another_real_dtype_are_converted(dtype):
    matrix = np.arange(6.0).reshape(2, 3)
    A = aslinearoperator(
        operator(
            matrix,
            matvec=lambda v: np.zeros(2, dtype) if v.any() else np.ones(2, dtype),
            rmatvec=lambda u: np.zeros(3, dtype),
        )
    )
    assert A.matvec(torch.ones(3, dtype=torch.float64)).tolist() == [0, 0]


def random_products(matrix):
    rng = np.random.default_rng(1)
    return {"matvec": lambda v: matrix @ v + rng.standard_normal(M)}


def unimplemented(matrix):
    def fails(u):
        raise NotImplementedError

    return {"rmatvec": fails}


REFUSED = {
    "random": (random_products, ArgumentError, "gives the same vector two products"),
    "no rmatvec": (lambda matrix: {"rmatvec": None}, ArgumentError, "has no rmatvec; give it one"),
    "rmatvec raises": (unimplemented, ArgumentError, "has no rmatvec; give it one"),
    "wrong transpose": (
        lambda matrix: {"rmatvec": lambda u: np.roll(matrix.T @ u, 1)},
        AdjointError,
        "matvec and rmatvec of .* are not of one matrix.*multiply by the transpose",
    ),
    "no transpose at all": (
        lambda matrix: {"rmatvec": lambda u: np.zeros(N)},
        AdjointError,
        "not of one matrix",
    ),
    "wrong length": (lambda matrix: {"matvec": lambda v: v}, ArgumentError, "matvec"),
    "raises": (lambda matrix: {"matvec": lambda v: 1 / 0}, ArgumentError, "ZeroDivisionError"),
    "complex": (lambda matrix: {"matvec": lambda v: matrix @ v + 0j}, ArgumentError, "complex128"),
    "words": (lambda matrix: {"matvec": lambda v: np.full(M, "x")}, ArgumentError, "not real"),
    "objects": (
        lambda matrix: {"matvec": lambda v: (matrix @ v).astype(object)},
        ArgumentError,
        "gives object",
    ),
    "nothing": (lambda matrix: {"matvec": lambda v: None}, ArgumentError, "matvec"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_relied_on_is_refused_at_once(name, matrix):
    made, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        aslinearoperator(operator(matrix, **made(matrix)))
    assert "\n" not in str(caught.value)


class Blocks:
    def __init__(self, shape, dtype, product):
        self.shape, self.dtype = shape, dtype
        self.matmat = self.rmatmat = product


@pytest.mark.parametrize(
    "foreign",
    [
        Blocks((2, 2), np.dtype("f8"), lambda V: V + V.sum()),
        Blocks((2, 2), np.dtype("f8"), lambda V: V[:, :1]),
        Blocks((2, 2), np.dtype("f8"), lambda V: scipy.sparse.csr_array(V)),
        Blocks((2, 2), torch.float64, lambda V: V),
        Blocks((2, 2), "no dtype", lambda V: V),
        Blocks((2, 2), np.dtype("c16"), lambda V: V),
        Blocks((2, 2), np.dtype("i8"), lambda V: V),
        Blocks("ab", np.dtype("f8"), lambda V: V),
        Blocks((2,), np.dtype("f8"), lambda V: V),
        Blocks((2, 0), np.dtype("f8"), lambda V: V),
        Blocks(None, np.dtype("f8"), lambda V: V),
    ],
)
def test_malformed_objects_are_refused_in_one_line(foreign):
    with pytest.raises(JvpsvdError) as caught:
        aslinearoperator(foreign)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite_are_the_errors_of_the_solver(bad, matrix):
    matrix[3, 4] = bad
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError):
        svds(operator(matrix), 3)


def test_a_product_that_fails_later_is_one_line(matrix):
    calls = []

    def failing(v):
        calls.append(v)
        if len(calls) > 9:
            raise RuntimeError("the cluster\nis gone")
        return matrix @ v

    with pytest.raises(ArgumentError, match=r"raised RuntimeError .* the cluster is gone"):
        svds(operator(matrix, matvec=failing), 3)


@pytest.mark.parametrize("scale", [1e-45, 1e-41])
def test_an_operator_whose_products_lose_all_digits_is_not_called_wrong(matrix, scale):
    tiny = (matrix * scale).astype(np.float32)
    with pytest.raises(ArgumentError, match=r"float32; .*multiply the operator by a number"):
        svds(operator(tiny), 3)


@pytest.mark.filterwarnings("error")
def test_an_operator_whose_products_overflow_is_not_called_inconsistent(caplog):
    numbers = np.random.default_rng(0).standard_normal((700, 600))
    large = (1e37 * numbers).astype(np.float32)  # some entries of products overflow, some do not
    with pytest.raises(ArgumentError, match="multiply the operator by a number that brings it"):
        svds(operator(large), 3)
    assert "differs from" not in caplog.text


def test_numbers_that_are_not_finite_are_looked_for_where_they_can_be(matrix):
    matrix[0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"check what it is made of$"):
        svds(operator(matrix), 3)


@pytest.mark.parametrize("n", [2, 5, 50])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_square_matrix_in_place_of_its_transpose_is_refused(n, blocks):
    D = np.random.default_rng(0).standard_normal((n, n))
    products = {"matvec": lambda v: D @ v, "rmatvec": lambda v: D @ v}
    if blocks:
        products |= {"matmat": products["matvec"], "rmatmat": products["rmatvec"]}
    with pytest.raises(AdjointError, match="not of one matrix"):
        aslinearoperator(sla.LinearOperator(D.shape, dtype=float, **products))
    D += D.T
    aslinearoperator(sla.LinearOperator(D.shape, dtype=float, **products))


def test_an_operator_of_whole_numbers_is_told_to_say_its_dtype():
    made = sla.LinearOperator((3, 2), matvec=lambda v: v, rmatvec=lambda u: u, dtype=np.int8)
    with pytest.raises(ArgumentError, match=r"has dtype int8, .*; make it with dtype=float"):
        aslinearoperator(made)
