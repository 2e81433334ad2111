"""Tasks: one photo, or a few small ones, to be solved at all depths."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from jvpsvd.data import Sample
from jvpsvd.survey.spec.identity import Identity

# Fields of an identity that select samples and files, not numbers.
_NOT_NUMBERS = (
    "model",
    "shards",
    "contents",
    "classes",
    "limit",
    "per_class",
    "choice",
    "batch",
    "vectors",
    "small_vectors",
    "probe",
)


@dataclass(frozen=True)
class Task:
    """Samples of one shard to be solved together."""

    id: str
    """Hash of the samples, the weights, the depths and all hyper-parameters."""
    samples: tuple[Sample, ...]

    @property
    def shard(self) -> str:
        """File name of the shard that holds the samples."""
        return self.samples[0].shard


def make_tasks(identity: Identity, samples: Sequence[Sample]) -> list[Task]:
    """Return the tasks of a run, in the order of its manifest; none crosses a shard."""
    record = identity.to_json()
    record["photo_input"] = dataclasses.asdict(identity.photo_input)
    numbers = {name: value for name, value in record.items() if name not in _NOT_NUMBERS}
    if not identity.density:  # runs of older versions have no such field
        del numbers["density"]
    if not identity.own_starts:
        del numbers["own_starts"]
    if identity.start_shape is None:  # nor these
        del numbers["inputs"], numbers["start"], numbers["start_shape"]
    parts: list[tuple[Sample, ...]] = []
    for _, group in groupby(samples, key=lambda sample: sample.shard):
        of_shard = tuple(group)
        starts = range(0, len(of_shard), identity.batch)
        parts += [of_shard[start : start + identity.batch] for start in starts]
    return [Task(_id(numbers, part), part) for part in parts]


def share_of(everything: Sequence[Task], share: tuple[int, int]) -> list[Task]:
    """Return part i of n of the tasks; the parts are disjoint and together everything.

    >>> from jvpsvd.data import Sample
    >>> every = [Task(name, (Sample("s", name, 0, 0, None, None),)) for name in "abcde"]
    >>> [task.id for task in share_of(every, (1, 2))]
    ['b', 'd']
    """
    index, count = share
    return list(everything[index::count])


def _id(numbers: dict[str, object], samples: Sequence[Sample]) -> str:
    described = [dataclasses.asdict(sample) for sample in samples]
    for sample in described:
        del sample["class_name"]  # which runs of older versions do not have
    record = {"numbers": numbers, "samples": described}
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
