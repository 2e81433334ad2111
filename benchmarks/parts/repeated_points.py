"""The leading values of one network's Jacobians at many points: ours beside torch.func by hand.

`small_timings` times these pairs as its entry "repeated_points".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev

from benchmarks.measure.timing import Pair
from jvpsvd import JacobianOperator, spectra, svds


def small_network() -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network whose Jacobian is 10 x 3072, and the shape of its input."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3072, 256), nn.Tanh(), nn.Linear(256, 10)).eval(), (3072,)


def image_network() -> tuple[nn.Module, tuple[int, ...]]:
    """Return a CNN whose Jacobian is 512 x 3072, and the shape of its input."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width, before in ((16, 3), (32, 16), (32, 32)):
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()).eval(), (1, 3, 32, 32)


class Experts(nn.Module):
    """Blocks in which each token goes to one of four experts: values decide how many each takes."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(width, 4) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
                for _ in range(4)
            )
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the shape of x."""
        h = x.flatten(0, 1)
        for gate, experts in zip(self.gates, self.blocks, strict=True):
            weight, chosen = gate(h).softmax(-1).max(-1)
            out = torch.zeros_like(h)
            for index, expert in enumerate(experts):  # type: ignore[arg-type]
                rows = torch.where(chosen == index)[0]
                out = out.index_add(0, rows, expert(h[rows]) * weight[rows, None])
            h = h + out
        return h.reshape_as(x)


class Text(nn.Module):
    """A transformer encoder of token ids with a padding mask, which pools what is no padding."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return ten numbers for each text."""
        h = self.embedding(ids)
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=mask == 0)
        pooled: Tensor = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(pooled)  # type: ignore[no-any-return]


def pairs(quick: bool, k: int | None) -> Iterator[Pair]:
    """Yield the loop over many points, and each network at one."""
    k = k or 10
    # By hand a matrix of 512 rows takes half a second: 100 of them, in turns, a quarter of an hour.
    each = (("10 x 3072", small_network, 100), ("512 x 3072", image_network, 10))
    for name, build, count in each:
        count = 5 if quick else count
        net, shape = build()
        X = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
        anew, moved, by_hand, together = _loops(net, X, k)
        yield Pair(f"{name}, point by point", ("anew", anew), ("J.at", moved), count)
        yield Pair(f"{name}, by hand", ("jacrev, svd", by_hand), ("J.at", moved), count)
        yield Pair(f"{name}, by hand", ("jacrev, svd", by_hand), ("a batch", together), count)
        one = _loops(net, X[:1], k)
        yield Pair(f"{name}, one point", ("anew", one[0]), ("jacrev, svd", one[2]))
    yield from _experts(3 if quick else 12, k)
    yield _texts(4 if quick else 12, k)
    yield _tiny(40 if quick else 400, k)


def _experts(count: int, k: int) -> Iterator[Pair]:
    """Yield the loop over points at which experts take other numbers of tokens."""
    torch.manual_seed(0)
    net, shape = Experts(64, 3).eval(), (1, 32, 64)
    X = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))

    def moved(solve: bool, **options: Any) -> object:
        J = JacobianOperator(net, X[0], **options)
        others = (J.at(x) for x in X)
        return [svds(each, k).s if solve else each for each in others]

    def anew(solve: bool) -> object:
        others = (JacobianOperator(net, x, derivatives="trace") for x in X)
        return [svds(each, k).s if solve else each for each in others]

    recorded: dict[str, Any] = {"derivatives": "trace"}
    for name, solve in (("experts, no solve", False), ("experts, point by point", True)):
        ours = "J.at", partial(moved, solve, **recorded)
        yield Pair(name, ("recorded anew", partial(anew, solve)), ours, count)
    by_torch = partial(moved, True, derivatives="transforms")
    yield Pair("experts, by torch.func", ("transforms", by_torch), ours, count)


def _texts(count: int, k: int) -> Pair:
    """Return spectra of texts with a mask each, recorded anew for each and once for all."""
    torch.manual_seed(0)
    net, length = Text(64, 3).eval(), 16
    ids = torch.randint(100, (count, length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) < 4 + torch.arange(count)[:, None]).float()
    options: dict[str, Any] = {"k": k, "since": "embedding", "progress": False}

    def anew() -> object:
        texts = ({"ids": ids[i : i + 1], "mask": mask[i : i + 1]} for i in range(count))
        return [spectra(net, x, **options) for x in texts]

    def together() -> object:
        return spectra(net, {"ids": ids, "mask": mask}, **options)

    ours = "spectra of all", together
    return Pair("texts with a mask each", ("one call each", anew), ours, count)


def _tiny(count: int, k: int) -> Pair:
    """Return spectra of Jacobians of 10 x 20 entries, 32 together and as many as is chosen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10)).eval()
    X = torch.randn(count, 20, generator=torch.Generator().manual_seed(1))

    def solved(batch: int | None) -> object:
        return spectra(net, X, k=min(k, 10), batch=batch, progress=False)

    ours = "spectra", partial(solved, None)
    return Pair("10 x 20, spectra", ("32 together", partial(solved, 32)), ours, count)


def _loops(net: nn.Module, X: Tensor, k: int) -> tuple[Callable[[], object], ...]:
    """Return the loop over points anew each time, with J.at and by hand, and one batch of them."""

    def anew() -> object:
        return [svds(JacobianOperator(net, x), k).s for x in X]

    def moved() -> object:
        J = JacobianOperator(net, X[0])
        return [svds(J.at(x), k).s for x in X]

    def by_hand() -> object:
        dense = jacrev(net)
        matrices = (dense(x).detach().reshape(-1, x.numel()) for x in X)
        return [torch.linalg.svd(A, full_matrices=False)[1][:k] for A in matrices]

    def together() -> object:
        return svds(JacobianOperator(net, X, batch_dims=1), k).s

    return anew, moved, by_hand, together
