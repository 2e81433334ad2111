"""What a user asks of a survey, and what that comes to: a network, shards, depths, an identity."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jvpsvd.data import Shard, demo_shards, find_shards
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Depth, Model, load_model
from jvpsvd.survey.spec.identity import Identity, identify
from jvpsvd.svd import parse_memory

ENGINES = ("local", "ray")

_MODEL, _K, _TOL = "efficientnet-lite0", 500, 1e-5
# Without shards: small enough for a laptop.
_DEMO_K, _DEMO_TOL, _DEMO_PHOTOS = 50, 1e-4, 4
_DEMO_LAYERS = ("_blocks.2", "_blocks.5", "_blocks.10", "_blocks.15", "output")


@dataclass(frozen=True)
class Spec:
    """A survey: the options of `jvpsvd run`.

    Without `shards` it is the demo: 20 ImageNet photos that come with the package foolbox, of which
    the first four are taken, at k = 50 and five depths of EfficientNet-Lite0.

    >>> Spec(shards="photos/train-{0000..0146}.tar", k=100, out="run").engine
    'local'
    """

    shards: str | Sequence[Path] | None = None
    """Folder, file, glob, brace range or URL of shards; or the files themselves."""
    out: str | Path = "jvpsvd-run"
    """Folder of the run; made, or continued if it holds the same run."""
    model: str | Model = _MODEL
    """Built-in name, torchvision:NAME, timm:NAME, package.module:factory, or a `Model`."""
    weights: str | None = None
    """State dict of the model (.safetensors or torch), or .caffemodel; no pickles are run."""
    layers: Sequence[str] | None = None
    """Depths; None: five spread over the network; ("all",): all that have k values."""
    k: int | None = None
    """Triplets per depth; None: 500."""
    tol: float | None = None
    """Residual, over σ₁, of a converged triplet; None: 1e-5."""
    classes: Sequence[str] | None = None
    """Only photos of these class indices or wnids."""
    per_class: int | None = None
    """At most so many photos of each class."""
    limit: int | None = None
    """At most so many photos."""
    choice: str | None = None
    """Which: "random" (by the seed; the default) or "first"."""
    batch: int | None = None
    """Photos solved together; None: 1 unless their Jacobians are small."""
    vectors: bool = False
    """Whether singular vectors are stored as well."""
    seed: int = 0
    """Of the solver and of the choice of photos."""
    device: str = "auto"
    """Where products are taken: auto, cpu, cuda, cuda:1, …"""
    memory: int | str | None = None
    """Budget of one solve, as "8GiB"; None: half of the GPU's; without one, half of the machine's,
    divided among workers."""
    share: tuple[int, int] = (0, 1)
    """(i, n): do part i of n, counted from 0, and leave the rest to others."""
    engine: str = "local"
    """"local": in this process; "ray": by workers of a Ray cluster."""
    address: str | None = None
    """Of a Ray cluster; None: one is started on this machine."""
    workers: int | None = None
    """Of Ray; None: one per GPU, or where there is none, per CPU."""

    def __post_init__(self) -> None:
        """Check what can be checked without looking at anything.

        Raises:
            ArgumentError: On an unknown engine, a share that is no part, or workers without Ray.
        """
        if self.engine not in ENGINES:
            raise ArgumentError(f"engine '{self.engine}' is unknown; use {' or '.join(ENGINES)}")
        if not 0 <= self.share[0] < self.share[1]:
            raise ArgumentError(
                f"share {self.share[0]}/{self.share[1]} must be i/n with 0 <= i < n"
            )
        if self.engine != "ray" and not (self.address is None and self.workers is None):
            raise ArgumentError("address and workers are of engine 'ray'; add --engine ray")
        if self.workers is not None and self.workers < 1:
            raise ArgumentError(f"workers {self.workers} must be at least 1")
        if self.memory is not None:
            parse_memory(self.memory)


@dataclass(frozen=True)
class RunPlan:
    """A spec whose names have been resolved and checked."""

    identity: Identity
    depths: tuple[Depth, ...]
    model: Model
    shards: tuple[Shard, ...]
    device: str


def plan_run(spec: Spec) -> RunPlan:
    """Load the network, find the shards and check that everything can be done.

    Raises:
        ArgumentError: On a value that cannot be used.
        ModelError: If the model, its weights or a layer cannot be found or loaded.
        ShardError: If there are no shards.
    """
    device = "cpu" if spec.engine == "ray" else _device(spec.device)
    model = load_model(spec.model, spec.weights) if isinstance(spec.model, str) else spec.model
    demo = spec.shards is None
    k = spec.k if spec.k is not None else _DEMO_K if demo else _K
    tol = spec.tol if spec.tol is not None else _DEMO_TOL if demo else _TOL
    layers, limit, choice = spec.layers, spec.limit, spec.choice or "random"
    shards: Sequence[Shard]
    if spec.shards is None:
        shards = demo_shards(Path(spec.out))
        limit = _DEMO_PHOTOS if limit is None else limit
        choice = spec.choice or "first"
        if layers is None and spec.model == _MODEL:
            layers = _DEMO_LAYERS
    elif isinstance(spec.shards, str | os.PathLike):
        shards = find_shards(os.fspath(spec.shards))
    else:
        shards = [Path(shard) for shard in spec.shards]
    identity, depths = identify(
        model,
        shards,
        layers=layers,
        k=k,
        tol=tol,
        seed=spec.seed,
        classes=spec.classes,
        per_class=spec.per_class,
        limit=limit,
        choice=choice,
        batch=spec.batch,
        vectors=spec.vectors,
    )
    return RunPlan(identity, tuple(depths), model, tuple(shards), device)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:
        first = textwrap.shorten(str(error).splitlines()[0], 80, placeholder=" …")
        raise ArgumentError(f"device {name} cannot be used ({first}); try cpu") from error
    return name
