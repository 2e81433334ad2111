"""Several depths are recorded together; one that cannot be leaves the others alone."""

import torch
from torch import nn

from jvpsvd.errors import AdjointError, ModelError
from jvpsvd.networks import Derivatives
from jvpsvd.operators import LinearMap


class Deciding(nn.Module):
    """A layer that cannot be recorded."""

    def forward(self, x):
        return x * (2.0 if bool(x.sum() > 0) else 3.0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Deciding(), nn.Linear(4, 2)).double().eval()


def test_depths_before_it_are_recorded(caplog):
    net, X = network(), torch.randn(2, 1, 3, dtype=torch.float64)
    derivatives, calls = Derivatives(net, X[0], ["0", "1", "output"]), []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    for x in X:
        for depth, J in enumerate(derivatives.at(x, "one")):
            part = [net[:1], net[:2], net][depth]
            expected = torch.func.jacrev(part)(x).detach().reshape(-1, 3)
            calls.clear()
            images = J.jvp(torch.eye(3).double()[:, None]).flatten(1).mT
            torch.testing.assert_close(images, expected)
            assert (len(calls) == 0) == (depth < 2)  # a recording does not call the network
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith("output: cannot record the function: it decides by values")
    assert "test_recorded_depths.py, line" in warned[0]


def test_a_depth_that_cannot_be_recorded_is_told_once_for_all_texts(caplog):
    net = nn.Sequential(nn.Embedding(9, 3), Deciding()).double().eval()
    texts = [torch.randint(9, (1, length)) for length in (5, 5, 7)]
    derivatives = Derivatives(net, texts[0], ["output"], since="0")
    for x in texts:
        (J,) = derivatives.at(x, "a text")
        v = torch.ones_like(J.point)[None]
        torch.testing.assert_close(J.jvp(v)[0], v[0] * (2 if J.point.sum() > 0 else 3))
    (warning,) = warnings_in(caplog)
    assert warning.startswith("output: cannot record the function: it decides by values")


def test_the_line_that_cannot_be_recorded_is_named_with_converted_weights_too(caplog):
    net, x = network().float(), torch.ones(1, 3)
    Derivatives(net, x, ["output"], dtype=torch.float64).at(x, "one")
    (warning,) = warnings_in(caplog)
    assert "test_recorded_depths.py, line" in warning


def test_all_depths_share_the_evaluations_of_a_recording():
    """The values, J v, casts, and points nearby are those of all depths; J'u goes to one."""
    calls = {0: 0, 2: 0}
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    for index in calls:
        net[index].register_forward_hook(
            lambda *_, index=index: calls.update({index: calls[index] + 1})
        )
    x = torch.randn(1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, x, ["0", "1", "output"])
    calls.update(dict.fromkeys(calls, 0))  # listing the depths evaluates them, too
    derivatives.at(x, "one")
    assert calls == {0: 8, 2: 6}


class Reversing(nn.Module):
    """A layer whose gradients a hook changes, so that they are not those of its products J v."""

    def forward(self, x):
        y = 1 * x
        if y.requires_grad:
            y.register_hook(lambda gradient: -gradient)
        return 2 * y


class Failing(nn.Module):
    """A network that may fail behind its first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, fails):
        y = self.first(x)
        if fails:
            raise ValueError("it fails")
        return self.last(y.tanh())


def test_a_depth_without_a_derivative_leaves_the_others_alone(caplog):
    net = nn.Sequential(nn.Linear(3, 4), Reversing()).double().eval()
    derivatives = Derivatives(net, torch.ones(1, 3).double(), ["0", "output"])
    for x in (torch.ones(1, 3).double(), torch.zeros(1, 3).double()):
        first, last = derivatives.at(x, "one")
        torch.testing.assert_close(
            first.jvp(torch.eye(3).double()[:, None])[:, 0].mT, net[0].weight
        )
        assert isinstance(last, AdjointError)
    assert warnings_in(caplog) == []


def test_where_a_depth_fails_nothing_is_recorded(count_recordings):
    good, bad = ({"x": torch.ones(1, 3), "fails": fails} for fails in (False, True))
    derivatives = Derivatives(Failing().eval(), good, ["first", "output"], wrt="x")
    first, last = derivatives.at(bad, "one")
    assert isinstance(first, LinearMap)
    assert isinstance(last, ModelError)
    assert count_recordings() == 0
    assert all(isinstance(J, LinearMap) for J in derivatives.at(good, "two"))
    assert count_recordings() == 1


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_an_input_of_nan_comes_first_and_the_next_one_is_recorded(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    X = torch.randn(3, 1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, X[0], ["1", "output"])
    assert all(J.value.isnan().all() for J in derivatives.at(X[0] * torch.nan, "broken"))
    assert derivatives.at_many(X * torch.nan) == ()
    # At a batch there are derivatives where the network is recorded, and else none.
    assert [J.value.shape for J in derivatives.at_many(X)] == [(3, 1, 4), (3, 1, 2)]
    assert warnings_in(caplog) == []


def test_a_value_of_nan_is_no_fault_of_the_recording(caplog, count_recordings):
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    x = -torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(Root().eval(), x, ["output"])
    (J,) = derivatives.at(x, "negative")
    assert J.value.isnan().all()
    (J,) = derivatives.at(-4 * x, "positive")
    torch.testing.assert_close(J.jvp(torch.ones_like(x)[None])[0], 0.25 * torch.ones_like(x))
    assert count_recordings() == 1
    assert warnings_in(caplog) == []
