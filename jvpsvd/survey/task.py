"""The unit of work: one photo at all chosen depths, under an id that no stale result can share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from jvpsvd.data import Sample
from jvpsvd.survey.spec import Spec

# Fields of a spec that choose samples and files, not numbers.
_NOT_NUMBERS = ("model", "shards", "contents", "limit", "per_class", "vectors")


@dataclass(frozen=True)
class Task:
    """One sample to be observed."""

    id: str
    """Hash of the sample, the weights, the depths and all hyper-parameters."""
    sample: Sample


def tasks(spec: Spec, samples: Sequence[Sample]) -> list[Task]:
    """Return the tasks of a run, in the order of its manifest."""
    numbers = {name: value for name, value in spec.to_json().items() if name not in _NOT_NUMBERS}
    return [Task(_id(numbers, sample), sample) for sample in samples]


def share_of(everything: Sequence[Task], share: tuple[int, int]) -> list[Task]:
    """Return part i of n of the tasks; the parts are disjoint and together everything.

    >>> from jvpsvd.data import Sample
    >>> every = [Task(name, Sample("s", name, 0, 0, None, None)) for name in "abcde"]
    >>> [task.id for task in share_of(every, (1, 2))]
    ['b', 'd']
    """
    index, count = share
    return list(everything[index::count])


def _id(numbers: dict[str, object], sample: Sample) -> str:
    record = {"numbers": numbers, "sample": dataclasses.asdict(sample)}
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
