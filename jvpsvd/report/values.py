"""The rows of a run as arrays: values depth by depth, failures, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from jvpsvd.data import Sample
from jvpsvd.survey import SCHEMA, Store
from jvpsvd.survey.store.plausibility import read_counts, read_sum, values_and_residuals
from jvpsvd.survey.store.run_data import FileRows, RunData
from jvpsvd.survey.store.store import check_store
from jvpsvd.survey.store.whole_spectrum import COUNT_COLUMNS
from jvpsvd.text_table import count_noun

Array = np.ndarray[Any, np.dtype[Any]]
_COLUMNS = [
    "s", "residuals", "converged", "products_forward", "products_reverse", "fro2", "seconds",
    "defined_to", *COUNT_COLUMNS, "participation", "entropy",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class DepthValues:
    """All photos with values at one depth, in the order of the manifest."""

    layer: str
    kind: str
    """Class of the module there."""
    shape: tuple[int, int]
    """(m, n) of the Jacobian."""
    photo: Array
    """(P,) indices in the manifest, rising."""
    s: Array
    """(P, k) singular values, descending along rows."""
    residuals: Array
    """(P, k)."""
    converged: Array
    """(P,) triplets that are certified."""
    products: Array
    """(P,) forward and reverse."""
    fro2: Array
    """(P,) squared Frobenius norms; NaN where unknown."""
    seconds: Array
    """(P,)."""
    defined_to: Array
    """(P,) how well each Jacobian itself is defined, over σ₁; NaN where not measured."""
    counts: Array
    """(P, 4, thresholds) value, low, high and standard error of the number of all values ≥ each of
    `THRESHOLDS`; NaN where a row of an older version keeps none."""
    participation: Array
    """(P, 4) of the whole spectrum: value, low, high, standard error; NaN likewise."""
    entropy: Array
    """(P, 4) of the whole spectrum, in nats; NaN likewise."""
    own_starts: bool = False
    """Whether each photo was solved from a random start of its own."""

    def __repr__(self) -> str:
        photos, k = self.s.shape
        rows, values = count_noun(photos, "row"), count_noun(k, "value")
        return f"<DepthValues at '{self.layer}': {rows}, {values} each>"

    @property
    def size(self) -> int:
        """Number of all singular values."""
        return min(self.shape)

    @property
    def energy(self) -> Array:
        """(P,) share of ‖J‖²_F that the k values hold; NaN where unknown."""
        held = np.square(self.s).sum(axis=1)
        share: Array = np.divide(
            held, self.fro2, out=np.full(len(held), np.nan), where=self.fro2 > 0
        )
        return share

    @property
    def below_residual(self) -> Array:
        """(P,) values of each photo that are smaller than their own residual: noise."""
        count: Array = (self.residuals > self.s).sum(axis=1)
        return count

    @property
    def resolved(self) -> int:
        """Leading indices at which the mean value is not below the mean residual."""
        if not len(self.s):
            return int(self.s.shape[1])
        return int(count_resolved(self.s.mean(axis=0), self.residuals.mean(axis=0)))

    @property
    def relative(self) -> Array:
        """(P,) worst residual of each photo over its σ₁; NaN where σ₁ is 0."""
        top = self.s[:, 0]
        worst = self.residuals.max(axis=1)
        share: Array = np.divide(worst, top, out=np.full(len(top), np.nan), where=top > 0)
        return share


@dataclass(frozen=True)
class Failure:
    """A row without values that can be used."""

    photo: int
    """Index in the manifest."""
    layer: str
    status: str
    """The kind of failure."""
    message: str


@dataclass(frozen=True, repr=False)
class RunValues:
    """The values of a run, and what it lacks."""

    store: Store
    samples: tuple[Sample, ...]
    depths: tuple[DepthValues, ...]
    failures: tuple[Failure, ...]
    missing: tuple[tuple[int, str], ...]
    """Index in the manifest, and depth, of rows that are not there."""
    unreadable: tuple[str, ...]
    """Files that could not be read, and rows that were changed, a line each."""
    problems: tuple[str, ...]
    """What else does not belong to the run, a line each."""
    checksums: Mapping[int, str] = field(default_factory=dict)
    """Checksums of the photos, by their indices in the manifest, as far as rows have them."""

    def __repr__(self) -> str:
        photos = count_noun(len(self.samples), self.store.identity.sample_word)
        return f"<RunValues of {self.store.folder}: {photos} at {self.depths}>"

    @property
    def k(self) -> int:
        """Triplets of a depth, if it has so many."""
        return max(self.store.counts.values())

    @property
    def common_k(self) -> int | None:
        """Triplets of every depth; None if depths differ."""
        counts = {*self.store.counts.values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def unsolved(self) -> list[Failure]:
        """All rows without values: those that failed, then those that are not there."""
        missing = [Failure(photo, layer, "missing", "") for photo, layer in self.missing]
        return [*self.failures, *missing]


def count_resolved(mean: Array, residual: Array) -> Array:
    """Return how many leading values along the last axis are not below their residuals.

    >>> count_resolved(np.array([[3, 2, 1e-17], [3, 2, 1]]), np.full(3, 1e-7)).tolist()
    [2, 3]
    """
    below = residual > mean
    found: Array = np.where(below.any(axis=-1), below.argmax(axis=-1), mean.shape[-1])
    return found


def mean_of_known(values: Array) -> float:
    """Return the mean of the numbers that are finite; NaN if there are none.

    >>> mean_of_known(np.array([1.0, np.nan, 3.0]))
    2.0
    """
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def read_values(store: Store) -> RunValues:
    """Read every row of a run, finished or not, each file once.

    Values that cannot be a spectrum (not finite, negative, rising, more converged than residuals
    allow) count as failures, so that they enter no mean.

    Raises:
        RunError: If there is no manifest, or rows are of another k than the run.

    Example: ``read_values(survey.open_store(Path("run"))).depths[0].s.shape``.
    """
    check_store(store)
    run = RunData(store, store.samples())
    reader = _Reader(run)
    for file in run.files():
        reader.add(file)
    return reader.finish()


@dataclass(frozen=True)
class _Solved:
    """Rows with values at one depth, of one file."""

    photos: Array
    table: pa.Table
    faults: list[str]


class _Reader:
    """Sorts the rows of one file after another: solved, failed, found twice or unexpected."""

    def __init__(self, run: RunData) -> None:
        layers = run.store.identity.layers
        self._run = run
        self._found = np.zeros((len(run.samples), len(layers)), dtype=bool)
        self._solved: list[list[_Solved]] = [[] for _ in layers]
        self._failures: list[tuple[int, int, str, str]] = []
        self._checksums: dict[int, str] = {}
        self._unreadable: list[str] = []
        self._problems: list[str] = []
        self._unexpected = self._twice = 0

    def add(self, file: FileRows) -> None:
        """Take the rows of a file that are what was written, and note what is wrong with it."""
        piece, store = file.piece, self._run.store
        if piece.problem:
            belongs = piece.file.stem in self._run.tasks or piece.file in store.layout.part_files()
            (self._unreadable if belongs else self._problems).append(f"unreadable: {piece.problem}")
        self._unreadable += [f"changed: {line}" for line in piece.changes()]
        changed, messages = {*piece.changed}, piece.table["message"]
        solved: list[list[int]] = [[] for _ in self._solved]
        columns = (piece.table[name].to_pylist() for name in ("status", "photo_checksum"))
        rows = zip(file.photos.tolist(), file.depths.tolist(), *columns, strict=True)
        for index, (photo, depth, status, checksum) in enumerate(rows):
            if index in changed:
                continue
            if photo >= 0 and checksum is not None:
                self._checksums[photo] = checksum
            if photo < 0 or depth < 0:
                self._unexpected += 1
            elif self._found[photo, depth]:
                self._twice += 1
            elif status == "ok":
                self._found[photo, depth] = True
                solved[depth].append(index)
            else:
                self._found[photo, depth] = True
                self._failures.append((photo, depth, status, messages[index].as_py()))
        table = piece.table.select(_COLUMNS)
        for depth, indices in enumerate(solved):
            if indices:
                rows_of_depth = _Solved(
                    file.photos[indices],
                    table.take(pa.array(indices)),
                    [file.faults[index] for index in indices],
                )
                self._solved[depth].append(rows_of_depth)

    def finish(self) -> RunValues:
        """Return the values of all rows that were added."""
        layers = self._run.store.identity.layers
        rows = count_noun(self._unexpected, "row")
        belong = "belongs" if self._unexpected == 1 else "belong"
        twice, are = count_noun(self._twice, "row"), "is" if self._twice == 1 else "are"
        for count, what in (
            (self._unexpected, f"{rows} {belong} to no sample of the manifest"),
            (self._twice, f"{twice} {are} there twice"),
        ):
            if count:
                self._problems.append(f"{what}; see 'jvpsvd verify'")
        depths = tuple(self._depth_values(index) for index in range(len(layers)))
        return RunValues(
            store=self._run.store,
            samples=self._run.samples,
            depths=depths,
            failures=tuple(
                Failure(photo, layers[depth], status, message)
                for photo, depth, status, message in sorted(self._failures)
            ),
            missing=tuple((int(p), layers[d]) for p, d in np.argwhere(~self._found)),
            unreadable=tuple(self._unreadable),
            problems=tuple(self._problems),
            checksums=self._checksums,
        )

    def _depth_values(self, index: int) -> DepthValues:
        """Return the values of a depth; impossible ones become failures."""
        store, files = self._run.store, self._solved[index]
        depth = store.depths[index]
        tables = [SCHEMA.empty_table().select(_COLUMNS), *(file.table for file in files)]
        table = pa.concat_tables(tables)
        s, residuals = values_and_residuals(table, store.counts[depth.name], store.folder)
        photos = np.concatenate([np.empty(0, dtype=np.int64), *(file.photos for file in files)])
        faults = [fault for file in files for fault in file.faults]
        self._failures += [
            (int(photo), index, "wrong", fault)
            for photo, fault in zip(photos, faults, strict=True)
            if fault
        ]
        order = np.argsort(photos)
        good = order[[not faults[row] for row in order]] if len(order) else order

        def numbers(name: str) -> Array:
            column: Array = table[name].to_numpy().astype(np.float64)[good]
            return column

        return DepthValues(
            layer=depth.name,
            kind=depth.kind,
            shape=(depth.numel, store.identity.columns),
            photo=photos[good],
            s=s[good],
            residuals=residuals[good],
            converged=numbers("converged").astype(np.int64),
            products=numbers("products_forward") + numbers("products_reverse"),
            fro2=numbers("fro2"),
            seconds=numbers("seconds"),
            defined_to=numbers("defined_to"),
            counts=read_counts(table)[good],
            participation=read_sum(table, "participation")[good],
            entropy=read_sum(table, "entropy")[good],
            own_starts=store.identity.own_starts,
        )
