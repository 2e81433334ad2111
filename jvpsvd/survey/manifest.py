"""Which samples a run visits: a walk over the headers of every shard, and a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from jvpsvd.data import Sample, walk
from jvpsvd.errors import ShardError
from jvpsvd.survey.spec import Spec


def list_samples(spec: Spec, shards: Sequence[Path]) -> list[Sample]:
    """Return the samples of the shards that the spec chooses, in their order.

    Raises:
        ShardError: If a shard cannot be read at all, or none holds a sample.
    """
    chosen = choose((sample for shard in shards for sample in walk(shard)), spec)
    if not chosen:
        raise ShardError(
            f"no sample in {len(shards)} shards, the first {shards[0]}; see jvpsvd pack"
        )
    return chosen


def choose(samples: Iterable[Sample], spec: Spec) -> list[Sample]:
    """Return the first `per_class` samples of every label, of these the first `limit`."""
    seen: Counter[int | None] = Counter()
    chosen: list[Sample] = []
    for sample in samples:
        if spec.limit is not None and len(chosen) == spec.limit:
            break
        seen[sample.label] += 1
        if spec.per_class is None or seen[sample.label] <= spec.per_class:
            chosen.append(sample)
    return chosen
