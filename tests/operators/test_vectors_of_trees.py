"""Vectors given back the shape of the point or of the value; rows of Vh are no columns."""

import pytest
import torch

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError

POINT = torch.linspace(-1, 1, 6).reshape(2, 3)
SINGLE = JacobianOperator(lambda x: x.sum(0).tanh(), POINT)
BATCH = JacobianOperator(lambda x: x.sum(0).tanh(), torch.stack([POINT, POINT]), batch_dims=1)
TREE = JacobianOperator(lambda t: (t["a"].sum(0), t["b"]), {"a": POINT, "b": torch.ones(2)})


@pytest.mark.parametrize("J", [SINGLE, BATCH, TREE], ids=["single", "batch", "tree"])
def test_rows_of_vh_are_to_be_transposed(J):
    result = svds(J, 2)
    with pytest.raises(ArgumentError, match=r"these lie in rows: transpose them with \.mT"):
        J.as_input(result.Vh)
    J.as_input(result.Vh.mT)
    with pytest.raises(ArgumentError, match=r"these lie in rows: transpose them with \.mT"):
        J.as_output(result.U.mT)
    J.as_output(result.U)


def test_right_shapes_are_given_back():
    result = svds(SINGLE, 2)
    assert SINGLE.as_input(result.Vh.mT).shape == (2, 2, 3)
    assert SINGLE.as_input(result.Vh[0]).shape == (2, 3)
    assert SINGLE.as_output(result.U).shape == (2, 3)
    assert BATCH.as_input(torch.ones(2, 6)).shape == (2, 2, 3)
    assert TREE.as_input(torch.ones(8, 5))["a"].shape == (5, 2, 3)


@pytest.mark.parametrize("J", [SINGLE, BATCH, TREE], ids=["single", "batch", "tree"])
@pytest.mark.parametrize(
    "block",
    [
        None,
        3,
        [1.0] * 6,
        torch.ones(()),
        torch.ones(7),
        torch.ones(4, 3, 5),
        torch.ones(6, 2, 2, 2),
    ],
    ids=str,
)
def test_other_shapes_are_refused(J, block):
    for shaped in (J.as_input, J.as_output):
        with pytest.raises(ArgumentError, match=r"^the (vectors have|block is) .*; give "):
            shaped(block)
