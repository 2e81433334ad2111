"""Small functions by kind, drawn from a seed: honest ones, and ones with hidden derivatives.

The name of a kind is part of its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]
FunctionAtPoint = tuple[Function, Tensor]
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.LeakyReLU, nn.ELU)


@dataclass(frozen=True)
class Draw:
    """The random numbers and the dtype of one seed."""

    rng: np.random.Generator
    dtype: torch.dtype

    def pick(self, *choices):
        """Return one of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def scale(self) -> float:
        """Return a number from 1e-3 to 1e3."""
        return float(10 ** self.rng.uniform(-3, 3))

    def normal(self, *shape: int) -> Tensor:
        """Return a normal tensor."""
        return torch.from_numpy(self.rng.standard_normal(shape)).to(self.dtype)

    def scaled(self, net: nn.Module, by: float) -> nn.Module:
        """Return the network in this dtype with its weights, not its biases, multiplied."""
        net = net.to(self.dtype).eval().requires_grad_(False)
        for name, weight in net.named_parameters():
            if name.endswith("weight") and weight.ndim > 1:
                weight.mul_(by)
        return net


def mlp(draw: Draw, norm: type[nn.Module] | None = None, act=None, bias=True) -> nn.Module:
    """Return two to four linear layers with an activation between them."""
    sizes = [8, *(draw.pick(5, 12, 20) for _ in range(draw.pick(1, 2, 3)))]
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m, bias=bias), *([norm(m)] if norm else [])]
        layers.append((act or draw.pick(*ACTIVATIONS))())
    return nn.Sequential(*layers, nn.Linear(sizes[-1], draw.pick(1, 3, 10), bias=bias))


def cnn(draw: Draw, bias=True) -> nn.Module:
    """Return a small image network with batch normalisation and pooling."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    pool = draw.pick(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Identity())
    first = [nn.Conv2d(2, 4, 3, padding=1, bias=bias), *([norm] if bias else [])]
    return nn.Sequential(
        *first, nn.ReLU(), pool, nn.Conv2d(4, 3, 3, bias=bias), nn.ReLU(), nn.Flatten()
    )


class Attention(nn.Module):
    """One encoder layer over four tokens."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens."""
        return self.layer(x)


def smooth_or_not(draw: Draw) -> FunctionAtPoint:
    """Return a network of any kind with weights near their usual size, and a point."""
    x = draw.normal(8) * draw.pick(0.1, 1.0, 10.0)
    kind = draw.pick("mlp", "normed", "cnn", "attention")
    if kind == "mlp":
        return draw.scaled(mlp(draw), draw.pick(0.5, 1.0, 3.0)), x
    if kind == "normed":
        return draw.scaled(mlp(draw, nn.LayerNorm), 1.0), x
    if kind == "cnn":
        return draw.scaled(cnn(draw), 1.0), draw.normal(1, 2, 6, 6)
    return draw.scaled(Attention(), 1.0), draw.normal(1, 4, 8)


def scaled_mlp(draw: Draw) -> FunctionAtPoint:
    """Return a network whose weights and input are scaled by up to 1e3 either way."""
    norm = draw.pick(None, nn.LayerNorm)
    return draw.scaled(mlp(draw, norm), draw.scale()), draw.normal(8) * draw.scale()


def dark_image(draw: Draw) -> FunctionAtPoint:
    """Return an image network at an image most of which is exactly 0, at kinks without a bias."""
    x = draw.normal(1, 2, 6, 6).relu() * draw.scale()
    x[..., draw.pick(2, 3, 4) :] = 0
    return draw.scaled(cnn(draw, bias=draw.pick(True, False)), draw.scale()), x


def at_kinks(draw: Draw) -> FunctionAtPoint:
    """Return a function at a kink in every coordinate."""
    zero = torch.zeros(8, dtype=draw.dtype)
    edge = draw.pick(-1.0, 1.0) + zero
    tied = (torch.ones(1, 2, 6, 6) * draw.scale()).to(draw.dtype)
    return draw.pick(
        (torch.relu, zero),
        (torch.abs, zero),
        (nn.Hardtanh(), edge),
        (lambda x: (2 * x).clamp(-2, 2), edge),
        (lambda x: x.relu().sum(), zero),
        (draw.scaled(mlp(draw, act=nn.ReLU, bias=False), draw.scale()), zero),
        (nn.MaxPool2d(2), tied),
        (lambda x: x.max(), zero + 1),
        (lambda x: (x**2).sum().sqrt(), zero + 1),
        (draw.scaled(cnn(draw, bias=False), 1.0), tied * 0),
    )


def dead(draw: Draw) -> FunctionAtPoint:
    """Return a network all of whose units are inactive, or whose head is zero."""
    net = draw.scaled(mlp(draw, act=nn.ReLU), 1.0)
    if draw.pick(True, False):
        net[-3].bias.fill_(-draw.pick(10, 1e3, 1e5))
    else:
        net[-1].weight.zero_()
    return net, draw.normal(8)


def stationary(draw: Draw) -> FunctionAtPoint:
    """Return a function at a point where its derivative is zero and its second is not."""
    zero = torch.zeros(8, dtype=draw.dtype)
    c = draw.scale()
    return draw.pick(
        (lambda x: c * (x**2).sum(), zero),
        (lambda x: c * x**3, zero),
        (lambda x: c * x[:4] * x[4:], zero),
        (lambda x: torch.cos(c * x), zero),
        (lambda x: 1 + c * x**2, zero),
        (lambda x: c * ((x - 1) ** 2).sum(), zero + 1),
        (lambda x: torch.exp(-c * (x**2).sum()), zero),
    )


