"""Some rows and columns of an operator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agreement import compare
from support.batch_problems import DTYPES, check, matrices, split
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Products
from jvpsvd.operators.algebra import restrict, stack

QUICK = settings(max_examples=150, deadline=None, derandomize=True)

MASK = [True, False, True, True, False, False]
# How six indices are given, and which they are.
INDICES = {
    "list": ([4, 0, 5], [4, 0, 5]),
    "tuple": ((2,), [2]),
    "tensor": (torch.tensor([5, 1]), [5, 1]),
    "every other entry of a tensor": (torch.tensor([5, 0, 1])[::2], [5, 1]),
    "numpy": (np.array([3, 1]), [3, 1]),
    "narrow integers": (torch.tensor([3, 1], dtype=torch.int32), [3, 1]),
    "narrow integers of numpy": (np.array([3, 1], dtype=np.uint8), [3, 1]),
    "slice": (slice(1, 4), [1, 2, 3]),
    "slice of all": (slice(None), [0, 1, 2, 3, 4, 5]),
    "slice with a step": (slice(None, None, 2), [0, 2, 4]),
    "slice from the end": (slice(-2, None), [4, 5]),
    "slice backwards": (slice(None, None, -2), [5, 3, 1]),
    "slice past the end": (slice(4, 100), [4, 5]),
    "range": (range(1, 6, 2), [1, 3, 5]),
    "range backwards": (range(5, -1, -1), [5, 4, 3, 2, 1, 0]),
    "mask": (torch.tensor(MASK), [0, 2, 3]),
    "mask of two dimensions": (torch.tensor(MASK).reshape(2, 3), [0, 2, 3]),
    "transposed mask": (torch.tensor(MASK).reshape(3, 2).T.contiguous().T, [0, 2, 3]),
    "list of bools": (MASK, [0, 2, 3]),
    "nested list of bools": ([MASK[:3], MASK[3:]], [0, 2, 3]),
    "all": (None, [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INDICES)
def test_indices_of_every_kind_in_their_order(name, dtype):
    given, indices = INDICES[name]
    a = matrices(1, 6, 6, dtype)[0]
    A = MatrixOperator(a)
    compare(restrict(A, rows=given), a[indices])
    compare(restrict(A, columns=given), a[:, indices])
    compare(restrict(A, given, given), a[indices][:, indices])
    compare(restrict(A, [3, 1], given), a[[3, 1]][:, indices])
    compare(restrict(A.T, given, [0]).T, a[[0]][:, indices])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INDICES)
def test_batches(name, dtype):
    given, indices = INDICES[name]
    a = matrices(4, 6, 6, dtype)
    part = restrict(MatrixOperator(a), given, given)
    truth = a[:, indices][..., indices]
    check(part, split(truth))
    check(part.select([3, 0]), split(truth[[3, 0]]))
    check(part.T.select([2]), split(truth.mT[[2]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_parts_and_in_compositions(dtype):
    a, b = matrices(2, 6, 6, dtype)
    A, B = MatrixOperator(a), MatrixOperator(b)
    part = restrict(A, [4, 2, 0, 1], slice(1, None))
    compare(restrict(part, [2, 0], [4, 3]), a[[0, 4]][:, [5, 4]])
    compare(restrict(restrict(A, rows=[3]), columns=[5]), a[[3]][:, [5]])
    compare(restrict(A @ B, [1], [2, 3]), (a @ b)[[1]][:, [2, 3]])
    compare(restrict(A, columns=[5, 0]) @ restrict(B, rows=[5, 0]), a[:, [5, 0]] @ b[[5, 0]])
    compare(2 * restrict(A, [1]) + restrict(B, [2]), 2 * a[[1]] + b[[2]])
    halves = [restrict(A, range(3)), restrict(A, range(3, 6))]
    compare(stack(halves), a)
    compare(restrict(stack([A, B]), [11, 0]), torch.cat([a, b])[[11, 0]])


@st.composite
def problems(draw):
    m, n = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    sides = [
        draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
        for size in (m, n)
    ]
    return (m, n), *sides


@QUICK
@given(problems(), st.integers(0, 3), st.sampled_from(DTYPES))
def test_as_numpy_indexes(problem, batch, dtype):
    (m, n), rows, columns = problem
    a = matrices(max(batch, 1), m, n, dtype)
    part = restrict(MatrixOperator(a if batch else a[0]), rows, torch.tensor(columns))
    truth = torch.stack([torch.from_numpy(one.numpy()[np.ix_(rows, columns)]) for one in a])
    if batch:
        check(part, split(truth))
    else:
        compare(part, truth[0])


@QUICK
@given(st.data(), st.integers(1, 9))
def test_slices_as_python_takes_them(data, length):
    piece = data.draw(st.slices(length))
    a = np.arange(2.0 * length).reshape(length, 2)
    A = MatrixOperator(torch.from_numpy(a))
    truth = a[piece]
    if len(truth):
        compare(restrict(A, rows=piece), torch.from_numpy(truth.copy()))
        compare(restrict(A.T, columns=piece), torch.from_numpy(truth.copy()).T)
    else:
        with pytest.raises(ArgumentError, match="at least one"):
            restrict(A, rows=piece)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_and_a_region_of_an_image(dtype, dense):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 8)
    )
    net, x = net.to(dtype), torch.randn(1, 2, 6, 6, dtype=dtype)
    region = torch.zeros(x.shape, dtype=torch.bool)
    region[..., 1:4, 2:6] = True
    truth = dense(net, x)[[6, 2, 3]][:, region.flatten()]
    part = restrict(JacobianOperator(net, x), [6, 2, 3], region)
    assert part.shape == (3, 24)
    compare(part, truth)
    found = svds(part, 2)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(truth)[:2], rtol=1e-5, atol=0)
    whole = JacobianOperator(net, torch.cat([x, -x])[:, None], batch_dims=1)
    truths = torch.stack([truth, dense(net, -x)[[6, 2, 3]][:, region.flatten()]])
    check(restrict(whole, [6, 2, 3], region), split(truths))


def test_a_product_is_a_product_of_the_whole():
    A = MatrixOperator(torch.ones(4, 3))
    part = restrict(A, [0], [2, 1])
    part @ torch.ones(2, 5)
    part.rmatvec(torch.ones(1))
    assert part.products == A.products == Products(5, 1)


def test_blocks_given_are_left_alone():
    part = restrict(MatrixOperator(torch.ones(4, 3)), columns=[2, 1])
    for product, rows in ((part.matmat, 2), (part.rmatmat, 4)):
        block = torch.ones(2, rows).T
        product(block).fill_(7)
        assert (block == 1).all()


@pytest.mark.parametrize("index", [torch.tensor([0, 2]), torch.tensor([True, False, True, False])])
def test_the_given_indices_may_change_afterwards(index):
    a = torch.arange(16.0).reshape(4, 4)
    index = index.clone()
    part = restrict(MatrixOperator(a), index, index)
    index.fill_(1)
    compare(part, a[[0, 2]][:, [0, 2]])


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], "indices 0 to 3"),
        ([-1], "indices 0 to 3"),
        (torch.tensor([1, -4]), "indices 0 to 3"),
        (range(2, 6), "indices 0 to 3"),
        ([], "at least one"),
        (torch.tensor([], dtype=torch.long), "at least one"),
        (slice(2, 2), "at least one"),
        (range(0), "at least one"),
        ([False] * 4, "at least one"),
        ([0.0, 1.0], "as integers"),
        (torch.tensor([1.5]), "as integers"),
        (torch.tensor([[0, 1]]), "as integers"),
        (torch.tensor(2), "as integers"),
        (2, "as integers"),
        ("ab", "as integers"),
        ([[0], [1, 2]], "as integers"),
        ([0, None], "as integers"),
        ([1, 2, 1], "twice"),
        (torch.tensor([0, 0]), "twice"),
        ([True] * 3, r"a mask of shape \(3,\) has 3 entries, the operator 4"),
        (torch.ones(2, 3, dtype=torch.bool), r"a mask of shape \(2, 3\) has 6 entries"),
    ],
    ids=str,
)
def test_indices_that_cannot_be_taken_are_refused_by_side(side, indices, message):
    for shape in ((4, 4), (2, 4, 4)):
        with pytest.raises(ArgumentError, match=f"{side}.*{message}|{message}.*{side}"):
            restrict(MatrixOperator(torch.ones(shape)), **{side: indices})
