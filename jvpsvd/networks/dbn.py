"""Deep belief nets: Boltzmann machines, stacked, then fine-tuned by back-propagation.

Sources: Hinton, Osindero & Teh (2006); Hinton & Salakhutdinov (2006).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from jvpsvd.arguments import generator_of
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.machine import writing, written_aside
from jvpsvd.networks.boltzmann import (
    BoltzmannMachine,
    ContrastiveDivergence,
    Epoch,
    ShowEpoch,
    shuffled,
    train_machine,
)

Labelled = tuple[Tensor, Tensor]
"""Images (N, pixels) and their labels (N,)."""


@dataclass(frozen=True)
class BackPropagation:
    """Hyper-parameters of fine-tuning: Adam on the cross-entropy, with cosine decay of its rate."""

    epochs: int = 40
    rate: float = 1e-3
    weight_decay: float = 0.0
    batch: int = 100
    seed: int = 0


@dataclass(frozen=True)
class BeliefNet:
    """Stacked machines. The visible units of the last one are the layer below and the labels."""

    machines: tuple[BoltzmannMachine, ...]
    classes: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units of every layer, the input first."""
        first = self.machines[0].weight.shape[0]
        return first, *(machine.weight.shape[1] for machine in self.machines)

    def features(self, x: Tensor) -> Tensor:
        """Return the last machine's visible units for x, without the labels."""
        for machine in self.machines[:-1]:
            x = machine.up(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Return the label of lowest free energy of each input, (N,)."""
        top, below = self.machines[-1], self.features(x)
        energies = []
        for label in range(self.classes):
            labels = torch.zeros(len(x), self.classes, dtype=x.dtype)
            labels[:, label] = 1
            energies.append(top.free_energy(torch.cat([below, labels], dim=1)))
        return torch.stack(energies, dim=1).argmin(dim=1)

    def network(self, *, softmax: bool) -> nn.Sequential:
        """Return the recognition pass as a network, with a linear layer of labels if `softmax`.

        The last machine gets the probability 1 / classes for every label, because labels are
        unknown. The linear layer starts with the weights of the label units.
        """
        layers: list[nn.Module] = []
        for machine in self.machines[:-1]:
            layers += [_linear(machine.weight, machine.hidden), Logistic(machine.gain)]
        top = self.machines[-1]
        inputs = top.weight.shape[0] - self.classes
        unknown = top.hidden + top.weight[inputs:].mean(dim=0)
        layers += [_linear(top.weight[:inputs], unknown), Logistic(top.gain)]
        if softmax:
            layers.append(_linear(top.weight[inputs:].T, top.visible[inputs:]))
        return nn.Sequential(*layers).eval()


class Logistic(nn.Module):
    """f(x) = 1 / (1 + exp(−g x)).

    >>> Logistic(2.0)(torch.zeros(1))
    tensor([0.5000])
    """

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Return f of every unit."""
        return torch.sigmoid(self.gain * x)

    def extra_repr(self) -> str:
        """Return the gain, for the printed module."""
        return f"gain={self.gain:g}"


def pre_train(
    images: Tensor,
    labels: Tensor,
    sizes: Sequence[int] = (500, 500, 2000),
    config: ContrastiveDivergence | None = None,
    *,
    gain: float = 1.0,
    held_out: Labelled | None = None,
    progress: ShowEpoch = lambda epoch: None,
) -> BeliefNet:
    """Train a belief net greedily, layer by layer. The last layer is trained on the labels too.

    Args:
        images: (N, pixels) in [0, 1].
        labels: (N,) class indices.
        sizes: Number of units of each layer above the input.
        config: Hyper-parameters for every layer.
        gain: g of the logistic units.
        held_out: Images and labels that are not trained on. Epochs of the last layer report their
            error.
        progress: Called after each epoch.

    Raises:
        ArgumentError: If there is no layer, or images and labels do not fit each other.
    """
    if not sizes or len(images) != len(labels):
        raise ArgumentError(f"cannot train layers {tuple(sizes)} on {len(images)} images")
    config = config or ContrastiveDivergence()
    classes = int(labels.max()) + 1
    machines: list[BoltzmannMachine] = []
    data = images
    for index, size in enumerate(sizes):
        last = index == len(sizes) - 1
        if last:
            data = torch.cat([data, functional.one_hot(labels, classes).to(data.dtype)], dim=1)
        machine = train_machine(
            data,
            size,
            config,
            gain=gain,
            labels=classes if last else 0,
            stage=f"layer {index + 1}",
            progress=progress,
            examine=_examination(machines, classes, held_out) if last else None,
        )
        machines.append(machine)
        if not last:
            data = machine.up(data)
    return BeliefNet(tuple(machines), classes)


def _examination(
    below: Sequence[BoltzmannMachine], classes: int, held_out: Labelled | None
) -> Callable[[BoltzmannMachine], float] | None:
    """Return a function from the machine on top of the others to the test error."""
    if held_out is None:
        return None
    features, labels = held_out
    for machine in below:
        features = machine.up(features)

    def wrong(top: BoltzmannMachine) -> float:
        return error_rate(BeliefNet((top,), classes).classify(features), labels)

    return wrong


def fine_tune(
    network: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    config: BackPropagation | None = None,
    *,
    held_out: Labelled | None = None,
    progress: ShowEpoch = lambda epoch: None,
) -> nn.Sequential:
    """Return a copy of the network trained by back-propagation under a softmax, frozen again.

    Args:
        network: Linear and logistic layers, as `BeliefNet.network(softmax=True)` returns them.
        images: (N, pixels) in [0, 1].
        labels: (N,) class indices.
        config: Hyper-parameters.
        held_out: Images and labels that are not trained on. Every epoch reports their error.
        progress: Called after each epoch.

    Raises:
        ArgumentError: If the network has other layers.
    """
    config = config or BackPropagation()
    tuned = _copy(network)
    for parameter in tuned.parameters():
        parameter.requires_grad_(True)
    generator = generator_of(config.seed)
    steps = config.epochs * -(-len(images) // config.batch)
    optimiser = torch.optim.AdamW(
        tuned.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for number in range(1, config.epochs + 1):
        total = 0.0
        for index in shuffled(len(images), config.batch, generator):
            optimiser.zero_grad()
            loss = functional.cross_entropy(tuned(images[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        wrong = None
        if held_out is not None:
            with torch.no_grad():
                wrong = error_rate(tuned(held_out[0]).argmax(1), held_out[1])
        progress(Epoch("fine-tuning", number, config.epochs, total / len(images), wrong))
    for parameter in tuned.parameters():
        parameter.requires_grad_(False)
    return tuned.eval()


def error_rate(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of labels that were predicted wrongly.

    >>> error_rate(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0]))
    0.25
    """
    return float((predicted != labels).double().mean())


def save_network(network: nn.Sequential, file: Path) -> None:
    """Write a network of linear and logistic layers as safetensors that `load_network` reads.

    Raises:
        DiskError: If the file cannot be written.
    """
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    gains = [layer.gain for layer in network if isinstance(layer, Logistic)]
    tensors = {}
    for index, layer in enumerate(linear):
        tensors[f"{index}.weight"] = layer.weight.detach().contiguous()
        tensors[f"{index}.bias"] = layer.bias.detach().contiguous()
    with written_aside(file) as aside, writing(file):
        save_file(tensors, aside, metadata={"gains": json.dumps(gains)})


def load_network(file: Path) -> nn.Sequential:
    """Return the network that `save_network` wrote.

    Raises:
        ModelError: If the file is not such a network.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            gains = [float(gain) for gain in json.loads(stored.metadata()["gains"])]
            names = list(stored.keys())
            if set(names) != {f"{i // 2}.{('weight', 'bias')[i % 2]}" for i in range(len(names))}:
                raise ValueError(f"it holds {sorted(names)[:4]}")
            pairs = [
                (stored.get_tensor(f"{i}.weight"), stored.get_tensor(f"{i}.bias"))
                for i in range(len(names) // 2)
            ]
        _check_layers(pairs, gains)
    except Exception as error:  # damaged bytes may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        shown = first[:200].encode("unicode_escape").decode()
        raise ModelError(
            f"{file} is no network of save_network ({shown}); save it again"
        ) from error
    layers: list[nn.Module] = []
    for index, (weight, bias) in enumerate(pairs):
        layers.append(_linear(weight.T, bias))
        if index < len(gains):
            layers.append(Logistic(gains[index]))
    return nn.Sequential(*layers).eval()


def _check_layers(pairs: Sequence[tuple[Tensor, Tensor]], gains: Sequence[float]) -> None:
    """Refuse tensors that are not the weights and biases of linear layers, one after another."""
    if not pairs or len(gains) > len(pairs) or not all(map(math.isfinite, gains)):
        raise ValueError(f"it has {len(pairs)} linear layers, with gains {list(gains)[:5]}")
    for index, (weight, bias) in enumerate(pairs):
        real = weight.is_floating_point() and bias.is_floating_point()
        if not real or weight.dim() != 2 or bias.shape != weight.shape[:1] or not weight.numel():
            raise ValueError(f"layer {index} has weights {list(weight.shape)} {weight.dtype}")
        if index and weight.shape[1] != pairs[index - 1][0].shape[0]:
            raise ValueError(f"layer {index} does not take what the layer before it gives")


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return x ↦ x W + bias as a frozen layer, with its own copy of W (in, out)."""
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)


def _copy(network: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            layers.append(_linear(layer.weight.T, layer.bias))
        elif isinstance(layer, Logistic):
            layers.append(Logistic(layer.gain))
        else:
            raise ArgumentError(f"a network of linear and logistic layers is wanted, not {layer}")
    return nn.Sequential(*layers)
