"""Operators that are dropped leave no tensor behind, whether or not the weights require grad."""

import contextlib
import gc

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from jvpsvd import JacobianOperator, StreamedStack, layer_map
from jvpsvd.operators import Trace

pytestmark = pytest.mark.usefixtures("only_new_objects")


def live_tensors():
    """How many tensors were made in this test and live, and the bytes that they hold together."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = {}
    for each in tensors:
        # What torch.func or oneDNN wrap, left by another test, has no memory that can be seen.
        with contextlib.suppress(RuntimeError):
            if not isinstance(each, FakeTensor):
                storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return len(tensors), sum(storages.values())


def cut(model, x):
    f, z = layer_map(model, x, to="2", since="0")
    return JacobianOperator(f, z)


MADE = {
    "recorded": lambda model, x: JacobianOperator(model, x, derivatives="trace"),
    "transformed": lambda model, x: JacobianOperator(model, x, derivatives="transforms"),
    "batch": lambda model, x: JacobianOperator(model, x, batch_dims=1),
    "in float64": lambda model, x: JacobianOperator(model, x.double(), dtype=torch.float64),
    "by parameters": JacobianOperator.wrt_parameters,
    "stream": lambda model, x: StreamedStack.over(model, x),
    "trace": lambda model, x: Trace(model, x).at(x),
    "cut": cut,
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_nothing_is_left_of_an_operator_that_is_dropped(name, requires_grad):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()
    model.requires_grad_(requires_grad)
    x = torch.linspace(-1, 1, 18).reshape(3, 6)
    MADE[name](model, x)  # what torch keeps once, for all calls
    before = live_tensors()
    for _ in range(3):
        MADE[name](model, x)
    assert live_tensors() == before


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_recording_holds_no_graph_of_the_weights(requires_grad):
    """Neither the value nor what is kept for products refers to the weights by autograd."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()
    model.requires_grad_(requires_grad)
    gc.collect()
    known = {id(each) for each in gc.get_objects()}
    J = JacobianOperator(model, torch.ones(6), derivatives="trace")
    made = [e for e in gc.get_objects() if issubclass(type(e), torch.Tensor) and id(e) not in known]
    assert made
    assert [tuple(each.shape) for each in made if each.grad_fn is not None] == []
    assert J.shape == (4, 6)
