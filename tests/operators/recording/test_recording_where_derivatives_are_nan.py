"""Where a derivative is NaN or infinite nothing can be recorded, which is said so."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import TraceError

X = torch.tensor([0.0, 1.0, 2.0])


class Root(nn.Module):
    def forward(self, x):
        return x.relu().sqrt()


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (Root().forward, "torch's sqrt"),
        (nn.Sequential(nn.Identity(), Root()).eval(), r"module '1' \(Root\)"),
    ],
    ids=["function", "module"],
)
def test_the_message_names_what_makes_it_and_what_to_do(fn, named):
    message = f"holds NaN or infinity at this point, made by {named}, .* torch.where"
    with pytest.raises(TraceError, match=message) as caught:
        JacobianOperator(fn, X, derivatives="trace")
    assert "bug" not in str(caught.value)
