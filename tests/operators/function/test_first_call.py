"""A cache outside of modules that the first call fills is told: derivatives lack what it holds."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator

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
