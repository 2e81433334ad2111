"""What the rows of a run depend on, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jvpsvd.data import UNREADABLE
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.networks import PhotoInput
from jvpsvd.survey.spec.changed_network import changed_network
from jvpsvd.survey.spec.selection import PhotoSelection

NUMERICS = 1
"""Raised when a change of jvpsvd alters values by more than rounding; old rows are then stale."""

_ALL_PHOTOS = PhotoSelection(choice="random")
# Larger numbers in run.json come from damage.
_MAX_COUNT, _MAX_SIDE = 1 << 48, 1 << 20


@dataclass(frozen=True)
class Identity:
    """Two runs of equal identities have equal rows (up to the device)."""

    model: str
    """Model specification."""
    weights_sha256: str
    """Hash of the weights."""
    photo_input: PhotoInput
    """Preprocessing of photos; of other inputs the default, and null in run.json."""
    shards: tuple[str, ...]
    """File names of the shards, in order."""
    contents: tuple[str, ...]
    """Fingerprints of the shards, in the same order."""
    layers: tuple[str, ...]
    """Depths, in the order of the network."""
    k: int
    """Triplets per depth; a depth that has fewer gives all of them."""
    tol: float
    """Residual, relative to s₁, under which a triplet counts as converged."""
    seed: int = 0
    """Seed of the solves and of the selection of samples."""
    own_starts: bool = False
    """Whether each sample is solved with a seed of its own, derived from this one and from the
    sample's shard and key; runs of older versions use one seed for all."""
    photos: PhotoSelection = _ALL_PHOTOS
    """Which samples of the shards."""
    batch: int = 1
    """Samples that are solved together."""
    vectors: bool = False
    """Whether singular vectors are stored."""
    small_vectors: int = 0
    """Of so many leading vectors, and of the last, a small copy is stored; 0: of none."""
    density: bool = False
    """Whether whole spectra are estimated by random vectors of their own."""
    dtype: str = "float32"
    """Type of photos, products and vectors."""
    numerics: int = NUMERICS
    """Version of the numerics."""
    inputs: str | None = None
    """Ending of the members that are inputs; None: photos."""
    start: str | None = None
    """The depth or the argument to differentiate from; None: the input."""
    start_shape: tuple[int, ...] | None = None
    """Shape of what is differentiated by; None: that of a photo."""
    probe: tuple[float, ...] | None = None
    """What the network gives at a fixed input, see `probe_network`; None: not recorded."""

    @property
    def has_vector_files(self) -> bool:
        """Whether each row with values has a file of vectors, exact or small."""
        return self.vectors or self.small_vectors > 0

    @property
    def columns(self) -> int:
        """Columns of the Jacobians: numbers that are differentiated by."""
        return math.prod(self.photo_input.shape if self.start_shape is None else self.start_shape)

    @property
    def sample_word(self) -> str:
        """What one sample is called: a photo, a text, or an input."""
        return {None: "photo", "txt": "text"}.get(self.inputs, "input")

    def fields(self) -> dict[str, Any]:
        """Return all fields by name; those of `photos` stand in its place, as in run.json."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found |= vars(value) if isinstance(value, PhotoSelection) else {field.name: value}
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types, without nesting the selection of photos."""
        taken = dataclasses.asdict(self.photo_input) if self.inputs is None else None
        return {**self.fields(), "photo_input": taken}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Identity:
        """Return the record that `to_json` wrote.

        Raises:
            ArgumentError: If fields are missing, unknown, or cannot be those of a run.
        """
        try:
            for name, value in record.items():
                if type(value) not in _JSON_TYPES[name]:
                    raise TypeError(f"{name} is {value!r}")
            values = _with_tuples(record)
            taken = values.pop("photo_input")
            if taken is None and values["inputs"] is None:
                raise ValueError("photo_input is null, and the inputs are photos")
            photo_input = PhotoInput() if taken is None else PhotoInput(**_with_tuples(taken))
            photos = {name: values.pop(name) for name in _PHOTO_FIELDS & values.keys()}
            selection = PhotoSelection(**{"choice": "random", **photos})
            identity = Identity(**values, photo_input=photo_input, photos=selection)
            identity._check()
        except (
            KeyError, TypeError, AttributeError, ValueError, OverflowError, ModelError,
            ArgumentError,
        ) as error:  # fmt: skip
            raise ArgumentError(f"not the identity of a run: {error}") from error
        return identity

    def difference(self, other: Identity) -> str:
        """Return the first field in which the two differ, in words; empty if none does.

        >>> one = Identity("m", "w", PhotoInput(), ("a.tar",), ("9c",), ("output",), 5, 1e-5)
        >>> one.difference(dataclasses.replace(one, k=7))
        'k = 5, now 7'
        """
        others = other.fields()
        for name, mine in self.fields().items():
            theirs = others[name]
            if name == "contents":
                changed = self._changed_shard(theirs)
                if changed:
                    return changed
            elif name == "probe":
                if not mine or theirs is None:
                    continue  # begun before there were probes, or when noise was the only one
                change = changed_network(mine, theirs, len(self.layers))
                if change:
                    return f"another network of the same weights: {change}"
            elif name == "photo_input" and self.inputs is not None:
                continue  # older versions wrote one with which no photo was read
            elif mine != theirs:
                return f"{name} = {_brief(mine)}, now {_brief(theirs)}"
        return ""

    def _changed_shard(self, contents: Sequence[str]) -> str:
        """Return which shard holds other bytes; one that cannot be read now may come back."""
        for name, before, now in zip(self.shards, self.contents, contents, strict=True):
            if before == UNREADABLE != now:
                return f"{name} missing or unreadable when it began, and here now"
            if now not in (before, UNREADABLE):
                return f"other bytes in {name}"
        return ""

    def _check(self) -> None:
        """Raise ValueError if a field cannot be that of a run."""
        photos = self.photos
        texts = (*self.shards, *self.contents, *self.layers, *(photos.classes or ()))
        sizes = (self.photo_input.size, self.photo_input.resize)
        colours = (*self.photo_input.mean, *self.photo_input.std, self.photo_input.scale)
        counts = (self.k, self.batch, photos.per_class, photos.limit)
        wrong = {
            "texts": not all(isinstance(text, str) for text in texts),
            "layers": not self.layers or len(set(self.layers)) < len(self.layers),
            "shards": len(self.shards) != len(self.contents),
            "counts": not all(count is None or 1 <= count < _MAX_COUNT for count in counts),
            "tol": not 0 < self.tol < 1,
            "small_vectors": not 0 <= self.small_vectors < _MAX_COUNT,
            "seed": not 0 <= self.seed < 1 << 63,
            "choice": photos.choice is None,
            "photo_input": not all(type(size) is int and size < _MAX_SIDE for size in sizes)
            or not all(math.isfinite(number) for number in colours),
            "probe": not all(math.isfinite(number) for number in self.probe or ()),
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"{name} cannot be those of a run")


def _json_types(annotation: Any) -> tuple[type, ...]:
    """Return the types that a field with an annotation has in JSON, and before it is written."""
    kind = get_origin(annotation)
    if kind in (Union, UnionType):
        return tuple(one for part in get_args(annotation) for one in _json_types(part))
    if kind in (tuple, Sequence):
        return (list, tuple)
    return (dict, type(None)) if annotation is PhotoInput else (annotation,)


_PHOTO_FIELDS = {field.name for field in dataclasses.fields(PhotoSelection)}
_JSON_TYPES = {
    name: _json_types(annotation)
    for record in (Identity, PhotoSelection)
    for name, annotation in get_type_hints(record).items()
    if name != "photos"
}


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with tuples where JSON has lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }


def _brief(value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
