"""The rows of a run as arrays, read once: values depth by depth, failures, and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jvpsvd.data import Sample
from jvpsvd.errors import RunError
from jvpsvd.survey import Store
from jvpsvd.survey.spec.tasks import tasks

Array = np.ndarray[Any, np.dtype[Any]]
_COLUMNS = (
    "shard", "key", "layer", "status", "message", "s", "residuals", "converged",
    "products_forward", "products_reverse", "fro2", "seconds",
    "defined_to",
)  # fmt: skip


@dataclass(frozen=True)
class DepthRows:
    """All photos with values at one depth, in the order of the manifest."""

    layer: str
    kind: str
    """Class of the module there."""
    shape: tuple[int, int]
    """(m, n) of the Jacobian."""
    photo: Array
    """(P,) places in the manifest, rising."""
    s: Array
    """(P, k) singular values, descending along rows."""
    residuals: Array
    """(P, k)."""
    converged: Array
    """(P,) triplets that met the tolerance."""
    products: Array
    """(P,) forward and reverse."""
    fro2: Array
    """(P,) squared Frobenius norms; NaN where unknown."""
    seconds: Array
    """(P,)."""
    defined_to: Array
    """(P,) how well each Jacobian itself is defined, over σ₁; NaN where not measured."""

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
    """Place in the manifest."""
    layer: str
    status: str
    """The kind of failure."""
    message: str


@dataclass(frozen=True)
class RunValues:
    """Everything that a report says, before it is said."""

    store: Store
    samples: tuple[Sample, ...]
    depths: tuple[DepthRows, ...]
    failures: tuple[Failure, ...]
    missing: tuple[tuple[int, str], ...]
    """Place in the manifest, and depth, of rows that are not there."""
    unreadable: tuple[str, ...]
    """Files that could not be read, and rows that were changed, a line each."""
    problems: tuple[str, ...]
    """What else does not belong to the run, a line each."""

    @property
    def k(self) -> int:
        """Triplets per depth."""
        return self.store.identity.k


def read_values(store: Store) -> RunValues:
    """Read every row of a run, finished or not, each file once.

    Values that cannot be a spectrum (not finite, negative, rising, more converged than residuals
    allow) count as failures, so that they enter no mean.

    Raises:
        RunError: If there is no manifest, or rows are of another k than the run.

    Example: ``read_values(survey.open_store(Path("run"))).depths[0].s.shape``.
    """
    samples = tuple(store.samples())
    places = {(sample.shard, sample.key): place for place, sample in enumerate(samples)}
    problems: list[str] = []
    unreadable: list[str] = []
    failures: list[Failure] = []
    strays = twice = 0
    found: dict[str, set[int]] = {name: set() for name in store.identity.layers}
    kept: dict[str, list[tuple[int, pa.Table, int]]] = defaultdict(list)
    for table in _tables(store, samples, unreadable, problems):
        columns = [table[name].to_pylist() for name in ("shard", "key", "layer", "status")]
        messages = table["message"]
        for at, (shard, key, layer, status) in enumerate(zip(*columns, strict=True)):
            photo = places.get((shard, key))
            if photo is None or layer not in found:
                strays += 1
            elif photo in found[layer]:
                twice += 1
            else:
                found[layer].add(photo)
                if status == "ok":
                    kept[layer].append((photo, table, at))
                else:
                    failures.append(Failure(photo, layer, status, messages[at].as_py() or ""))
    if strays:
        problems.append(f"{strays} rows belong to no sample of the manifest; see 'jvpsvd verify'")
    if twice:
        problems.append(f"{twice} rows are there twice; see 'jvpsvd verify'")
    depths = [_depth(store, name, kept[name], failures) for name in store.identity.layers]
    order = {name: number for number, name in enumerate(store.identity.layers)}
    return RunValues(
        store=store,
        samples=samples,
        depths=tuple(depths),
        failures=tuple(sorted(failures, key=lambda one: (one.photo, order[one.layer]))),
        missing=tuple(
            (photo, name)
            for photo in range(len(samples))
            for name in store.identity.layers
            if photo not in found[name]
        ),
        unreadable=tuple(unreadable),
        problems=tuple(problems),
    )


def _tables(
    store: Store, samples: Sequence[Sample], unreadable: list[str], problems: list[str]
) -> Iterator[pa.Table]:
    """Yield the rows that are what was written, and list what cannot be read or was changed."""
    for piece in store.scan():
        if piece.problem:
            known = {task.id for task in tasks(store.identity, samples)}
            belongs = piece.file.stem in known or piece.file in store.parts()
            (unreadable if belongs else problems).append(f"unreadable: {piece.problem}")
        unreadable += [f"changed: {line}" for line in piece.changes()]
        yield piece.unchanged.select(_COLUMNS)


def _depth(
    store: Store, name: str, rows: list[tuple[int, pa.Table, int]], failures: list[Failure]
) -> DepthRows:
    identity = store.identity
    depth = next(depth for depth in store.depths if depth.name == name)
    rows.sort(key=lambda row: row[0])
    by_table: dict[int, tuple[pa.Table, list[int], list[int]]] = {}
    for place, (_, table, at) in enumerate(rows):
        _, ats, to = by_table.setdefault(id(table), (table, [], []))
        ats.append(at)
        to.append(place)
    photo = np.array([row[0] for row in rows], dtype=np.int64)
    s, residuals = np.empty((2, len(rows), identity.k))
    names = ("converged", "products_forward", "products_reverse", "fro2", "seconds", "defined_to")
    numbers = {one: np.empty(len(rows)) for one in names}
    for table, ats, to in by_table.values():
        taken = table.take(pa.array(ats))
        for column, array in (("s", s), ("residuals", residuals)):
            array[to] = _matrix(taken[column], identity.k, store)
        for one in names:
            numbers[one][to] = taken[one].to_numpy().astype(np.float64)
    fault = _faults(s, residuals, numbers["converged"], identity.tol)
    good = fault == ""
    failures += [
        Failure(int(photo[place]), name, "wrong", str(fault[place]))
        for place in np.flatnonzero(~good)
    ]
    return DepthRows(
        layer=name,
        kind=depth.kind,
        shape=(depth.numel, int(np.prod(identity.photo_input.shape))),
        photo=photo[good],
        s=s[good],
        residuals=residuals[good],
        converged=numbers["converged"][good].astype(np.int64),
        products=(numbers["products_forward"] + numbers["products_reverse"])[good],
        fro2=numbers["fro2"][good],
        seconds=numbers["seconds"][good],
        defined_to=numbers["defined_to"][good],
    )


def _matrix(lists: Any, k: int, store: Store) -> Array:
    flat: Array = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    lengths = np.array(lists.combine_chunks().value_lengths())
    if not (lengths == k).all():
        raise RunError(f"{store.folder} holds rows of another k; see 'jvpsvd verify'")
    return flat.reshape(-1, k)


def _faults(s: Array, residuals: Array, converged: Array, tol: float) -> Array:
    """Return what makes each row impossible, as `jvpsvd verify` sees it, or nothing."""
    fault: Array = np.full(len(s), "", dtype=object)
    if not len(s):
        return fault
    # One at the edge may fall on either side: residuals were compared in the operator's dtype.
    fault[converged > (residuals <= tol * s[:, :1]).sum(axis=1) + 1] = (
        "more triplets are called converged than residuals meet the tolerance"
    )
    fault[(np.diff(s, axis=1) > 0).any(axis=1)] = "values that do not descend"
    usable = np.isfinite(s) & np.isfinite(residuals) & (s >= 0) & (residuals >= 0)
    fault[~usable.all(axis=1)] = "a value or residual that is negative or not finite"
    return fault
