"""What a spec comes to once its names are resolved: a network, shards, depths, an identity."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jvpsvd.data import Shard, demo_shards, find_shards, fingerprints
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Depth, Model, choose_batch, load_model
from jvpsvd.survey.spec.depth_choice import choose_depths
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.probe import probe_network
from jvpsvd.survey.spec.spec import Spec


@dataclass(frozen=True)
class RunPlan:
    """Everything that a process needs to work on a run."""

    identity: Identity
    depths: tuple[Depth, ...]
    model: Model
    shards: tuple[Shard, ...]
    device: str
    """The device that this process takes products on."""


def plan_run(spec: Spec) -> RunPlan:
    """Load the network, find the shards and check that everything can be done.

    Raises:
        ArgumentError: On a value that cannot be used.
        ModelError: If the model, its weights or a layer cannot be found or loaded.
        ShardError: If there are no shards.
    """
    device = "cpu" if spec.engine == "ray" else _find_device(spec.device)
    model = load_model(spec.model, spec.weights) if isinstance(spec.model, str) else spec.model
    shards: Sequence[Shard]
    if spec.shards is None:
        shards = demo_shards(Path(spec.out))
    elif isinstance(spec.shards, str | os.PathLike):
        shards = find_shards(os.fspath(spec.shards))
    else:
        shards = [Path(shard) for shard in spec.shards]
    identity, depths = identify(model, shards, spec)
    return RunPlan(identity, tuple(depths), model, tuple(shards), device)


def identify(model: Model, shards: Sequence[Shard], spec: Spec) -> tuple[Identity, list[Depth]]:
    """Return the identity of a run, and the depths it visits.

    Args:
        model: The network of the spec.
        shards: The shards of the spec, as `find_shards` returns them.
        spec: All the rest.

    Raises:
        ModelError: If a layer is unknown.
        ArgumentError: If k is below 1.
    """
    defaults = spec.defaults
    k = (1 if spec.density else defaults.k) if spec.k is None else spec.k
    depths = choose_depths(model, k, defaults.layers if spec.layers is None else spec.layers)
    names = tuple(depth.name for depth in depths)
    inputs = math.prod(model.photo_input.shape)
    identity = Identity(
        model=model.spec,
        weights_sha256=model.weights_sha256,
        photo_input=model.photo_input,
        shards=tuple(shard.name for shard in shards),
        contents=tuple(fingerprints(shards)),
        layers=names,
        k=k,
        tol=defaults.tol if spec.tol is None else spec.tol,
        seed=spec.seed,
        photos=spec.photos.completed(defaults.photos),
        batch=spec.batch or choose_batch(inputs, max(depth.numel for depth in depths)),
        vectors=spec.vectors,
        density=spec.density,
        probe=probe_network(model, names),
    )
    return identity, depths


def _find_device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:
        first = textwrap.shorten(str(error).splitlines()[0], 80, placeholder=" …")
        raise ArgumentError(f"device {name} cannot be used ({first}); try cpu") from error
    return name
