"""What a spec comes to once its names are resolved: a network, shards, depths, an identity."""

from __future__ import annotations

import filecmp
import math
import os
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from jvpsvd.arguments import as_path
from jvpsvd.data import (
    Shard,
    demo_shards,
    find_shards,
    fingerprint,
    fingerprints,
    inputs_as_written,
    read_photos,
    walk,
    write_inputs,
)
from jvpsvd.data.locations import refuse_equal_names
from jvpsvd.errors import ArgumentError, RunError, ShardError
from jvpsvd.machine import writing
from jvpsvd.networks import (
    Depth,
    Model,
    PhotoInput,
    choose_batch,
    layer_maps,
    load_model,
    to_device,
)
from jvpsvd.networks.batch_dimension import refuse_without_batch_of_inputs
from jvpsvd.survey.spec.depth_choice import choose_depths_after
from jvpsvd.survey.spec.given_inputs import are_batches, each_given, in_one_shape
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.probe import probe_network
from jvpsvd.survey.spec.spec import Spec
from jvpsvd.svd.request import reached_tolerance


@dataclass(frozen=True)
class RunPlan:
    """Everything that a process needs to work on a run."""

    identity: Identity
    depths: tuple[Depth, ...]
    model: Model
    shards: tuple[Shard, ...]
    device: str
    """The device that this process takes products on."""


def plan_run(spec: Spec, begun: Identity | None = None) -> RunPlan:
    """Load the network, find the shards and check that everything can be done.

    Args:
        spec: What to compute.
        begun: Where there are `inputs`, the run that its folder holds already.

    Raises:
        ArgumentError: On a value that cannot be used.
        ModelError: If the model, its weights or a layer cannot be found or loaded.
        RunError: If the run was begun with other inputs.
        ShardError: If there are no shards.
    """
    device = "cpu" if spec.engine == "ray" else _find_device(spec.device)
    model = _load(spec)
    shards = _find_shards(spec, model, begun)
    if spec.inputs is not None:
        model = _take_what_was_written(model, shards[0], spec)
    identity, depths = identify(model, shards, spec)
    if are_batches(spec.inputs):
        _refuse_without_batch(model, identity.layers)
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
    wanted = (1 if spec.density else defaults.k) if spec.k is None else spec.k
    layers = defaults.layers if spec.layers is None else spec.layers
    depths, start = choose_depths_after(model, 1 if isinstance(wanted, str) else wanted, layers)
    names = tuple(depth.name for depth in depths)
    rows = max(depth.numel for depth in depths)
    k = min(rows, math.prod(start)) if isinstance(wanted, str) else wanted
    identity = Identity(
        model=model.spec,
        weights_sha256=model.weights_sha256,
        photo_input=model.photo_input if model.inputs is None else PhotoInput(),
        shards=tuple(shard.name for shard in shards),
        contents=tuple(fingerprints(shards)),
        layers=names,
        k=k,
        tol=reached_tolerance(defaults.tol if spec.tol is None else spec.tol, torch.float32),
        seed=spec.seed,
        own_starts=True,
        photos=spec.photos.completed(defaults.photos),
        batch=_choose_batch(model, spec, k, math.prod(start), rows),
        vectors=spec.vectors is True,
        small_vectors=_count_small_vectors(spec),
        density=spec.density,
        inputs=None if model.inputs is None else model.inputs.suffix,
        start=_name_start(model),
        start_shape=start if model.inputs is not None or model.since is not None else None,
        probe=probe_network(model, names),
    )
    return identity, depths


def _count_small_vectors(spec: Spec) -> int:
    if spec.vectors is None:
        return spec.defaults.vectors
    return 0 if isinstance(spec.vectors, bool) else spec.vectors


def _load(spec: Spec) -> Model:
    if isinstance(spec.model, str):
        return load_model(
            spec.model, spec.weights, since=spec.since, random_weights=spec.random_weights
        )
    if spec.random_weights is not None:
        raise ArgumentError("random_weights= is for models by name; initialise your module anew")
    if spec.weights is not None:
        raise ArgumentError("weights= is for models by name; load them into your module")
    model = spec.model if isinstance(spec.model, Model) else Model.of(spec.model)
    return model if spec.since is None else replace(model, since=spec.since, wrt=None)


