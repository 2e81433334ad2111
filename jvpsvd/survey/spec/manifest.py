"""The samples that a run visits: those of all shards, walked by their headers, and a selection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from jvpsvd.data import RemoteShard, Sample, Shard, suffixes_of, walk
from jvpsvd.errors import ShardError
from jvpsvd.survey.spec.class_choice import ClassChoice
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.selection import select_samples
from jvpsvd.text_table import count_noun

logger = logging.getLogger(__name__)

_REMOTE_AT_ONCE = 8


def list_samples(
    identity: Identity,
    shards: Sequence[Shard],
    report: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Return the samples of the shards that the run visits, in their order.

    A shard that is not there or cannot be read is one sample with an empty key and its problem.

    Args:
        identity: Says which samples are selected.
        shards: The files that hold them.
        report: Called with the number of shards that have been walked.

    Raises:
        ShardError: If no sample is left to visit, or none is of a class that was asked for.
        ArgumentError: If digits are the label of one class and the name of another.
    """
    classes = ClassChoice(identity.photos.classes or ())

    def every() -> Iterator[Sample]:
        for done, samples in enumerate(_walk_all(shards, suffixes_of(identity.inputs))):
            report(done)
            classes.meet(samples)
            yield from samples
        report(len(shards))

    walked = every()
    selected = select_samples(walked, identity.photos, identity.seed)
    while not classes.is_certain and next(walked, None) is not None:
        pass  # the first samples may be enough, and still a class not have been met
    where = count_noun(len(shards), "shard")
    classes.refuse_ambiguous()
    classes.refuse_missing(where)
    if not any(sample.key for sample in selected):
        first = next((f": {s.message}" for s in selected), f", the first {shards[0]}")
        wanted = f" of the classes {', '.join(classes.names)}" if classes.names else ""
        raise ShardError(f"no sample{wanted} in {where}{first}; see jvpsvd pack")
    _tell_shared_labels(selected)
    return selected


def _tell_shared_labels(samples: Sequence[Sample]) -> None:
    """Say in the log if one label stands for several classes, as in shards that were packed apart.

    Rows have the label, by which photos of both would be taken for one class.
    """
    wnids: dict[int, dict[str, Sample]] = {}
    names: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        if sample.label is not None and sample.wnid is not None:
            wnids.setdefault(sample.label, {}).setdefault(sample.wnid, sample)
        elif sample.label is not None and sample.class_name is not None:
            names.setdefault(sample.label, {}).setdefault(sample.class_name, sample)
    # A class that has a wnid may be called by several names.
    shared = {label: of for label, of in {**names, **wnids}.items() if len(of) > 1}
    for label, of in list(shared.items())[:1]:
        one, other = list(of.values())[:2]
        more = f" (and {count_noun(len(shared) - 1, 'label')} more)" if len(shared) > 1 else ""
        logger.warning(
            "label %d is %s in %s and %s in %s%s: rows do not tell such classes apart by their "
            "labels; pack the folders of all classes together",
            label, one.wnid or one.class_name, one.shard, other.wnid or other.class_name,
            other.shard, more,
        )  # fmt: skip


def _walk_all(shards: Sequence[Shard], suffixes: Sequence[str]) -> Iterator[list[Sample]]:
    """Yield the samples of every shard; of remote ones, several are walked at once."""
    if not any(isinstance(shard, RemoteShard) for shard in shards):
        yield from (_walk_one(shard, suffixes) for shard in shards)
        return
    pool = ThreadPoolExecutor(_REMOTE_AT_ONCE)
    try:
        yield from pool.map(partial(_walk_one, suffixes=suffixes), shards)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _walk_one(shard: Shard, suffixes: Sequence[str]) -> list[Sample]:
    try:
        return walk(shard, suffixes)
    except ShardError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        if isinstance(error.__cause__, OSError) and not gone and isinstance(shard, RemoteShard):
            raise  # a server that fails now may answer later: nothing is written down yet
        problem = "missing-shard" if gone else "bad-shard"
        return [Sample(shard.name, "", -1, 0, None, None, problem, str(error))]
