"""Values and points that are no plain dict or tuple: outputs of language models, their inputs."""

import dataclasses
from collections import OrderedDict, UserDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jvpsvd import JacobianOperator, depths, layer_map
from jvpsvd.errors import ArgumentError

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
POINT = torch.tensor([0.4, -0.3, 0.9])


class ModelOutput(OrderedDict):
    """A mapping whose entries are attributes too."""

    def __init__(self, **entries):
        super().__init__(**entries)
        self.__dict__.update(entries)


class BatchEncoding(UserDict):
    """What a tokenizer or an image processor returns."""


@dataclasses.dataclass
class Output:
    loss: None
    logits: Tensor
    hidden: Tensor


class Plain:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (lambda y: ModelOutput(logits=y, hidden=2 * y), r"fn\(x\)\['logits'\] \(or hidden\)"),
        (lambda y: ModelOutput(past=[1], logits=y), r"fn\(x\)\['logits'\]"),
        (lambda y: {"logits": y, "past": None}, r"fn\(x\)\['logits'\]"),
        (lambda y: UserDict(logits=y), r"fn\(x\)\['logits'\]"),
        (lambda y: Output(None, y, y), r"fn\(x\)\.logits \(or hidden\)"),
        (lambda y: Plain(y), r"fn\(x\)\.logits"),
    ],
)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_the_error_names_what_can_be_chosen(wrap, remedy, batch_dims):
    x = POINT.expand(2, 3) if batch_dims else POINT
    with pytest.raises(ArgumentError, match=f"choose what to differentiate: lambda x: {remedy}"):
        JacobianOperator(lambda x: wrap(NET(x)), x, batch_dims=batch_dims)


@pytest.mark.parametrize("kind", [dict, BatchEncoding, OrderedDict])
def test_a_mapping_of_tensors_is_a_point(kind):
    expected = JacobianOperator(NET, POINT) @ torch.ones(3)
    for fn in (lambda entries: NET(entries["input"]), lambda entries: NET(**entries)):
        J = JacobianOperator(fn, kind(input=POINT))
        torch.testing.assert_close(J @ torch.ones(3), expected)
    assert J.as_input(torch.ones(3))["input"].shape == (3,)


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_a_mapping_of_arguments_is_the_input_of_a_model(kind):
    assert depths(NET, kind(input=POINT)) == depths(NET, POINT)
    f, z = layer_map(NET, kind(input=POINT), to="2", since="0")
    torch.testing.assert_close(f(z), NET(POINT))


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (BatchEncoding(ids=torch.arange(3)), r"as x\.float\(\); token ids have no derivative"),
        (torch.arange(3).tolist(), "but a int; give tensors"),
        ([np.ones(3)], r"give torch.from_numpy\(x\)"),
        (Output(None, POINT, POINT), "a Output is not looked into"),
    ],
)
def test_a_point_without_a_tensor_to_differentiate_by(x, remedy):
    with pytest.raises(ArgumentError, match=f"no tensor of a floating dtype.*{remedy}"):
        JacobianOperator(lambda x: x, x)
