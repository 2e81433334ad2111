"""A cache outside of modules that the first call fills is told: derivatives lack what it holds."""

import re

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, layer_map, ntk, singular_values, spectra
from jvpsvd.networks import Derivatives

STORE = {}
W = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Kept:
    """An attribute that is None, or an empty dict, before the first call."""

    def __init__(self):
        self.kept, self.cache = None, {}


class Attribute(Kept):
    def __call__(self, x):
        if self.kept is None:
            self.kept = x.tanh()
        return W @ (self.kept * x)


class Dict(Kept):
    def __call__(self, x):
        return W @ (self.cache.setdefault("h", x.detach().tanh()) * x)


def in_a_global(x):
    if "norm" not in STORE:
        STORE["norm"] = x.norm()
    return W @ (x / STORE["norm"])


def in_a_closure():
    kept = []

    def fn(x):
        if not kept:
            kept.append(x.tanh())
        return W @ (kept[0] * x)

    return fn


class Module(Kept, nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        Kept.__init__(self)

    forward = Attribute.__call__


class Counter(Kept):
    def __call__(self, x):
        self.cache["calls"] = self.cache.get("calls", 0) + 1
        return W @ x.tanh()


EVERY_WAY = pytest.mark.parametrize("derivatives", ["auto", "transforms", "trace"])


@EVERY_WAY
@pytest.mark.parametrize("make", [Attribute, Dict, lambda: in_a_global, in_a_closure])
def test_what_is_kept_of_the_first_call_is_told(make, derivatives, caplog):
    STORE.clear()
    JacobianOperator(make(), torch.randn(6), derivatives=derivatives)
    (line,) = [r.getMessage() for r in caplog.records if "keeps something" in r.getMessage()]
    assert line.startswith("fn keeps something of its first call (in ")


@EVERY_WAY
@pytest.mark.parametrize("make", [Counter, Module, lambda: torch.sin, lambda: nn.Linear(6, 5)])
def test_counters_caches_of_modules_and_functions_without_any_are_not(make, derivatives, caplog):
    fn = make()
    fn = fn.eval() if isinstance(fn, nn.Module) else fn
    JacobianOperator(fn, torch.randn(6), derivatives=derivatives)
    assert "keeps something" not in caplog.text


class Normalised(nn.Module):
    """A norm that is kept in a plain object, which no module restores."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 5), Scale()

    def forward(self, x):
        y = self.linear(x)
        return self.scale(y) * y.tanh()


class Scale(Kept):
    def __call__(self, x):
        if self.kept is None:
            self.kept = x.norm(dim=-1, keepdim=True)
        return self.kept


WAYS = {
    "batch": lambda net, X: JacobianOperator(net, X, batch_dims=1),
    "layer_map": lambda net, X: JacobianOperator(*layer_map(net, X[:1], to="output")),
    "since": lambda net, X: JacobianOperator(*layer_map(net, X[:1], to="output", since="linear")),
    "parameters": lambda net, X: JacobianOperator.wrt_parameters(net, X),
    "stack": lambda net, X: StreamedStack.over(net, X[:, None]),
    "stack of rows": lambda net, X: StreamedStack.over(net, X),
    "singular_values": lambda net, X: singular_values(net, X, batch_dims=1),
    "spectra": lambda net, X: spectra(net, X, k=2, progress=False),
    "inputs alone": lambda net, X: spectra(net, X, k=2, batch=1, progress=False),
    "derivatives": lambda net, X: Derivatives(net, X[:1], ["output"]).at(X[:1], "an input"),
    "ntk": lambda net, X: ntk(net, X, k=2),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_told_once_wherever_derivatives_are_taken(way, caplog):
    torch.manual_seed(0)
    WAYS[way](Normalised().eval(), torch.randn(3, 6))
    (line,) = [r.getMessage() for r in caplog.records if "keeps something" in r.getMessage()]
    assert re.search(r"\(in fn\.(model\.)?scale\.kept\)", line)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_told_of_a_network_that_keeps_nothing(way, caplog):
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("linear", nn.Linear(6, 5))
    net.add_module("activation", nn.Tanh())
    WAYS[way](net.eval(), torch.randn(3, 6))
    assert "keeps something" not in caplog.text


def test_the_entry_that_is_new_is_named(caplog):
    store, steep = {}, torch.ones(6)

    def fn(x):
        if "norm" not in store:
            store["norm"] = x.norm()
        return W @ (steep * x / store["norm"]).tanh()

    JacobianOperator(fn, torch.randn(6))
    assert "(in fn.store.norm)" in caplog.text
