"""Where a row of a run belongs: at a photo of the manifest and at a depth of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jvpsvd.data import Sample

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Positions:
    """Indices of photos and depths by their names.

    >>> positions = Positions([Sample("a.tar", "cat", 0, 1, None, None)], ["output"])
    >>> names = {"shard": ["a.tar"] * 2, "key": ["cat", "dog"], "layer": ["output"] * 2}
    >>> [indices.tolist() for indices in positions.find(pa.table(names))]
    [[0, -1], [0, 0]]
    """

    def __init__(self, samples: Sequence[Sample], layers: Sequence[str]) -> None:
        self._photos = {(s.shard, s.key): index for index, s in enumerate(samples)}
        self._depths = {name: index for index, name in enumerate(layers)}

    def find(self, table: pa.Table) -> tuple[Indices, Indices]:
        """Return the index of the photo and of the depth of each row; -1 where there is none."""
        shards, keys, layers = (table[name].to_pylist() for name in ("shard", "key", "layer"))
        photos = [self._photos.get(name, -1) for name in zip(shards, keys, strict=True)]
        depths = [self._depths.get(layer, -1) for layer in layers]
        return np.array(photos, dtype=np.int64), np.array(depths, dtype=np.int64)
