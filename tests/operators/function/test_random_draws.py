"""A value that depends on random numbers is refused, also where two evaluations mostly agree."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, layer_map, ntk, singular_values
from jvpsvd.errors import ArgumentError

SEEDS = range(6)


class Residual(nn.Module):
    """A residual block that is left out with a small probability, in evaluation too."""

    def __init__(self, p=0.001):
        super().__init__()
        self.linear, self.p = nn.Linear(4, 4), p

    def block(self, x):
        return self.linear(x).tanh()


class Multiplied(Residual):
    def forward(self, x):
        keep = torch.rand(len(x), 1, dtype=x.dtype) >= self.p
        return x + self.block(x) * keep / (1 - self.p)


class InPlace(Residual):
    def forward(self, x):
        return x + self.block(x) * x.new_empty(len(x), 1).bernoulli_(1 - self.p)


class Dropout(Residual):
    def forward(self, x):
        return x + self.block(nn.functional.dropout(x, self.p))


class SparseMask(Residual):
    def forward(self, x):
        keep = (torch.rand(len(x), 4) >= self.p).to_sparse()
        return x + self.block(x) * keep.to_dense().to(x.dtype)


class OutsideGenerator(Residual):
    generator = torch.Generator()

    def forward(self, x):
        return x + self.block(x) * (torch.rand(len(x), 1, generator=self.generator) >= self.p)


class Branch(Residual):
    def forward(self, x):
        return x if torch.rand(1) < self.p else x + self.block(x)


class BranchOnItem(Residual):
    def forward(self, x):
        return x if torch.rand(1).item() < self.p else x + self.block(x)


class BranchOnList(Residual):
    def forward(self, x):
        return x if torch.rand(2).tolist()[0] < self.p else x + self.block(x)


class BranchOnCount(Residual):
    def forward(self, x):
        return x if len((torch.rand(1) < self.p).nonzero()) else x + self.block(x)


class OfPython(Residual):
    def forward(self, x):
        return x + self.block(x) * random.uniform(0.5, 1.0)


class OfNumpy(Residual):
    def forward(self, x):
        return x + self.block(x) * float(np.random.normal())


RARE = [Multiplied, InPlace, Dropout, Branch, BranchOnItem, BranchOnList, BranchOnCount]
RANDOM = [*RARE, SparseMask, OutsideGenerator, OfPython, OfNumpy]


class Unused(Residual):
    """Wav2Vec2 draws a number for each layer, and looks at it in training only."""

    def forward(self, x):
        drawn = torch.rand([])
        return x if self.training and drawn < self.p else x + self.block(x)


class NeverDropped(Residual):
    def forward(self, x):
        return x + self.block(x) * (torch.rand(len(x), 1) >= 0)


class ReadForNothing(Residual):
    def forward(self, x):
        return x if torch.rand(1) < 0 else x + self.block(x)


class OwnGenerator(Residual):
    def forward(self, x):
        generator = torch.Generator().manual_seed(1)
        return self.block(x * torch.rand(4, generator=generator))


class Seeded(Residual):
    def forward(self, x):
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            return self.block(x * torch.rand(4))


class SeededBesideUnused(Residual):
    def forward(self, x):
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            factor = torch.rand(4)
        return x if torch.rand(1) < 0 else self.block(x * factor)


class RandomWait(Residual):
    def forward(self, x):
        while torch.rand(1) > 0.5:
            pass
        return self.block(x)


class KeptSome(Residual):
    """Fails where a mask keeps nothing, and uses it no further."""

    def forward(self, x):
        mask = torch.rand(64) < 0.5
        if not mask.any():
            raise ValueError("nothing is kept")
        return self.block(x)


class SolvedAtRandom(Residual):
    """Multiplies by a random matrix and by its inverse."""

    def forward(self, x):
        mix = torch.rand(4, 4, dtype=torch.float64) + torch.eye(4, dtype=torch.float64)
        return self.block(torch.linalg.solve(mix, mix @ x.double().mT).mT.to(x.dtype))


class PutBack(Residual):
    """Draws the same from a generator of its own each time."""

    generator = torch.Generator()

    def forward(self, x):
        state = self.generator.get_state()
        factor = torch.rand(4, generator=self.generator)
        self.generator.set_state(state)
        return self.block(x * factor)


STEADY = [
    KeptSome,
    SolvedAtRandom,
    PutBack,
    Unused,
    NeverDropped,
    ReadForNothing,
    OwnGenerator,
    Seeded,
    SeededBesideUnused,
]
STEADY += [RandomWait, lambda: nn.Dropout(0.5), lambda: Dropout(0.0)]


def network(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), kind(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("kind", RANDOM)
def test_a_random_module_is_refused_and_named_whatever_the_seed(kind):
    net = network(kind)
    for seed in SEEDS:
        torch.manual_seed(seed)
        with pytest.raises(ArgumentError, match=r"module '1' .* gave two .* call model\.eval\(\)"):
            JacobianOperator(net, torch.ones(1, 4))


WAYS = {
    "transforms": lambda net, X: JacobianOperator(net, X[:1], derivatives="transforms"),
    "batch": lambda net, X: JacobianOperator(net, X[:, None], batch_dims=1),
    "layer_map": lambda net, X: JacobianOperator(*layer_map(net, X[:1], to="output")),
    "parameters": lambda net, X: JacobianOperator.wrt_parameters(net, X),
    "stack": lambda net, X: StreamedStack.over(net, X[:, None]),
    "singular_values": lambda net, X: singular_values(net, X[:1]),
    "ntk": lambda net, X: ntk(net, X, k=2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Multiplied, Branch])
def test_it_is_refused_wherever_derivatives_are_taken(kind, way):
    with pytest.raises(ArgumentError, match="gave two different values at the same point"):
        WAYS[way](network(kind), torch.randn(3, 4))


@pytest.mark.parametrize("kind", STEADY)
def test_numbers_that_do_not_bear_on_the_value_are_no_obstacle(kind):
    J = JacobianOperator(network(kind), torch.ones(1, 4))
    assert J.shape == (3, 4)


@pytest.mark.parametrize("kind", [Multiplied, Unused, Seeded, ReadForNothing])
def test_the_users_random_state_stays_as_it_was(kind):
    net, before = network(kind), torch.get_rng_state()
    with suppress(ArgumentError):
        JacobianOperator(net, torch.ones(1, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_draws_nothing_of_use_is_evaluated_no_more_often():
    def count(module):
        calls, net = [], network(lambda: module)
        JacobianOperator(lambda x: (calls.append(1), net(x))[1], torch.ones(1, 4))
        return len(calls)

    assert count(Unused()) == count(nn.Tanh())
