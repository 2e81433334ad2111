"""Singular vectors in the shapes of input and output."""

import pytest
import torch

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError


def test_vectors_of_a_convolution_are_images():
    conv = torch.nn.Conv2d(2, 3, 3).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    J = JacobianOperator(conv, x)
    result = svds(J, 4)
    right, left = result.right(J), result.left(J)
    assert (right.shape, left.shape) == ((4, 2, 5, 6), (4, 3, 3, 4))
    images = torch.nn.functional.conv2d(right, conv.weight)
    torch.testing.assert_close(images, result.s[:, None, None, None] * left, atol=1e-6, rtol=0)


def test_vectors_of_trees_are_trees():
    def fn(x):
        return {"a": 2 * x["p"], "b": (x["q"].sum(0), x["p"].sum())}

    J = JacobianOperator(
        fn, {"p": torch.randn(2), "q": torch.randn(3, 4), "ids": torch.ones(2).int()}
    )
    result = svds(J, 5)
    right, left = result.right(J), result.left(J)
    assert {name: tuple(one.shape) for name, one in right.items()} == {
        "p": (5, 2), "q": (5, 3, 4), "ids": (2,)
    }  # fmt: skip
    assert left["a"].shape == (5, 2)
    assert [one.shape for one in left["b"]] == [(5, 4), (5,)]
    torch.testing.assert_close(2 * right["p"], left["a"] * result.s[:, None])


def test_a_batch_has_its_points_in_front():
    J = JacobianOperator(torch.nn.Linear(6, 4), torch.randn(3, 6), batch_dims=1)
    result = svds(J, 2)
    assert (result.right(J).shape, result.left(J).shape) == ((3, 2, 6), (3, 2, 4))
    one = JacobianOperator(torch.nn.Linear(6, 4), torch.randn(6))
    assert result.of(1).right(one).shape == (2, 6)


def test_of_the_transpose_inputs_are_left():
    J = JacobianOperator(lambda x: x.sum(0), torch.randn(2, 3))
    result = svds(J.T, 2)
    assert (result.right(J.T).shape, result.left(J.T).shape) == ((2, 3), (2, 2, 3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_does_not_belong_together(side):
    J = JacobianOperator(lambda x: x.sum(0), torch.randn(2, 3))
    result = svds(J, 2)
    wrong = {
        "J is 6 x 3 and the result of 3 x 6; give what was solved": (result, J.T),
        "J is 4 x 4": (result, JacobianOperator(torch.tanh, torch.randn(4))),
        "takes a JacobianOperator": (result, MatrixOperator(torch.randn(3, 6))),
        "not a tensor": (result, torch.randn(3, 6)),
        "no vectors; solve with vectors=True": (svds(J, 2, vectors=False), J),
    }
    for said, (one, operator) in wrong.items():
        with pytest.raises(ArgumentError, match=said) as caught:
            getattr(one, side)(operator)
        assert "\n" not in str(caught.value)
