import itertools

import pytest
import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.networks.boltzmann import (
    BoltzmannMachine,
    ContrastiveDivergence,
    shuffled,
    train_machine,
)


def machine(visible, hidden, gain=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((visible, hidden), (visible,), (hidden,))
    W, b, c = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return BoltzmannMachine(W, b, c, gain)


def states(count):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=count)), dtype=torch.float64)


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_free_energy_sums_out_the_hidden_units(gain):
    """exp(−F(v)) = Σ_h exp(g (v b + h c + v W h)), over all hidden states."""
    rbm = machine(4, 3, gain)
    v, h = states(4), states(3)
    joint = gain * (v @ rbm.visible[:, None] + h @ rbm.hidden + v @ rbm.weight @ h.T)
    assert torch.allclose(-rbm.free_energy(v), torch.logsumexp(joint, dim=1))


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_up_and_down_are_the_conditional_probabilities(gain):
    rbm = machine(3, 2, gain)
    v, h = states(3), states(2)
    joint = (gain * (v @ rbm.visible[:, None] + h @ rbm.hidden + v @ rbm.weight @ h.T)).exp()
    up = (joint @ h) / joint.sum(1, keepdim=True)
    down = (joint.T @ v) / joint.sum(0)[:, None]
    assert torch.allclose(rbm.up(v), up)
    assert torch.allclose(rbm.down(h), down)


def two_patterns(count=200):
    pattern = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    return pattern.repeat(count // 2, 1)


def test_training_makes_the_data_likelier_than_anything_else():
    rbm = train_machine(two_patterns(), 4, ContrastiveDivergence(epochs=200, batch=20))
    every = states(6).float()
    lowest = every[rbm.free_energy(every).argsort()[:2]]
    assert {tuple(v.tolist()) for v in lowest} == {(1, 1, 1, 0, 0, 0), (0, 0, 0, 1, 1, 1)}


def test_same_seed_same_machine_and_another_seed_another():
    def trained(seed):
        config = ContrastiveDivergence(epochs=3, batch=20, seed=seed)
        return train_machine(two_patterns(), 3, config).weight

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_every_epoch_is_reported_and_the_error_falls():
    epochs = []
    train_machine(
        two_patterns(),
        4,
        ContrastiveDivergence(epochs=50, batch=20),
        stage="x",
        progress=epochs.append,
    )
    assert [(epoch.stage, epoch.number, epoch.epochs) for epoch in epochs] == [
        ("x", i, 50) for i in range(1, 51)
    ]
    assert epochs[-1].error < 0.5 * epochs[0].error


def test_labels_are_one_group_that_sums_to_one():
    """With labels as softmax units, the label of a pattern is the likelier one."""
    data = torch.cat([two_patterns(), torch.eye(2).repeat(100, 1)], dim=1)
    rbm = train_machine(data, 6, ContrastiveDivergence(epochs=200, batch=20), labels=2)
    right, wrong = data[:2], torch.cat([data[:2, :6], data[:2, 6:].flip(0)], dim=1)
    assert bool((rbm.free_energy(right) < rbm.free_energy(wrong)).all())


@pytest.mark.parametrize(
    ("data", "hidden", "labels"),
    [
        (torch.zeros(3), 2, 0),
        (torch.zeros(0, 4), 2, 0),
        (torch.zeros(3, 4), 0, 0),
        (torch.zeros(3, 4), 2, 4),
        (torch.full((3, 4), 1.5), 2, 0),
        (torch.full((3, 4), float("nan")), 2, 0),
    ],
)
def test_what_cannot_be_trained_is_refused(data, hidden, labels):
    with pytest.raises(ArgumentError):
        train_machine(data, hidden, ContrastiveDivergence(epochs=1), labels=labels)


def test_shuffled_visits_every_index_once():
    parts = shuffled(23, 5, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(23))
