"""What a user asks of a survey."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jvpsvd.arguments import LARGEST_SEED, as_path, check_flag, shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.machine import parse_memory
from jvpsvd.survey.spec.selection import PhotoSelection

if TYPE_CHECKING:
    from torch import nn

    from jvpsvd.networks import Model

ENGINES = ("local", "ray")

_MODEL = "efficientnet-lite0"
_ALL_PHOTOS = PhotoSelection()
_WHOLE = (0, 1)
"""The share that is the whole run."""
_LONGEST = 80
_NUMBERS = {"workers": 1, "batch": 1, "k": 1, "vectors": 0, "seed": 0}
"""Fields that are whole numbers, with the least they may be."""
_TEXTS = {
    "weights": "the name of a file",
    "since": "the name of a depth",
    "wrt": "the name of an argument",
    "device": "a name, as cpu or cuda:1",
    "address": "the address of a Ray cluster",
}


@dataclass(frozen=True)
class Defaults:
    """What is taken where a spec says nothing."""

    k: int
    tol: float
    photos: PhotoSelection
    layers: tuple[str, ...] | None = None
    """Names for the default model; None: five modules spread over the network."""
    vectors: int = 0
    """Leading vectors of which small copies are kept."""


_DEFAULTS = Defaults(500, 1e-5, PhotoSelection(choice="random"))
# Small enough for a laptop.
_DEMO = Defaults(
    50, 1e-4, PhotoSelection(limit=4, choice="first"),
    ("_blocks.2", "_blocks.5", "_blocks.10", "_blocks.15", "output"), vectors=4,
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Spec:
    """A survey: the options of `jvpsvd run`.

    Without `shards` it is the demo: 20 ImageNet photos that come with the package foolbox, of which
    the first four are taken, at k = 50 and five depths of EfficientNet-Lite0.

    >>> Spec(shards="photos/train-{0000..0146}.tar", k=100, out="run")
    Spec(shards='photos/train-{0000..0146}.tar', out='run', k=100)
    """

    shards: str | Sequence[Path] | None = None
    """Folder, file, glob, brace range or URL of shards; or the files themselves."""
    out: str | Path = "jvpsvd-run"
    """Folder of the run; made, or continued if it holds the same run."""
    model: str | Model | nn.Module = _MODEL
    """Built-in name, torchvision:NAME, timm:NAME, hf:NAME, package.module:factory, a `Model`, or a
    module of one's own."""
    weights: str | None = None
    """State dict of the model (.safetensors or torch), or .caffemodel; no pickles are run."""
    since: str | None = None
    """The depth to differentiate from; None: the input, or what the model's `Inputs` say."""
    inputs: Iterable[Any] | None = None
    """Instead of shards: tensors, dicts of tensors by argument, or pairs of one of these and a
    class index, each as the network takes it, with the dimension of the batch; NumPy's arrays stand
    for tensors. The batches of a DataLoader are taken apart, with a row for each item. All are
    written into the folder of the run."""
    wrt: str | None = None
    """The argument to differentiate by, where each of `inputs` has several."""
    random_weights: int | None = None
    """A seed: random weights instead of the model's, for comparison, as `load_model` draws them."""
    layers: str | Sequence[str] | None = None
    """Depths; None: five modules spread over the network; "all": all modules with k values."""
    k: int | Literal["all"] | None = None
    """Triplets per depth; None: 500, or 1 with `density`. A depth that has fewer gives all;
    "all": all of every depth."""
    tol: float | None = None
    """Residual, over σ₁, of a converged triplet; None: 1e-5; 0: what float32 reaches."""
    photos: PhotoSelection = _ALL_PHOTOS
    """Which photos of the shards; all, unless said."""
    batch: int | None = None
    """Photos solved together; None: 1 unless their Jacobians are small, or are solved on a GPU that
    holds several; a run goes on with as many as it was begun with."""
    vectors: bool | int | None = None
    """True: all singular vectors are stored as well; a number N: small copies of the first N and of
    the last, see `jvpsvd.survey.Results.small_vectors`; None: none, and 4 in the demo."""
    density: bool = False
    """Estimate whole spectra by random vectors of their own (`spectral_density`), in little memory;
    k is then 1 unless it is given."""
    seed: int = 0
    """Seed of the solves and of the selection of photos. Each photo has a random start of its own,
    which follows from the seed and from its shard and key."""
    device: str = "auto"
    """Device of the products: auto, cpu, cuda, cuda:1, …"""
    memory: int | str | None = None
    """Budget of one solve, as "8GiB"; None: half of the GPU's; without one, half of what the
    job or machine has, divided among workers."""
    share: tuple[int, int] = _WHOLE
    """(i, n): do part i of n, counted from 0, and leave the rest to others."""
    engine: str = "local"
    """"local": in this process; "ray": by workers of a Ray cluster."""
    address: str | None = None
    """Address of a Ray cluster; None: one is started on this machine."""
    workers: int | None = None
    """Number of Ray workers; None: one per GPU, or where there is none, per CPU."""

    def __post_init__(self) -> None:
        """Check what can be checked without looking at anything.

        Raises:
            ArgumentError: On a field of the wrong kind, a number out of range, an unknown engine,
                a share that is no part, or workers without Ray.
        """
        self._check_kinds()
        if self.shards is not None and self.inputs is not None:
            raise ArgumentError("give shards= or inputs=, not both")
        if self.engine not in ENGINES:
            raise ArgumentError(f"engine '{self.engine}' is unknown; use {' or '.join(ENGINES)}")
        i, n = self.share
        if not 0 <= i < n:
            raise ArgumentError(f"share {i}/{n} must be i/n with 0 <= i < n")
        if self.engine != "ray" and not (self.address is None and self.workers is None):
            raise ArgumentError("address and workers are of engine 'ray'; add --engine ray")
        tol: Any = 0.0 if self.tol is None else self.tol
        real = isinstance(tol, Real) and not isinstance(tol, bool)
        if not (real and 0 <= tol < 1):
            raise ArgumentError(
                f"tol={shown(self.tol)} must lie between 0 and 1; 0 is what float32 reaches"
            )
        if self.memory is not None:
            parse_memory(self.memory)

    def _check_kinds(self) -> None:
        """Check of what kind each field is."""
        for name, low in _NUMBERS.items():
            value = getattr(self, name)
            unsaid = value is None and name != "seed"
            in_words = (name == "vectors" and isinstance(value, bool)) or (
                name == "k" and isinstance(value, str) and value == "all"
            )
            if not unsaid and not in_words:
                high = LARGEST_SEED if name == "seed" else None
                whole = whole_number(name, value, low, high, "2^63 - 1")
                object.__setattr__(self, name, whole)  # Python's: JSON takes no other
        check_flag("density", self.density)
        out = as_path("out", self.out, "a folder")
        object.__setattr__(self, "out", self.out if isinstance(self.out, str) else out)
        for name, wanted in _TEXTS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | os.PathLike):
                raise ArgumentError(f"{name}={shown(value)} must be {wanted}")
        files = self.shards if isinstance(self.shards, list | tuple) else [self.shards]
        named = bool(files) and all(isinstance(file, str | os.PathLike) for file in files)
        if self.shards is not None and not named:
            raise ArgumentError(f"shards={shown(self.shards)} must be a folder, a pattern or files")
        if self.inputs is not None and not any(
            hasattr(self.inputs, name) for name in ("__iter__", "__getitem__")
        ):
            raise ArgumentError(f"inputs={shown(self.inputs)} must be a list of inputs")
        if not isinstance(self.photos, PhotoSelection):
            raise ArgumentError(
                f"photos={shown(self.photos)} must be a selection, as PhotoSelection(limit=4)"
            )
        share: Any = self.share
        if not isinstance(share, tuple | list) or len(share) != 2:
            raise ArgumentError(f"share={shown(share)} must be (i, n): part i of n, from 0 on")
        part = tuple(whole_number(f"share[{at}]", each, 0) for at, each in enumerate(share))
        object.__setattr__(self, "share", _WHOLE if part == _WHOLE else part)

    def __repr__(self) -> str:
        """Return what was asked for beyond the defaults."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not field.default
        }
        words = [f"{name}={_brief(value)}" for name, value in given.items()]
        return f"Spec({', '.join(words)})"

    @property
    def defaults(self) -> Defaults:
        """What is taken where the spec says nothing: less in the demo, and its own depths."""
        if self.shards is not None or self.inputs is not None:
            return _DEFAULTS
        return _DEMO if self.model == _MODEL else replace(_DEMO, layers=None)

    @property
    def unsaid(self) -> tuple[str, ...]:
        """Fields of an identity that the spec leaves open and that devices and versions differ in.

        >>> Spec(batch=2).unsaid, Spec(vectors=False).unsaid
        (('own_starts', 'vectors', 'small_vectors'), ('own_starts', 'batch'))
        """
        batch = ("batch",) if self.batch is None else ()
        vectors = ("vectors", "small_vectors") if self.vectors is None else ()
        return "own_starts", *batch, *vectors


def _brief(value: Any) -> str:
    """Return a value in a few words: a network by its class, many files by their number."""
    torch = sys.modules.get("torch")  # no network without it
    if torch is not None and isinstance(value, torch.nn.Module):
        return f"<{type(value).__name__}>"
    if isinstance(value, PhotoSelection):
        given = {name: one for name, one in vars(value).items() if one is not None}
        return f"PhotoSelection({', '.join(f'{name}={one!r}' for name, one in given.items())})"
    text = repr(value)
    if len(text) <= _LONGEST:
        return text
    count = f" of {len(value)}" if isinstance(value, Sequence) else ""
    return f"<{type(value).__name__}{count}>"
