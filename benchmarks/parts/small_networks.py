"""Jacobians of small networks: what `svds` chooses, beside both methods and the whole matrix.

    python -m benchmarks small_networks [--quick] [--rounds 3]

The operator and its triplets by method "auto", "golub-kahan" and "exact" take turns, and with them
the whole matrix by `torch.func.jacrev` (or `jacfwd`, where the inputs are fewer) and its
`torch.linalg.svd`, without a certificate. The first ratio is the time of "auto" over that of the
faster method, the second that of the whole matrix over that of "auto". Then the same for batches of
16 inputs, of the five smallest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.timing import time_in_turns
from jvpsvd import JacobianOperator, SVDResult, svds

_KS = (6, 20, 100)
_TOGETHER = 16


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks small_networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one network, one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    names = list(_NETWORKS)[:1] if options.quick else list(_NETWORKS)
    rounds = 1 if options.quick else options.rounds
    rows = []
    solves = [
        *itertools.product((1,), names, _KS),
        *itertools.product((_TOGETHER,), names[:5], _KS),
    ]
    for inputs, name, k in solves:
        torch.manual_seed(0)
        make, shape = _NETWORKS[name]
        model, X = make().eval().requires_grad_(False), torch.randn(inputs, *shape[1:])
        rows.append({"network": name, "inputs": inputs, **_time(model, X, k, rounds)})
        print(_in_words(rows[-1]), flush=True)
    return {"rows": rows}


class _Residual(nn.Module):
    """Six layers x + tanh(W x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class _Recurrent(nn.Module):
    """All states of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.cells(x)[0]
        return states


def _transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _autoencoder() -> nn.Module:
    widths = (784, 256, 64, 256, 784)
    pairs = itertools.pairwise(widths)
    layers = [part for pair in pairs for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _convolutions(channels: int, width: int) -> nn.Module:
    first = nn.Conv2d(channels, width, 5, padding=2)
    second = nn.Conv2d(width, 4 * width, 5, padding=2)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.AvgPool2d(3))


_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual, 256": (lambda: _Residual(256), (1, 256)),
    "LSTM, 20 steps of 16": (_Recurrent, (1, 20, 16)),
    "transformer, 12 tokens of 32": (_transformer, (1, 12, 32)),
    "residual, 600": (lambda: _Residual(600), (1, 600)),
    "autoencoder, 784": (_autoencoder, (1, 784)),
    "convolutions, 28 x 28": (lambda: _convolutions(1, 16), (1, 1, 28, 28)),
    "convolutions, 3 x 32 x 32": (lambda: _convolutions(3, 8), (1, 3, 32, 32)),
    "transformer, 32 tokens of 32": (_transformer, (1, 32, 32)),
    "residual, 1000": (lambda: _Residual(1000), (1, 1000)),
}
"""Networks with the shape of their input, from the smallest Jacobian to the largest."""


def _time(model: nn.Module, X: Tensor, k: int, rounds: int) -> dict[str, Any]:
    chosen: list[SVDResult] = []
    inputs = len(X)

    def make() -> JacobianOperator:
        if inputs == 1:
            return JacobianOperator(model, X)
        return JacobianOperator(model, X, batch_dims=1)

    def solve(method: str) -> Callable[[], object]:
        return lambda: chosen.append(svds(make(), k, method=method))

    m, n = make().shape[-2:]
    take = torch.func.jacrev if m <= n else torch.func.jacfwd

    def take_whole() -> Tensor:
        return torch.stack([take(model)(x[None]).reshape(m, n) for x in X])

    works: dict[str, Callable[[], object]] = {
        "golub-kahan": solve("golub-kahan"),
        "exact": solve("exact"),
        "whole matrix": lambda: torch.linalg.svd(take_whole(), full_matrices=False),
        "auto": solve("auto"),
    }
    times = time_in_turns(works, rounds)
    median = {name: statistics.median(every) for name, every in times.items()}
    values = torch.linalg.svdvals(take_whole())
    found = chosen[-1].s.reshape(inputs, -1)
    return {
        "shape": [m, n],
        "k": k,
        "chosen": chosen[-1].method,
        "converged": int(chosen[-1].converged.sum()),
        "difference": float(((values[:, :k] - found) / values[:, :1]).abs().max()),
        "seconds": times,
        "auto over the faster": median["auto"] / min(median["golub-kahan"], median["exact"]),
        "whole matrix over auto": median["whole matrix"] / median["auto"],
    }


def _in_words(row: dict[str, Any]) -> str:
    inputs = f"{row['inputs']} x " if row["inputs"] > 1 else ""
    shape = inputs + " x ".join(map(str, row["shape"]))
    times = ", ".join(
        f"{name} {1e3 * statistics.median(every):.0f}" for name, every in row["seconds"].items()
    )
    return (
        f"{row['network']:29} {shape:16} k={row['k']:<3} {times} ms: {row['chosen']}, "
        f"{row['converged']} converged, values differ by {row['difference']:.0e}; ratios "
        f"{row['auto over the faster']:.2f}, {row['whole matrix over auto']:.2f}"
    )