def constant(draw: Draw) -> FunctionAtPoint:
    """Return a function that does not move, exactly or to rounding."""
    c = draw.scale()
    return draw.pick(
        (lambda x: c * torch.ones_like(x), draw.normal(8)),
        (lambda x: x - x + c, draw.normal(8)),
        (lambda x: torch.softmax(c * x, -1).sum(), draw.normal(8)),
        (lambda x: nn.functional.layer_norm(x, (8,)).sum() + c, draw.normal(8)),
        (lambda x: nn.functional.normalize(x, dim=-1).norm(), draw.normal(8) * c),
        (lambda x: torch.sigmoid(1e4 * x), draw.normal(8)),
        (lambda x: torch.softmax(1e4 * x, -1), draw.normal(8)),
    )


def stepped(draw: Draw) -> FunctionAtPoint:
    """Return a step function, alone or within a network: its derivative is zero."""
    # 15 bits are the finest that float32 tells from a slope.
    bits = draw.pick(1, 4, 7, 8, 10, 12)
    net = draw.scaled(mlp(draw, act=nn.Tanh), 1.0)
    quantise = draw.pick(
        torch.sign,
        lambda x: torch.round(x * 2**bits) / 2**bits,
        lambda x: torch.floor(x * 127) / 127,
        lambda x: nn.functional.one_hot(x.argmax(-1), 8).to(x),
        lambda x: (x > 0).to(x),
        lambda x: torch.fake_quantize_per_tensor_affine(x.detach(), 4 / 127, 0, -127, 127),
        lambda x: torch.quantize_per_tensor(x.float(), 4 / 127, 0, torch.qint8).dequantize().to(x),
    )
    n = draw.pick(8, 8, 4096)
    x = draw.normal(n)
    head, offset = draw.normal(3, n), draw.scale()
    return draw.pick(
        (quantise, draw.normal(8)),
        (lambda z: offset + quantise(z), draw.normal(8)),
        (lambda z: offset + (head @ torch.round(z * 127) / 127), x),
        (lambda z: net(quantise(z)), draw.normal(8)),
        (lambda z: head @ torch.round(z * 127) / 127, x),
    )


def steep(draw: Draw) -> FunctionAtPoint:
    """Return a function that varies within steps, or is large in comparison with its motion."""
    c = 10 ** draw.rng.uniform(2, 6)
    return draw.pick(
        (lambda x: torch.sin(c * x), draw.normal(8)),
        (lambda x: torch.tanh(c * x), draw.normal(8)),
        (lambda x: c + x, draw.normal(8)),
        (lambda x: nn.functional.layer_norm(x, (8,)), c / 100 + draw.normal(8)),
        (lambda x: torch.softmax(c * x, -1), draw.normal(8)),
        (lambda x: (c * x).clamp(-1, 1), draw.normal(8)),
        (lambda x: x / x.norm(), draw.normal(8) / c),
        (lambda x: x * torch.tensor([c, 1.0]).repeat(4).to(x), draw.normal(8)),
        (lambda x: x.sum(), torch.tensor([c, 1.0]).repeat(4).to(draw.dtype)),
        (lambda x: x**2, torch.tensor([c, 1.0, 0.0, 1 / c]).repeat(2).to(draw.dtype)),
    )


class Blind(torch.autograd.Function):
    """A kernel that says it has no derivative."""

    @staticmethod
    def forward(ctx, x, fn):
        """Return fn(x)."""
        with torch.no_grad():
            return fn(x)

    @staticmethod
    def backward(ctx, grad):
        """Return no cotangent."""
        return None, None


LIBRARY = torch.library.Library("derivative_check", "DEF")
LIBRARY.define("double(Tensor x) -> Tensor")
LIBRARY.impl("double", lambda x: 2 * x, "CPU")


def by_floats(x: Tensor) -> Tensor:
    """Return x, rebuilt from Python numbers."""
    return torch.tensor(x.tolist(), dtype=x.dtype)


HIDES: dict[str, Callable[[Function], Function]] = {
    "inference_mode": lambda fn: torch.inference_mode()(fn),
    "no_grad": lambda fn: torch.no_grad()(fn),
    "NumPy": lambda fn: lambda x: torch.from_numpy(fn(x.detach()).numpy().copy()),
    "floats": lambda fn: lambda x: by_floats(fn(x)),
    "detach": lambda fn: lambda x: fn(x.detach()),
    "custom function": lambda fn: lambda x: Blind.apply(x, fn),
    "kernel": lambda fn: lambda x: fn(torch.ops.derivative_check.double(x) / 2),
}


def hidden(hide: str) -> Callable[[Draw], FunctionAtPoint]:
    """Return a maker of functions all of which is hidden."""

    def make(draw: Draw) -> FunctionAtPoint:
        fn, x = draw.pick(smooth_or_not, smooth_or_not, scaled_mlp)(draw)
        return HIDES[hide](fn), x

    return make


def partly(hide: str) -> Callable[[Draw], FunctionAtPoint]:
    """Return a maker of networks of which one branch is hidden."""

    def make(draw: Draw) -> FunctionAtPoint:
        fn, x = smooth_or_not(draw)
        other = HIDES[hide](fn)
        return lambda z: fn(z / 2) + other(z), x

    return make


HONEST: dict[str, Callable[[Draw], FunctionAtPoint]] = {
    "networks": smooth_or_not,
    "weights, inputs scaled": scaled_mlp,
    "dark images": dark_image,
    "at kinks": at_kinks,
    "dead units, zero heads": dead,
    "stationary": stationary,
    "constant": constant,
    "steps, quantised": stepped,
    "steep, offset": steep,
}
WHOLE = {f"whole: {hide}": hidden(hide) for hide in HIDES}
PART = {f"part: {hide}": partly(hide) for hide in HIDES}
