"""Which samples a run visits: a walk over the headers of every shard, and a choice."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jvpsvd.data import RemoteShard, Sample, Shard, walk
from jvpsvd.errors import ShardError
from jvpsvd.survey.spec.identity import Identity

_REMOTE_AT_ONCE = 8


def list_samples(
    identity: Identity,
    shards: Sequence[Shard],
    report: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Return the samples of the shards that the run visits, in their order.

    A shard that is not there or cannot be read is one sample with an empty key and its problem.

    Args:
        identity: Says which samples are chosen.
        shards: Where they lie.
        report: Called with the number of shards that have been walked.

    Raises:
        ShardError: If no sample is left to visit.
    """

    def every() -> Iterator[Sample]:
        for done, samples in enumerate(_walked(shards)):
            report(done)
            yield from samples
        report(len(shards))

    chosen = choose(every(), identity)
    if not any(sample.key for sample in chosen):
        first = next((f": {s.message}" for s in chosen), f", the first {shards[0]}")
        wanted = "" if identity.classes is None else f" of the classes {','.join(identity.classes)}"
        raise ShardError(f"no sample{wanted} in {len(shards)} shards{first}; see jvpsvd pack")
    return chosen


def choose(samples: Iterable[Sample], identity: Identity) -> list[Sample]:
    """Return the samples that a run visits, in their order.

    Of the `classes`, `per_class` of each class, and of these `limit`: the first ones, or those
    whose hash under the seed is smallest, so that a smaller number, of those that the other leaves,
    chooses a part of what a larger one does. The class of a sample is its index or else its wnid;
    those without either are one class. Shards that failed as a whole are always listed.
    """
    wanted = (s for s in samples if not s.key or _is_of(s, identity.classes))
    if identity.choice == "first":
        return _first(wanted, identity.per_class, identity.limit)
    if identity.per_class is None and identity.limit is None:
        return list(wanted)
    everything = list(wanted)
    places = [place for place, sample in enumerate(everything) if sample.key]
    places.sort(key=lambda place: _rank(everything[place], identity.seed))
    if identity.per_class is not None:
        seen: dict[object, int] = defaultdict(int)
        kept = []
        for place in places:
            seen[_class_of(everything[place])] += 1
            if seen[_class_of(everything[place])] <= identity.per_class:
                kept.append(place)
        places = kept
    failed = [place for place, sample in enumerate(everything) if not sample.key]
    return [everything[place] for place in sorted([*places[: identity.limit], *failed])]


def _first(samples: Iterable[Sample], per_class: int | None, limit: int | None) -> list[Sample]:
    seen: Counter[object] = Counter()
    chosen: list[Sample] = []
    count = 0
    for sample in samples:
        if not sample.key:
            chosen.append(sample)
            continue
        seen[_class_of(sample)] += 1
        if per_class is None or seen[_class_of(sample)] <= per_class:
            chosen.append(sample)
            count += 1
            if count == limit:
                break  # the shards that follow need not be walked
    return chosen


def _walked(shards: Sequence[Shard]) -> Iterator[list[Sample]]:
    """Yield the samples of every shard; of remote ones, several are walked at once."""
    if not any(isinstance(shard, RemoteShard) for shard in shards):
        yield from map(_samples, shards)
        return
    pool = ThreadPoolExecutor(_REMOTE_AT_ONCE)
    try:
        yield from pool.map(_samples, shards)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _samples(shard: Shard) -> list[Sample]:
    try:
        return walk(shard)
    except ShardError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        if isinstance(error.__cause__, OSError) and not gone and isinstance(shard, RemoteShard):
            raise  # a server that fails now may answer later: nothing is written down yet
        problem = "missing-shard" if gone else "bad-shard"
        return [Sample(shard.name, "", -1, 0, None, None, problem, str(error))]


def _is_of(sample: Sample, classes: Sequence[str] | None) -> bool:
    if classes is None or sample.wnid in classes:
        return True
    return sample.label is not None and str(sample.label) in classes


def _class_of(sample: Sample) -> object:
    return sample.label if sample.label is not None else sample.wnid


def _rank(sample: Sample, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{sample.shard}/{sample.key}".encode()).digest()