def _find_shards(spec: Spec, model: Model, begun: Identity | None) -> Sequence[Shard]:
    if spec.inputs is not None:
        return [_write(spec.inputs, Path(spec.out), begun)]
    if spec.shards is None:
        if model.inputs is not None:
            raise ArgumentError(
                f"{model.spec} takes .{model.inputs.suffix}, and without shards there are only the "
                "photos of the demo; give --shards, or inputs= in the library"
            )
        return demo_shards(Path(spec.out))
    if isinstance(spec.shards, str | os.PathLike):
        return find_shards(spec.shards)
    files = [as_path("shards", shard) for shard in spec.shards]
    refuse_equal_names(files)
    return files


def _write(inputs: Iterable[Any], out: Path, begun: Identity | None) -> Path:
    """Write inputs into the folder of a run, or find them there as they are.

    Raises:
        ArgumentError: If there is none, one cannot be written, or one has another shape.
        RunError: If the run was begun with others.
    """
    shard = out / "shards" / "inputs.tar"
    other = RunError(f"{out} is a run begun with other inputs; give another out")
    if begun is not None and begun.shards != (shard.name,):
        raise other
    with writing(shard):
        shard.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shard.parent) as folder:
        fresh = Path(folder, shard.name)
        given = each_given(inputs)
        if not write_inputs(in_one_shape(given) if begun is None else given, fresh):
            raise ArgumentError("inputs= holds none")
        if begun is not None and begun.contents != (fingerprint(fresh),):
            raise other
        # A fingerprint is of the first mebibyte; later inputs may be others.
        if begun is not None and shard.exists() and not _are_same_bytes(shard, fresh):
            raise other
        if begun is None or not shard.exists():  # what a start that failed has left is no run
            fresh.replace(shard)
    return shard


def _are_same_bytes(shard: Path, fresh: Path) -> bool:
    filecmp.clear_cache()  # which knows files by their size and time
    try:
        return filecmp.cmp(shard, fresh, shallow=False)
    except OSError as error:
        raise ShardError(f"{shard} cannot be read: {error.strerror or error}") from error


def _take_what_was_written(model: Model, shard: Shard, spec: Spec) -> Model:
    """Return a model that takes the members that `write_inputs` wrote."""
    _, data = next(read_photos(shard, walk(shard, ["safetensors"])[:1]))
    if data is None:
        raise ShardError(f"{shard} cannot be read; give another out")
    wrt = spec.wrt or model.wrt
    inputs = inputs_as_written(safetensors.torch.load(data), model.since, wrt)
    return replace(model, inputs=inputs, wrt=inputs.wrt)


def _refuse_without_batch(model: Model, layers: Sequence[str]) -> None:
    """Check that a network takes the dimension in front of an item of a batch for its batch.

    Raises:
        ArgumentError: If it does not.
    """
    device = next((weight.device for weight in model.module.parameters()), torch.device("cpu"))
    example = to_device(model.example(), device)
    maps = layer_maps(model.module, example, layers, model.since, model.wrt)
    refuse_without_batch_of_inputs(model.module, lambda x: maps(maps.start(x)), example)


def _choose_batch(model: Model, spec: Spec, k: int, columns: int, rows: int) -> int:
    """Return how many photos are solved together, unless the spec says so.

    Vectors of all depths are held until a task is stored; those of many large Jacobians would not
    fit, so such runs have batches of small ones only.
    """
    if model.inputs is None and model.since is None:
        if spec.batch is not None:
            return spec.batch
        held = spec.vectors is True or _count_small_vectors(spec) > 0
        device = None if held or spec.engine == "ray" else _card(spec)
        return choose_batch(columns, rows, k, device=device, memory=spec.memory)
    if spec.batch is not None and spec.batch > 1:
        raise ArgumentError(
            f"batch={spec.batch} is for photos, from the input; others are solved singly"
        )
    return 1


def _card(spec: Spec) -> torch.device | None:
    """Return the GPU that a run will take; None if it takes none, or there is none here."""
    wanted = spec.device == "auto" or spec.device.startswith("cuda")
    if not wanted or not torch.cuda.is_available():
        return None
    return torch.device("cuda" if spec.device == "auto" else spec.device)


def _name_start(model: Model) -> str | None:
    start = model.since if model.wrt is None else model.wrt
    return None if start is None else str(start)


def _find_device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:
        first = textwrap.shorten(str(error).splitlines()[0], 80, placeholder=" …")
        raise ArgumentError(f"device {name} cannot be used ({first}); try cpu") from error
    return name
