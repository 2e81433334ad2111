"""What a network hides from automatic differentiation is found at the first input that shows it."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from jvpsvd.errors import DerivativeError
from jvpsvd.networks import Derivatives


class Half(nn.Module):
    """A layer whose products explain half of how it moves."""

    def forward(self, x):
        return x + x.detach()


class OnlyHere(nn.Module):
    """A layer that fails at every point but one."""

    def __init__(self, x):
        super().__init__()
        self.total = float(x.sum())

    def forward(self, x):
        if bool((x.sum() - 2 * self.total).abs() > 1e-9):
            raise ValueError("elsewhere")
        return 2 * x


def test_a_depth_that_fails_nearby_hides_no_other(caplog):
    x = torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(nn.Sequential(Half(), OnlyHere(x)).eval(), x, ["0", "output"])
    derivatives.at(x, "one")
    assert "0: products explain only a part of how fn moves (50 % is missing)" in caplog.text


def test_a_derivative_that_is_hidden_is_told_after_an_input_of_nan(caplog):
    x = torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(nn.Sequential(Half()).eval(), x, ["output"])
    derivatives.at(x * torch.nan, "broken")
    assert "WARNING" not in caplog.text
    derivatives.at(x, "one")
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning.startswith("output: products explain only a part of how fn moves")


class Hiding(nn.Module):
    """A layer whose second term has no derivative that autograd sees, and is 0 up to x = 0."""

    def __init__(self, hide):
        super().__init__()
        self.hide = hide

    def forward(self, x, gate=None):
        with self.hide():
            hidden = x.relu() ** 2 if gate is None else x * gate
        return x + (hidden.clone() if self.hide is torch.inference_mode else hidden.detach())


@pytest.mark.parametrize("first", [-1.0, 0.0])
@pytest.mark.parametrize("together", [False, True])
def test_what_inference_mode_hides_is_refused_at_a_later_input(first, together):
    net = nn.Sequential(Hiding(torch.inference_mode), nn.Linear(3, 2)).double().eval()
    X = torch.full((3, 1, 3), first, dtype=torch.float64)
    X[2] = torch.tensor([0.5, 1.0, 2.0])
    derivatives = Derivatives(net, X[0], ["0", "output"])
    if together:
        found = [derivatives.at_many(X[:2]), derivatives.at_many(X[1:])]
    else:
        found = [derivatives.at(x, "one") for x in X[1:]]
    flat, live = found
    assert not any(isinstance(J, DerivativeError) for J in flat)
    for J in live:
        assert isinstance(J, DerivativeError)
        assert "torch.inference_mode hides the derivative" in str(J)


def test_the_first_batch_is_compared_at_each_of_its_points():
    net = nn.Sequential(Hiding(torch.inference_mode)).double().eval()
    X = torch.tensor([[[-1.0, -2.0]], [[-2.0, -1.0]], [[1.0, 2.0]]], dtype=torch.float64)
    (J,) = Derivatives(net, X[0], ["output"]).at_many(X)
    assert isinstance(J, DerivativeError)
    assert not isinstance(Derivatives(net, X[0], ["output"]).at_many(X[:2])[0], DerivativeError)


def test_what_a_later_mask_lets_inference_mode_hide_is_refused():
    net = Hiding(torch.inference_mode).double().eval()
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    points = [{"x": x, "gate": torch.full((1,), gate).double()} for gate in (0.0, 1.0)]
    derivatives = Derivatives(net, points[0], ["output"], wrt="x")
    off, on = (derivatives.at(point, "one")[0] for point in points)
    assert not isinstance(off, DerivativeError)
    assert isinstance(on, DerivativeError)


def test_what_a_detach_hides_is_told_once_at_the_first_input_that_shows_it(caplog):
    net = nn.Sequential(Hiding(nullcontext)).double().eval()
    derivatives = Derivatives(net, torch.zeros(1, 3).double(), ["output"])
    told = "output: products explain only a part of how fn moves"
    for value, times in ((-1.0, 0), (1.0, 1), (2.0, 1)):
        derivatives.at(torch.full((1, 3), value, dtype=torch.float64), "one")
        assert caplog.text.count(told) == times


class HidingTwice(nn.Module):
    """What a detach hides shows above 0, and what inference mode hides above 1."""

    def forward(self, x):
        with torch.inference_mode():
            hidden = (x - 1).relu() ** 2
        return x + x.relu().detach() + hidden.clone()


def test_what_inference_mode_hides_is_refused_after_a_detach_was_told():
    net = nn.Sequential(HidingTwice()).double().eval()
    derivatives = Derivatives(net, torch.zeros(1, 3).double(), ["output"])
    for value in (-1.0, 3.0):
        (J,) = derivatives.at(torch.full((1, 3), value, dtype=torch.float64), "one")
        assert isinstance(J, DerivativeError) == (value == 3.0)
