"""Arguments by other names, and words for depths, mean the same in all calls."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, depths, ntk, singular_values, spectra
from jvpsvd.errors import ArgumentError, ModelError, UnknownArgumentError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net: spectra(net, X, layer="1"),
            "spectra has no argument layer; did you mean laye",
        ),
        (lambda net: spectra(net, X, device="cpu"), "device; it runs where the model lies"),
        (lambda net: JacobianOperator(net, X, k=5), "argument k; svds takes it: svds"),
        (lambda net: JacobianOperator(net, X, chunks=5), "chunks; did you mean chunk?"),
        (lambda net: ntk(net, X, batch=5), "ntk has no argument batch; it takes model, X, k"),
        (lambda net: singular_values(net, X[:1], batch_dim=1), "did you mean batch_dims?"),
    ],
)
def test_another_name_is_answered(net, call, message):
    with pytest.raises(UnknownArgumentError) as caught:
        call(net)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ("0", "1", "2", "output")),
        ({"k": 5}, ("0", "1")),
        ({"k": "all"}, ("0", "1", "2", "output")),
        ({"since": "1"}, ("2", "output")),
    ],
)
def test_all_layers_are_the_modules_that_have_k_values(net, options, names):
    assert spectra(net, X, layers="all", progress=False, **options).layers == names


def test_depths_after_one(net):
    x = X[:1]
    assert [each.name for each in depths(net, x, since="1")] == ["2", "output"]
    doubled = nn.Sequential(net, nn.Identity())
    doubled.forward = lambda x: net(x).relu()
    found = depths(doubled.eval(), x, functions=False, since="0.1")
    assert found[0].name == "0.2"
    with pytest.raises(ModelError, match="no depth '7' among the 4"):
        depths(net, x, since="7")


def test_inputs_in_another_dtype_are_told_that_dtype_converts_both(net):
    with pytest.raises(ArgumentError, match="give X in the dtype of the weights: dtype= converts"):
        spectra(net, X.double(), dtype=torch.float64, progress=False)
