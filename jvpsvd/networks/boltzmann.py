"""Restricted Boltzmann machines, trained by contrastive divergence.

Sources: Hinton (2002); Hinton, Osindero & Teh (2006). Units are logistic with a gain g, f(x) = 1 /
(1 + exp(−g x)) (Mototake & Ikegami, eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from jvpsvd.arguments import generator_of
from jvpsvd.errors import ArgumentError
from jvpsvd.records import ComparedByFields


@dataclass(frozen=True)
class ContrastiveDivergence:
    """Hyper-parameters of CD-k with momentum, weight decay and mini-batches (Hinton, 2012)."""

    epochs: int = 30
    steps: int = 1
    """Number of Gibbs steps, k."""
    rate: float = 0.1
    first_momentum: float = 0.5
    momentum: float = 0.9
    """Momentum from the sixth epoch on."""
    weight_decay: float = 2e-4
    batch: int = 100
    seed: int = 0


@dataclass(frozen=True, eq=False)
class BoltzmannMachine(ComparedByFields):
    """A restricted Boltzmann machine: p(h = 1 | v) = f(v W + c), p(v = 1 | h) = f(h W' + b)."""

    weight: Tensor
    """(visible, hidden) W."""
    visible: Tensor
    """(visible,) b."""
    hidden: Tensor
    """(hidden,) c."""
    gain: float = 1.0

    def up(self, v: Tensor) -> Tensor:
        """Return p(h = 1 | v), (N, hidden)."""
        return torch.sigmoid(self.gain * (v @ self.weight + self.hidden))

    def down(self, h: Tensor) -> Tensor:
        """Return p(v = 1 | h), (N, visible)."""
        return torch.sigmoid(self.gain * (h @ self.weight.T + self.visible))

    def free_energy(self, v: Tensor) -> Tensor:
        """Return F(v) = −v b − Σ log(1 + exp(v W + c)) in units of the temperature 1/g, (N,)."""
        inside = self.gain * (v @ self.weight + self.hidden)
        return -self.gain * (v @ self.visible) - functional.softplus(inside).sum(-1)


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, as reported to a progress function."""

    stage: str
    """"layer 1", …, or "fine-tuning"."""
    number: int
    """Number of the epoch, from 1."""
    epochs: int
    error: float
    """Mean squared reconstruction error per unit, or cross-entropy when fine-tuning."""
    test_error: float | None = None
    """Share of held-out labels that are predicted wrongly; None without held-out labels."""


ShowEpoch = Callable[[Epoch], None]


def train_machine(
    data: Tensor,
    hidden: int,
    config: ContrastiveDivergence,
    *,
    gain: float = 1.0,
    labels: int = 0,
    stage: str = "layer",
    progress: ShowEpoch = lambda epoch: None,
    examine: Callable[[BoltzmannMachine], float] | None = None,
) -> BoltzmannMachine:
    """Train a machine on data in [0, 1] by contrastive divergence.

    Args:
        data: (N, visible) probabilities.
        hidden: Number of hidden units.
        config: Hyper-parameters.
        gain: g of the logistic units.
        labels: Number of trailing visible units that form one softmax group.
        stage: Name of the stage in each `Epoch`.
        progress: Called after each epoch.
        examine: Returns the test error for each `Epoch`.

    Raises:
        ArgumentError: If data or sizes cannot be used.

    >>> data = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(50, 1)
    >>> machine = train_machine(data, 4, ContrastiveDivergence(epochs=60, batch=10))
    >>> bool((machine.down(machine.up(data)) - data).abs().max() < 0.3)
    True
    """
    if data.ndim != 2 or not len(data) or hidden < 1 or not 0 <= labels < data.shape[1]:
        raise ArgumentError(f"cannot train {hidden} hidden units on data {tuple(data.shape)}")
    if not bool(((data >= 0) & (data <= 1)).all()):
        raise ArgumentError("data must lie between 0 and 1: they are probabilities of units")
    generator = generator_of(config.seed)
    visible = data.shape[1]
    W = 0.01 * torch.randn(visible, hidden, generator=generator)
    mean = data.mean(0).clamp(0.01, 0.99)
    b, c = torch.log(mean / (1 - mean)) / gain, torch.zeros(hidden)
    moving = [torch.zeros_like(t) for t in (W, b, c)]
    for number in range(1, config.epochs + 1):
        momentum = config.first_momentum if number <= 5 else config.momentum
        total = 0.0
        for index in shuffled(len(data), config.batch, generator):
            v = data[index]
            machine = BoltzmannMachine(W, b, c, gain)
            slopes, error = _slopes(machine, v, labels, config.steps, generator)
            slopes[0] -= config.weight_decay * W
            total += error * len(index)
            for value, slope, move in zip((W, b, c), slopes, moving, strict=True):
                move.mul_(momentum).add_(slope, alpha=config.rate)
                value.add_(move)
        wrong = None if examine is None else examine(BoltzmannMachine(W, b, c, gain))
        progress(Epoch(stage, number, config.epochs, total / len(data), wrong))
    return BoltzmannMachine(W, b, c, gain)


def shuffled(count: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the indices 0 … count − 1 in a random order, in batches.

    >>> sorted(i for part in shuffled(5, 2, torch.Generator()) for i in part.tolist())
    [0, 1, 2, 3, 4]
    """
    return torch.split(torch.randperm(count, generator=generator), batch)


def _slopes(
    machine: BoltzmannMachine, v: Tensor, labels: int, steps: int, generator: torch.Generator
) -> tuple[list[Tensor], float]:
    """Return the CD-k estimates for W, b and c of a batch, and the reconstruction error."""
    h = first = machine.up(v)
    seen = v
    for _ in range(steps):
        seen = _down(machine, _sample(h, generator), labels)
        h = machine.up(seen)
    count = len(v)
    slopes = [
        (v.T @ first - seen.T @ h) / count,
        (v - seen).mean(0),
        (first - h).mean(0),
    ]
    return slopes, float(((v - seen) ** 2).mean())


def _down(machine: BoltzmannMachine, h: Tensor, labels: int) -> Tensor:
    """Return the probabilities of the visible units; labels compete in a softmax."""
    if not labels:
        return machine.down(h)
    inside = machine.gain * (h @ machine.weight.T + machine.visible)
    return torch.cat(
        [torch.sigmoid(inside[:, :-labels]), torch.softmax(inside[:, -labels:], dim=1)], dim=1
    )


def _sample(p: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(p.shape, generator=generator) < p).to(p.dtype)
