"""The rows of a run for whoever goes on with them: Arrow tables, and arrays per depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from safetensors import SafetensorError

from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.survey.spec.tasks import places
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.files import is_regular, unreadable
from jvpsvd.survey.store.rows import SCHEMA
from jvpsvd.survey.store.store import Store, open_store

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
    """(photos, k) singular values, descending along rows."""
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
        table = pa.concat_tables([SCHEMA.empty_table(), *self.store.tables()])
        samples = {(s.shard, s.key): place for place, s in enumerate(self.store.samples())}
        layers = {name: place for place, name in enumerate(self.layers)}
        names = (table[name].to_pylist() for name in ("shard", "key", "layer"))
        order = [
            samples.get((shard, key), len(samples)) * len(layers) + layers.get(layer, 0)
            for shard, key, layer in zip(*names, strict=True)
        ]
        return table.take(pa.array(np.argsort(order, kind="stable")))

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
        good = pc.and_(pc.equal(table["layer"], layer), pc.equal(table["status"], "ok"))
        table = table.filter(good)
        k = self.store.identity.k
        lists = (table["s"], table["residuals"])
        if any(length != k for one in lists for length in pc.list_value_length(one).to_pylist()):
            raise RunError(f"{self.store.folder} holds rows of another k; see 'jvpsvd verify'")
        s, residuals = (
            one.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, k)
            for one in lists
        )
        return Spectra(
            layer=layer,
            shape=(depth.numel, self._inputs),
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
        identity = self.store.identity
        if not identity.vectors:
            raise ArgumentError("this run stored no vectors; run again with --vectors")
        if (shard, key) in self._places and layer in self.layers:
            task, place = self._places[shard, key]
            index = place * len(self.layers) + self.layers.index(layer)
            file = self.store.vectors(task, index)
            if is_regular(file):
                return self._loaded(file, task, index)
        raise ArgumentError(f"no vectors of {shard} {key} at '{layer}' in {self.store.folder}")

    def _loaded(self, file: Path, task: str, index: int) -> dict[str, torch.Tensor]:
        """Return the vectors of a file after comparing it with the checksum in its row."""
        stored = self.store.vectors_checksum(task, index)
        try:
            data = file.read_bytes()
            found = safetensors.torch.load(data)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise unreadable(file, error) from error
        if stored is not None and stored != checksum_bytes(data):
            raise RunError(
                f"{file} was changed after it was written; remove it, and the same run makes it "
                "again"
            )
        return found

    @cached_property
    def _places(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Task of every sample, and its place there; the manifest of a run does not change."""
        return places(self.store.identity, self.store.samples())

    @property
    def _inputs(self) -> int:
        return int(np.prod(self.store.identity.photo_input.shape))


def open_run(folder: str | Path) -> Results:
    """Return the results of a run, whether it is finished or not.

    Raises:
        RunError: If there is none.
    """
    return Results(open_store(Path(folder)))
