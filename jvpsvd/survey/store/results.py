"""The rows of a run as Arrow tables, and as arrays per depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jvpsvd.arguments import check_path, positive_number, shown
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.records import ComparedByFields
from jvpsvd.survey.store.class_distances import (
    ClassComparison,
    LabelledSpectra,
    compare_classes,
)
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.plausibility import read_counts, values_and_residuals
from jvpsvd.survey.store.run_data import RunData
from jvpsvd.survey.store.store import Store, open_store
from jvpsvd.survey.store.vectors import read_vectors
from jvpsvd.survey.store.whole_spectrum import COUNT_COLUMNS, counts_at
from jvpsvd.svd.estimate import Estimate, mean_estimate
from jvpsvd.text_table import count_noun

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, eq=False, repr=False)
class Spectra(ComparedByFields):
    """The values of all photos at one depth, photo by photo in the order of the manifest."""

    layer: str
    shape: tuple[int, int]
    """(m, n) of the Jacobian."""
    samples: pa.Table
    """shard, key, label, wnid, converged, seconds, … of each photo, as in `spectra`."""
    s: Array
    """(photos, k) singular values, descending along rows; fewer than k where the Jacobian has."""
    residuals: Array
    """(photos, k)."""
    fro2: Array
    """(photos,) squared Frobenius norms, exact or estimated."""

    @property
    def labels(self) -> list[int | None]:
        """Class index of each photo."""
        labels: list[int | None] = self.samples["label"].to_pylist()
        return labels

    def __repr__(self) -> str:
        photos, k = self.s.shape
        m, n = self.shape
        rows, values = count_noun(photos, "row"), count_noun(k, "value")
        return f"<Spectra at '{self.layer}': {rows}, {values} each, J is {m} x {n}>"


@dataclass(frozen=True, eq=False, repr=False)
class Counts(ComparedByFields):
    """Numbers of singular values ≥ a threshold, photo by photo in the order of the manifest."""

    layer: str
    threshold: float
    size: int
    """Number of all singular values, min(m, n)."""
    samples: pa.Table
    """shard, key, label, wnid, converged, seconds, … of each photo."""
    value: Array
    """(photos,) estimates; where only a lower bound is known, that bound."""
    low: Array
    """(photos,) lower bounds, apart from sampling."""
    high: Array
    """(photos,) upper bounds, apart from sampling; `size` where no other is known."""
    standard_error: Array
    """(photos,) of what was sampled; 0 where nothing was."""
    whole: Array
    """(photos,) bool: the row keeps the whole spectrum. One of an older version does not; its
    bounds are those of its k values."""
    own_starts: bool = False
    """Whether each photo was solved from a random start of its own."""

    def mean(self) -> Estimate:
        """Return the mean over these photos.

        Each has a random start of its own, so that the standard error, of what was sampled, shrinks
        with more of them. Those of a run that an older version began share one, and it does not.
        """
        numbers = np.stack([self.value, self.low, self.high, self.standard_error])
        return mean_estimate(numbers, own_starts=self.own_starts)

    def __repr__(self) -> str:
        photos = len(self.value)
        mean = f", mean {self.mean()}" if photos else ""
        return (
            f"<Counts of σ ≥ {self.threshold:g} at '{self.layer}': "
            f"{count_noun(photos, 'photo')}, of {count_noun(self.size, 'value')} each{mean}>"
        )


@dataclass(frozen=True, repr=False)
class Results:
    """A run on disk, finished or not; read anew at every call."""

    store: Store

    def __repr__(self) -> str:
        return f"<Results of {self.store.identity.model}: {', '.join(self.layers)}>"

    @property
    def layers(self) -> tuple[str, ...]:
        """The depths, in the order of the network."""
        return self.store.identity.layers

    def table(self) -> pa.Table:
        """Return every row there is, failures included, in the order of manifest and depths.

        Raises:
            RunError: Naming a file that cannot be read.
        """
        return self.store.table()

    def spectra(self, layer: str) -> Spectra:
        """Return the values at a depth as arrays; photos without values are left out.

        Raises:
            ArgumentError: If the run has no such depth.
            RunError: If rows cannot be read, or do not belong to the run.
        """
        table, s, residuals = self._read_solved(layer)
        depth = next(depth for depth in self.store.depths if depth.name == layer)
        return Spectra(
            layer=layer,
            shape=(depth.numel, self.store.identity.columns),
            samples=table.drop_columns(["s", "residuals"]),
            s=s,
            residuals=residuals,
            fro2=table["fro2"].to_numpy(),
        )

    def counts(self, layer: str, threshold: float = 1.0) -> Counts:
        """Return how many of all min(m, n) values are ≥ a threshold, of each photo at a depth.

        Rows keep counts at ten thresholds per decade from 1e-4 to 1e4. Between two of these, bounds
        are those of the neighbours, and the value is interpolated. Above the last of the k values,
        these decide.

        Raises:
            ArgumentError: If the run has no such depth, or the threshold is not positive.
            RunError: If rows cannot be read, or do not belong to the run.
        """
        threshold = positive_number("threshold", threshold)
        table, s, residuals = self._read_solved(layer)
        stored, size = read_counts(table), self.store.sizes[layer]
        converged = table["converged"].to_numpy()
        value, low, high, error = counts_at(threshold, stored, s, residuals, converged, size)
        return Counts(
            layer,
            threshold,
            size,
            table.drop_columns(["s", "residuals", *COUNT_COLUMNS]),
            value,
            low,
            high,
            error,
            whole=~np.isnan(stored[:, 0, 0]),
            own_starts=self.store.identity.own_starts,
        )

    def classes(self, at_most: int | None = None) -> ClassComparison:
        """Return how far distances of classes by spectra are those of WordNet, depth by depth.

        The page of a run shows it; see `jvpsvd.survey.store.class_distances`.

        Args:
            at_most: Classes to take, chosen by a fixed rule; None: all. The tests take some
                seconds for 100.

        Raises:
            ArgumentError: If fewer than three classes have a wnid of ILSVRC and values everywhere.
            RunError: If rows cannot be read, or do not belong to the run.

        Example: ``survey.open("run").classes().depths[-1].test.correlation``.
        """
        every = [self.spectra(layer) for layer in self.layers]
        return compare_classes(
            [
                LabelledSpectra(one.layer, one.samples["wnid"].to_pylist(), one.s)
                for one in every
                if len(one.s)
            ],
            self.store.identity.tol,
            at_most,
        )

    def vectors(self, shard: str, key: str, layer: str) -> dict[str, torch.Tensor]:
        """Return U (m, k), s (k,) and Vh (k, n) of a photo at a depth.

        Raises:
            ArgumentError: If the run stores no vectors, or none of this photo and depth.
            RunError: If they cannot be read, or were changed after they were written.
        """
        if not self.store.identity.vectors:
            few = "only small copies of" if self.store.identity.small_vectors else "no"
            raise ArgumentError(f"this run stored {few} vectors; run again with --vectors")
        return self._read_vectors(shard, key, layer)

    def small_vectors(self, shard: str, key: str, layer: str) -> dict[str, torch.Tensor]:
        """Return small copies of the first singular vectors and of the last, for a look at them.

        They are float16, and multiplied by the root of their length.

        Returns:
            index (N + 1,), which singular values, from 1 on; s (k,), all values; Vh, right vectors:
            those of photos averaged, (N + 1, channels, 75, 75), others whole, (N + 1, n); and U,
            left vectors (N + 1, m), at depths of at most 10 000 units.

        Raises:
            ArgumentError: If the run stores none, or none of this photo and depth.
            RunError: If they cannot be read, or were changed after they were written.
        """
        if not self.store.identity.small_vectors:
            raise ArgumentError("this run stored no small vectors; run again with --vectors 4")
        return self._read_vectors(shard, key, layer)

    def _read_vectors(self, shard: str, key: str, layer: str) -> dict[str, torch.Tensor]:
        self._check_depth(layer)
        position = self._run.row_in_task(shard, key, layer)
        file = self._run.vector_file(shard, key, layer)
        if position is None or file is None or not is_regular(file):
            raise ArgumentError(f"no vectors of {shard} {key} at '{layer}' in {self.store.folder}")
        stored = self.store.vectors_checksum(*position)
        vectors, checksum = read_vectors(file)
        if stored is not None and stored != checksum:
            raise RunError(
                f"{file} was changed after it was written; remove it, and the same run makes it "
                "again"
            )
        return vectors

    def _check_depth(self, layer: object) -> None:
        """Check that the run has a depth.

        Raises:
            ArgumentError: If it has none of this name.
        """
        if layer not in self.layers:
            has = f"; it has {', '.join(self.layers)}"
            if isinstance(layer, str):
                raise ArgumentError(f"no depth '{layer}' in this run{has}")
            named = f": '{layer}'" if str(layer) in self.layers else has
            raise ArgumentError(f"a depth is named by a string, got {shown(layer)}{named}")

    def _read_solved(self, layer: str) -> tuple[pa.Table, Array, Array]:
        """Return the rows with values at a depth, and their values and residuals (photos, k)."""
        self._check_depth(layer)
        table = self.table()
        table = table.filter(
            pc.and_(pc.equal(table["layer"], layer), pc.equal(table["status"], "ok"))
        )
        folder = self.store.folder
        return table, *values_and_residuals(table, self.store.counts[layer], folder)

    @cached_property
    def _run(self) -> RunData:
        """The manifest of a run does not change."""
        return RunData(self.store, self.store.samples())


def open_run(folder: str | Path) -> Results:
    """Return the results of a run, whether it is finished or not.

    Raises:
        RunError: If there is none.
    """
    check_path("folder", folder, "the folder of a run")
    return Results(open_store(Path(folder)))
