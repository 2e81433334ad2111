"""Each option of the constructor reaches it from `wrt_parameters`; options of svds are told so."""

import inspect

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError

X = torch.ones(3, 2)


def parameters_of(function):
    """Return the names that may be given by keyword only, with their defaults."""
    found = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in found if each.kind is each.KEYWORD_ONLY}


def test_every_option_is_passed_on():
    own = parameters_of(JacobianOperator.wrt_parameters)
    options = {k: v for k, v in parameters_of(JacobianOperator).items() if k not in own}
    assert "recompute" in options
    net = nn.Linear(2, 1)
    J = JacobianOperator.wrt_parameters(net, X, **options)
    again = JacobianOperator.wrt_parameters(net, X, **{**options, "recompute": True})
    torch.testing.assert_close(again.to_dense(), J.to_dense())


@pytest.mark.parametrize("name", ["k", *parameters_of(svds)])
def test_options_of_svds_are_told_so(name):
    with pytest.raises(ArgumentError, match=f"argument {name}; svds takes it"):
        JacobianOperator(torch.sin, X, **{name: None})
    with pytest.raises(ArgumentError, match=f"keyword '{name}'; svds takes it"):
        JacobianOperator.wrt_parameters(nn.Linear(2, 1), X, **{name: None})
