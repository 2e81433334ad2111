"""The rows of a run against its manifest: what results, verification and report read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jvpsvd.data import Sample
from jvpsvd.survey.spec.tasks import Task, make_tasks
from jvpsvd.survey.store.pieces import Piece
from jvpsvd.survey.store.plausibility import find_faults
from jvpsvd.survey.store.positions import Indices, Positions
from jvpsvd.survey.store.store import Store


@dataclass(frozen=True)
class FileRows:
    """The rows of one file."""

    piece: Piece
    photos: Indices
    """Index of the photo of each row in the manifest; -1 where it is not there."""
    depths: Indices
    """Index of the depth of each row in the network; -1 where it is not there."""
    faults: Sequence[str]
    """What makes each row impossible; "" for a row that is possible."""


class RunData:
    """A run as its manifest describes it, and the rows that are there, file by file.

    Args:
        store: The run.
        samples: Its manifest.

    Example: ``RunData(store, store.samples()).files()``.
    """

    def __init__(self, store: Store, samples: Sequence[Sample]) -> None:
        self.store = store
        self.samples = tuple(samples)

    def files(self) -> Iterator[FileRows]:
        """Yield the rows of every file, read once, each task once."""
        identity = self.store.identity
        positions = Positions(self.samples, identity.layers)
        counts, sizes = self.store.counts, self.store.sizes
        for piece in self.store.scan():
            faults = find_faults(piece.table, counts, sizes, identity.k, identity.tol)
            yield FileRows(piece, *positions.find(piece.table), faults)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks of the manifest, by their ids."""
        return {task.id: task for task in make_tasks(self.store.identity, self.samples)}

    def row_in_task(self, shard: str, key: str, layer: str) -> tuple[str, int] | None:
        """Return the task of a row and its index there; None where the manifest has no such row."""
        layers = self.store.identity.layers
        if (shard, key) not in self._in_task or layer not in layers:
            return None
        task, index = self._in_task[shard, key]
        return task, index * len(layers) + layers.index(layer)

    def vector_file(self, shard: str, key: str, layer: str) -> Path | None:
        """Return the file of the vectors of a row; None where the manifest has no such row."""
        found = self.row_in_task(shard, key, layer)
        return None if found is None else self.store.layout.vector_file(*found)

    @cached_property
    def _in_task(self) -> dict[tuple[str, str], tuple[str, int]]:
        """The task of each sample, and its index among the samples of the task."""
        return {
            (sample.shard, sample.key): (task.id, index)
            for task in self.tasks.values()
            for index, sample in enumerate(task.samples)
        }
