"""Operators above and next to each other, and some rows and columns of one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jvpsvd import JacobianOperator, MatrixOperator, restrict, stack, svds
from jvpsvd.errors import ArgumentError

DTYPES = [torch.float32, torch.float64]


def matrix(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check(A, expected):
    *batch, m, n = expected.shape
    assert A.shape == (*batch, m, n)
    torch.testing.assert_close(A @ torch.eye(n, dtype=A.dtype), expected)
    torch.testing.assert_close(A.T @ torch.eye(m, dtype=A.dtype), expected.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [(), (3,)], ids=["single", "batch"])
def test_above_and_next_to_each_other(lead, dtype):
    a, b, c = (matrix(*lead, m, 4, dtype=dtype, seed=m) for m in (2, 5, 1))
    A, B, C = map(MatrixOperator, (a, b, c))
    check(stack([A, B, C]), torch.cat([a, b, c], -2))
    check(stack([A.T, B.T], dim=1), torch.cat([a.mT, b.mT], -1))
    check(stack([A, stack([B, A])]), torch.cat([a, b, a], -2))
    check(2 * stack([A, B]) @ A.T, 2 * torch.cat([a, b], -2) @ a.mT)
    assert C.products.forward == 4 * (3 if lead else 1)
    if lead:
        check(stack([A, B]).select([2, 0]), torch.cat([a, b], -2)[[2, 0]])


def test_the_singular_values_of_a_stack_are_those_of_the_stacked_matrix():
    a, b = matrix(30, 40, seed=1), matrix(50, 40, seed=2)
    found = svds(stack([MatrixOperator(a), MatrixOperator(b)]), k=5)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(torch.cat([a, b]))[:5])


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "at least one operator"),
        ([torch.ones(2, 2)], {}, "takes operators, not Tensor"),
        ([MatrixOperator(torch.ones(2, 3)), MatrixOperator(torch.ones(3, 2))], {}, "operator 1 of"),
        ([MatrixOperator(torch.ones(2, 3)), MatrixOperator(torch.ones(4, 2, 3))], {}, "4 x 2 x 3"),
        (
            [MatrixOperator(torch.ones(2, 3)), MatrixOperator(torch.ones(2, 3).double())],
            {},
            "float64",
        ),
        ([MatrixOperator(torch.ones(2, 3))], {"dim": 2}, "dim=2"),
    ],
)
def test_what_does_not_fit_is_refused(parts, options, message):
    with pytest.raises(ArgumentError, match=message):
        stack(parts, **options)


INDEX = [
    None,
    [3, 0],
    torch.tensor([1]),
    slice(1, None, 2),
    slice(None, None, -1),
    range(2),
    "mask",
]


@pytest.mark.parametrize("rows", INDEX, ids=str)
@pytest.mark.parametrize("columns", INDEX, ids=str)
@pytest.mark.parametrize("lead", [(), (2,)], ids=["single", "batch"])
def test_some_rows_and_columns(rows, columns, lead):
    a = matrix(*lead, 4, 6)
    masks = torch.tensor([True, False, True, True]), torch.arange(6).reshape(2, 3) > 1
    rows, columns = (
        mask if isinstance(index, str) else index
        for index, mask in zip((rows, columns), masks, strict=True)
    )

    def indices(index, size):
        if isinstance(index, slice):
            return list(range(size))[index]
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
            return index.flatten().nonzero().flatten().tolist()
        return list(range(size)) if index is None else list(index)

    expected = a[..., indices(rows, 4), :][..., indices(columns, 6)]
    check(restrict(MatrixOperator(a), rows, columns), expected)


@given(st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 6), min_size=1))
def test_restricted_as_numpy_would(rows, columns):
    a = matrix(6, 7)
    A = restrict(restrict(MatrixOperator(a), rows=sorted(rows)), columns=list(columns))
    check(A, torch.from_numpy(a.numpy()[np.ix_(sorted(rows), list(columns))]))


@pytest.mark.parametrize(
    "rows", [[], [4], [-1], [1, 1], [0.5], torch.ones(3) > 0, torch.ones(2, 2)], ids=str
)
def test_indices_that_are_not_there_are_refused(rows):
    with pytest.raises(ArgumentError, match="rows"):
        restrict(MatrixOperator(torch.ones(4, 3)), rows=rows)


def test_some_logits_of_an_image_region(dense):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(27, 6)
    ).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    region = torch.zeros_like(x, dtype=torch.bool)
    region[..., 1:3, 2:5] = True
    J = restrict(JacobianOperator(net, x), rows=[4, 1], columns=region)
    check(J, dense(net, x)[[4, 1]][:, region.flatten()])


@pytest.mark.parametrize("lead", [(), (3,)], ids=["single", "batch"])
def test_the_gram_operator_has_the_squares(lead):
    a = matrix(*lead, 30, 20)
    A = MatrixOperator(a)
    check(A.T @ A, a.mT @ a)
    torch.testing.assert_close(svds(A.T @ A, k=4).s, torch.linalg.svdvals(a)[..., :4] ** 2)
