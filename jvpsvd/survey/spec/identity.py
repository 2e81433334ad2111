"""What a run computes: everything that its rows depend on, in one frozen record."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jvpsvd.data import UNREADABLE, Shard, fingerprints
from jvpsvd.errors import ArgumentError, JvpsvdError, ModelError
from jvpsvd.networks import Depth, Model, PhotoInput, depths
from jvpsvd.operators.failures import first_line
from jvpsvd.survey.spec.probe import changed_network, probe_network

NUMERICS = 1
"""Raised when a change of jvpsvd alters values by more than rounding; old rows are then stale."""

CHOICES = ("random", "first")

_NULL = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,), "weights_sha256": (str,), "photo_input": (dict,), "shards": (list, tuple),
    "contents": (list, tuple), "layers": (list, tuple), "k": (int,), "tol": (float,),
    "seed": (int,), "classes": (list, tuple, _NULL), "per_class": (int, _NULL),
    "limit": (int, _NULL), "choice": (str,), "batch": (int,), "vectors": (bool,), "dtype": (str,),
    "numerics": (int,), "probe": (list, tuple, _NULL),
}  # fmt: skip
_LARGEST, _LARGEST_SIDE = 1 << 48, 1 << 20

_DEFAULT_DEPTHS = 5
# Matrices of a batch that are together no larger than this: beyond, a batch gains nothing.
_BATCH_ENTRIES, _LARGEST_BATCH = 1 << 24, 32


@dataclass(frozen=True)
class Identity:
    """Two runs of equal identities have equal rows (up to the device)."""

    model: str
    """Model specification."""
    weights_sha256: str
    """Hash of the weights."""
    photo_input: PhotoInput
    """Preprocessing."""
    shards: tuple[str, ...]
    """File names of the shards, in order."""
    contents: tuple[str, ...]
    """Fingerprints of the shards, in the same order."""
    layers: tuple[str, ...]
    """Depths, in the order of the network."""
    k: int
    """Triplets per depth."""
    tol: float
    """Residual, relative to s₁, under which a triplet counts as converged."""
    seed: int = 0
    """Of the solver, and of the choice of samples."""
    classes: tuple[str, ...] | None = None
    """Only samples of these class indices or wnids."""
    per_class: int | None = None
    """At most so many samples of each class."""
    limit: int | None = None
    """At most so many samples."""
    choice: str = "random"
    """"random": which ones follows from the seed; "first": those that come first."""
    batch: int = 1
    """Samples that are solved together."""
    vectors: bool = False
    """Whether singular vectors are stored."""
    dtype: str = "float32"
    """Of photos, products and vectors."""
    numerics: int = NUMERICS
    """Version of the numerics."""
    probe: tuple[float, ...] | None = None
    """What the network gives at a fixed input, see `probe_network`; None: not recorded."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Identity:
        """Return the record that `to_json` wrote.

        Raises:
            ArgumentError: If fields are missing or unknown.
        """
        try:
            for name, kinds in _KINDS.items():
                if name in record and type(record[name]) not in kinds:
                    raise TypeError(f"{name} is {record[name]!r}")
            inputs: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in record["photo_input"].items()
            }
            lists = {name: tuple(record[name]) for name in ("shards", "contents", "layers")}
            for name in ("classes", "probe"):
                if record.get(name) is not None:
                    lists[name] = tuple(record[name])
            identity = Identity(**{**record, **lists, "photo_input": PhotoInput(**inputs)})
            identity._check()
        except (
            KeyError, TypeError, AttributeError, ValueError, OverflowError, ModelError
        ) as error:  # fmt: skip
            raise ArgumentError(f"not the identity of a run: {error}") from error
        return identity

    def _check(self) -> None:
        """Raise ValueError if a field cannot be that of a run."""
        texts = (*self.shards, *self.contents, *self.layers, *(self.classes or ()))
        sizes = (self.photo_input.size, self.photo_input.resize)
        colours = (*self.photo_input.mean, *self.photo_input.std, self.photo_input.scale)
        counts = (self.k, self.batch, self.per_class, self.limit)
        wrong = {
            "texts": not all(isinstance(text, str) for text in texts),
            "layers": not self.layers or len(set(self.layers)) < len(self.layers),
            "shards": len(self.shards) != len(self.contents),
            "counts": not all(count is None or 1 <= count < _LARGEST for count in counts),
            "tol": not 0 < self.tol < 1,
            "seed": not 0 <= self.seed < 1 << 63,
            "choice": self.choice not in CHOICES,
            "photo_input": not all(type(size) is int and size < _LARGEST_SIDE for size in sizes)
            or not all(math.isfinite(number) for number in colours),
            "probe": not all(math.isfinite(number) for number in self.probe or ()),
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"{name} cannot be those of a run")

    def _changed(self, contents: Sequence[str]) -> str:
        """Return which shard holds other bytes; one that cannot be read now may come back."""
        for name, before, now in zip(self.shards, self.contents, contents, strict=True):
            if before == UNREADABLE != now:
                return f"{name} missing or unreadable when it began, and here now"
            if now not in (before, UNREADABLE):
                return f"other bytes in {name}"
        return ""

    def difference(self, other: Identity) -> str:
        """Return the first field in which the two differ, in words; empty if none does.

        >>> one = Identity("m", "w", PhotoInput(), ("a.tar",), ("9c",), ("output",), 5, 1e-5)
        >>> one.difference(dataclasses.replace(one, k=7))
        'k = 5, now 7'
        """
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "contents":
                changed = self._changed(theirs)
                if changed:
                    return changed
            elif field.name == "probe":
                if mine is None or theirs is None:
                    continue  # begun before there were probes
                change = changed_network(mine, theirs)
                if change:
                    return f"another network of the same weights: {change}"
            elif mine != theirs:
                return f"{field.name} = {_brief(mine)}, now {_brief(theirs)}"
        return ""


