"""Operators written down: their entries and Frobenius norms, whatever they are made of."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_problems import matrices
from support.sparse import random_sparse
from torch import nn

from jvpsvd import (
    JacobianOperator,
    MatrixOperator,
    StreamedStack,
    aslinearoperator,
    restrict,
    stack,
)
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator, Products

DTYPE = torch.float64


def random(m, n, seed):
    return torch.randn(m, n, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


@st.composite
def expressions(draw, m, n, depth=3):
    """An operator m x n made by signs, and the same expression of dense matrices."""
    kind = draw(st.sampled_from(["matrix", "+", "-", "neg", "*", "/", "T", "@"] if depth else [""]))
    if kind in ("", "matrix"):
        matrix = random(m, n, draw(st.integers(0, 99)))
        return MatrixOperator(matrix), matrix
    if kind == "@":
        inner = draw(st.integers(1, 4))
        A, a = draw(expressions(m, inner, depth - 1))
        B, b = draw(expressions(inner, n, depth - 1))
        return A @ B, a @ b
    if kind == "T":
        A, a = draw(expressions(n, m, depth - 1))
        name = draw(st.sampled_from(["T", "mT", "H"]))
        return getattr(A, name), a.T
    A, a = draw(expressions(m, n, depth - 1))
    if kind == "neg":
        return -A, -a
    if kind in "*/":
        c = draw(st.floats(0.25, 4.0)) * draw(st.sampled_from([-1, 1]))
        c = draw(st.sampled_from([c, np.float64(c), np.float32(c), max(1, round(c))]))
        left = draw(st.booleans())
        return (A / c, a / float(c)) if kind == "/" else ((c * A if left else A * c), float(c) * a)
    B, b = draw(expressions(m, n, depth - 1))
    return (A + B, a + b) if kind == "+" else (A - B, a - b)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_expressions_are_those_of_dense_matrices(data, m, n):
    A, a = data.draw(expressions(m, n))
    torch.testing.assert_close(A.to_dense(), a)
    torch.testing.assert_close(A.T.to_dense(), a.T)
    torch.testing.assert_close(A.fro_norm(), torch.linalg.matrix_norm(a))


class Own(LinearOperator):
    """A user's operator, which holds no matrix to return."""

    def __init__(self, matrix):
        super().__init__(tuple(matrix.shape), matrix.dtype)
        self.matrix = matrix

    def _matmat(self, V):
        return self.matrix @ V

    def _rmatmat(self, U):
        return self.matrix.mT @ U


def jacobian(shape, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(*shape, 5, dtype=DTYPE)
    J = JacobianOperator(net, x, **options)
    single = torch.func.jacrev(net)
    return J, (torch.func.vmap(single) if options else single)(x).detach()


def scipy_wrapped():
    matrix = random(5, 3, 1)
    return aslinearoperator(sla.aslinearoperator(matrix.numpy())), matrix


def sparse():
    matrix = random_sparse((6, 4), 0.4)
    return aslinearoperator(matrix.tocsr()), torch.from_numpy(matrix.toarray())


def sparse_tensor():
    matrix = random(4, 6, 3).relu()
    return MatrixOperator(matrix.to_sparse()), matrix


def streamed():
    each = [random(2, 3, seed) for seed in range(4)]
    return StreamedStack(lambda i: Own(each[i]), 4), torch.cat(each)


def mean_gram():
    stream, matrix = streamed()
    return stream.mean_gram(), matrix.T @ matrix / 4


def restricted():
    matrix = random(5, 6, 2)
    return restrict(Own(matrix), [4, 0], slice(1, 4)), matrix[[4, 0], 1:4]


def stacked():
    a, b = random(2, 3, 4), random(4, 3, 5)
    return stack([Own(a), -Own(b)]), torch.cat([a, -b])


def batch():
    matrix = matrices(3, 4, 2)
    return Own(matrix), matrix


def batch_difference():
    a, b = matrices(3, 4, 2), matrices(3, 4, 2, seed=1)
    return (Own(a) - MatrixOperator(b) / 2).mT, (a - b / 2).mT


KINDS = {
    "own": lambda: (Own(random(3, 5, 0)), random(3, 5, 0)),
    "jacobian": lambda: jacobian(()),
    "jacobians": lambda: jacobian((4,), batch_dims=1),
    "scipy": scipy_wrapped,
    "sparse": sparse,
    "sparse tensor": sparse_tensor,
    "stream": streamed,
    "mean gram": mean_gram,
    "restricted": restricted,
    "stacked": stacked,
    "batch": batch,
    "batch difference": batch_difference,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_can_be_written_down(kind):
    A, matrix = KINDS[kind]()
    assert A.shape == tuple(matrix.shape)
    for ours, theirs in ((A, matrix), (A.T, matrix.mT), (-A, -matrix), (A - A / 2, matrix / 2)):
        torch.testing.assert_close(ours.to_dense(), theirs)
        torch.testing.assert_close(ours.fro_norm(), torch.linalg.matrix_norm(theirs))


@pytest.mark.parametrize(("m", "n"), [(3, 7), (7, 3)])
def test_the_shorter_side_is_multiplied(m, n):
    A = Own(random(m, n, 0))
    A.to_dense()
    assert A.products == (Products(0, 3) if m < n else Products(3, 0))
    A.fro_norm()
    assert A.products.total == 6


def test_a_matrix_is_copied_not_multiplied():
    matrix = random(3, 4, 0)
    A = MatrixOperator(matrix)
    A.to_dense().zero_()
    assert A.products.total == 0
    torch.testing.assert_close(A.to_dense(), random(3, 4, 0))


def test_blocks_go_on_where_the_last_one_ended(monkeypatch):
    monkeypatch.setattr("jvpsvd.operators.dense.BLOCK_ENTRIES", 20)
    for m, n in ((3, 7), (7, 3)):
        A = Own(random(m, n, 0))
        torch.testing.assert_close(A.to_dense(), random(m, n, 0))
        torch.testing.assert_close(A.fro_norm(), random(m, n, 0).norm())


class Huge(LinearOperator):
    def _matmat(self, V):
        raise AssertionError("multiplied")

    _rmatmat = _matmat


@pytest.mark.parametrize("A", [Huge((1 << 20, 1 << 20), DTYPE), Huge((2, 1 << 14, 1 << 14), DTYPE)])
def test_what_is_too_large_is_refused_in_one_line(A):
    with pytest.raises(ArgumentError, match=r"268435456 .*svds\(A, k\)") as caught:
        (A - A).to_dense()
    assert " x ".join(map(str, A.shape)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_sparse_matrix_is_not_written_down():
    index = torch.tensor([[0], [0]])
    A = MatrixOperator(
        torch.sparse_coo_tensor(index, [1.0], (1 << 15, 1 << 15), check_invariants=True)
    )
    with pytest.raises(ArgumentError, match="268435456"):
        A.to_dense()


def test_a_norm_of_too_many_products_is_refused_in_one_line():
    A = Huge((1 << 17, 1 << 18), DTYPE)
    with pytest.raises(ArgumentError, match=r"takes 131072 products.*certificate estimates it"):
        A.fro_norm()


def test_the_norm_of_small_entries_does_not_vanish():
    A = MatrixOperator(torch.full((3, 3), 1e-30))
    torch.testing.assert_close(A.fro_norm(), torch.tensor(3e-30))
