"""The rows of a run as Arrow tables, and as arrays per depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.plausibility import values_and_residuals
from jvpsvd.survey.store.run_data import RunData
from jvpsvd.survey.store.store import Store, open_store
from jvpsvd.survey.store.vectors import read_vectors

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Spectra:
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


@dataclass(frozen=True)
class Results:
    """A run on disk, finished or not; read anew at every call."""

    store: Store

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
        depth = next((depth for depth in self.store.depths if depth.name == layer), None)
        if depth is None:
            raise ArgumentError(f"no depth '{layer}' in this run; it has {', '.join(self.layers)}")
        table = self.table()
        table = table.filter(
            pc.and_(pc.equal(table["layer"], layer), pc.equal(table["status"], "ok"))
        )
        s, residuals = values_and_residuals(table, self.store.counts[layer], self.store.folder)
        return Spectra(
            layer=layer,
            shape=(depth.numel, math.prod(self.store.identity.photo_input.shape)),
            samples=table.drop_columns(["s", "residuals"]),
            s=s,
            residuals=residuals,
            fro2=table["fro2"].to_numpy(),
        )

    def vectors(self, shard: str, key: str, layer: str) -> dict[str, torch.Tensor]:
        """Return U (m, k), s (k,) and Vh (k, n) of a photo at a depth.

        Raises:
            ArgumentError: If the run stores no vectors, or none of this photo and depth.
            RunError: If they cannot be read, or were changed after they were written.
        """
        if not self.store.identity.vectors:
            raise ArgumentError("this run stored no vectors; run again with --vectors")
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

    @cached_property
    def _run(self) -> RunData:
        """The manifest of a run does not change."""
        return RunData(self.store, self.store.samples())


def open_run(folder: str | Path) -> Results:
    """Return the results of a run, whether it is finished or not.

    Raises:
        RunError: If there is none.
    """
    return Results(open_store(Path(folder)))