def identify(
    model: Model,
    shards: Sequence[Shard],
    *,
    layers: Sequence[str] | None = None,
    k: int = 500,
    tol: float = 1e-5,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    per_class: int | None = None,
    limit: int | None = None,
    choice: str = "random",
    batch: int | None = None,
    vectors: bool = False,
) -> tuple[Identity, list[Depth]]:
    """Return the identity of a run, and the depths it visits, after checking that it can be done.

    Args:
        model: The network.
        shards: As `find_shards` returns them.
        layers: Names from `depths`, or None for five spread over the network, or ["all"].
        k: Triplets per depth.
        tol: Relative residual.
        seed: Of the solver and of the choice of samples.
        classes: Class indices or wnids, or None for all.
        per_class: At most so many samples of each class.
        limit: At most so many samples.
        choice: Whether "random" or the "first" samples are taken.
        batch: Samples that are solved together; None: as many as is good for their size.
        vectors: Whether to store singular vectors.

    Raises:
        ModelError: If a layer is unknown.
        ArgumentError: If an argument is out of range, k above min(m, n) of a layer included.
    """
    for name, count in (("limit", limit), ("per-class", per_class), ("batch", batch)):
        if count is not None and count < 1:
            raise ArgumentError(f"{name} {count} must be at least 1")
    if not 0 <= seed < 1 << 63:
        raise ArgumentError(f"seed {seed} must lie between 0 and 2^63 - 1")
    if not 0 < tol < 1:
        raise ArgumentError(f"tol={tol} must lie between 0 and 1")
    if choice not in CHOICES:
        raise ArgumentError(f"choice={choice!r} is unknown; use {' or '.join(CHOICES)}")
    if classes is not None and not classes:
        raise ArgumentError("classes are empty; name class indices or wnids")
    chosen = choose_depths(model, k, layers)
    identity = Identity(
        model=model.spec,
        weights_sha256=model.weights_sha256,
        photo_input=model.photo_input,
        shards=tuple(shard.name for shard in shards),
        contents=tuple(fingerprints(shards)),
        layers=tuple(depth.name for depth in chosen),
        k=k,
        tol=tol,
        seed=seed,
        classes=None if classes is None else tuple(sorted(set(classes))),
        per_class=per_class,
        limit=limit,
        choice=choice,
        batch=batch or _batch(model, chosen),
        vectors=vectors,
        probe=probe_network(model, [depth.name for depth in chosen]),
    )
    return identity, chosen


def _batch(model: Model, chosen: Sequence[Depth]) -> int:
    """Return how many Jacobians are solved together: many where they are small matrices."""
    entries = math.prod(model.photo_input.shape) * max(depth.numel for depth in chosen)
    fits = _BATCH_ENTRIES // entries
    return min(_LARGEST_BATCH, 1 << max(0, fits.bit_length() - 1))


def choose_depths(model: Model, k: int, layers: Sequence[str] | None) -> list[Depth]:
    """Return the named depths in the order of the network; see `identify`."""
    example = torch.zeros(model.photo_input.shape)
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    places = _places(model, example)
    if layers is None:
        return _spread(places, k, example.numel())
    if not layers:
        raise ArgumentError("no layer is named; give names with commas between, or all")
    if list(layers) == ["all"]:
        return _large_enough(places, k, example.numel())
    for name in layers:
        if name not in {place.name for place in places}:
            near = difflib.get_close_matches(name, [place.name for place in places], n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ModelError(
                f"no layer '{name}' in {model.spec}; {hint}'jvpsvd layers --model {model.spec}' "
                "lists them"
            )
    chosen = [place for place in places if place.name in layers]
    for place in chosen:
        short = min(place.numel, example.numel())
        if k > short:
            raise ArgumentError(
                f"k={k} triplets asked of layer '{place.name}', whose Jacobian is {place.numel} x "
                f"{example.numel()}; k must be at most {short}"
            )
    return chosen


def _places(model: Model, example: torch.Tensor) -> list[Depth]:
    try:
        return depths(model.module, example)
    except JvpsvdError as error:
        if error.__cause__ is None:
            raise
        raise ModelError(  # the user's own network
            f"{model.spec} fails on an input of shape {tuple(example.shape)} "
            f"({first_line(error.__cause__)}); "
            "return the PhotoInput that it takes beside the module"
        ) from error


def _spread(places: list[Depth], k: int, n: int) -> list[Depth]:
    """Return five of the coarse places (names at most one dot deep), evenly apart, the last one."""
    coarse = [place for place in _large_enough(places, k, n) if place.name.count(".") <= 1]
    if not coarse:
        return _large_enough(places, k, n)[-1:]
    count = min(_DEFAULT_DEPTHS, len(coarse))
    return [coarse[(i + 1) * len(coarse) // count - 1] for i in range(count)]


def _large_enough(places: list[Depth], k: int, n: int) -> list[Depth]:
    chosen = [place for place in places if min(place.numel, n) >= k]
    if not chosen:
        widest = min(n, max(place.numel for place in places))
        raise ArgumentError(f"k={k} is above the size of every layer; k must be at most {widest}")
    return chosen


def _brief(value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
