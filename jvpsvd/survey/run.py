"""A run from its spec to its rows: begun, continued or divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.networks import Depth, Model
from jvpsvd.survey.executors import in_process
from jvpsvd.survey.instrument import Instrument
from jvpsvd.survey.manifest import list_samples
from jvpsvd.survey.rows import Row
from jvpsvd.survey.spec import Spec
from jvpsvd.survey.store import Store, create_or_continue
from jvpsvd.survey.task import Task, share_of, tasks
from jvpsvd.survey.watch import Look, Watch, unwatched
from jvpsvd.svd import Progress


@dataclass(frozen=True)
class Outcome:
    """What one call of `run` did."""

    store: Store
    computed: int
    """Samples finished by this call."""
    skipped: int
    """Samples that had been finished before."""
    failures: tuple[Row, ...]
    """Rows of the whole run, so far, that hold a failure instead of values."""


def run(
    spec: Spec,
    depths: Sequence[Depth],
    model: Model,
    shards: Sequence[Path],
    out: Path,
    *,
    device: str = "cpu",
    memory: int | str | None = None,
    share: tuple[int, int] = (0, 1),
    watch: Watch = unwatched,
) -> Outcome:
    """Compute every row of a spec that `out` does not hold yet.

    Args:
        spec: What to compute, from `specify`.
        depths: Its depths, from `specify`.
        model: The network that the spec names.
        shards: The files that the spec names.
        out: Folder of the run; made, or continued if it holds the same spec.
        device: Where products are taken.
        memory: Budget of one solve, as `svds` takes it.
        share: (i, n): do part i of n, counted from 0, and leave the rest to others.
        watch: Called with a `Look` whenever something happened.

    Raises:
        ArgumentError: If the share is not a part of a whole.
        RunError: If `out` holds another run or something else.
        ShardError: If the shards hold no sample.
    """
    if not 0 <= share[0] < share[1]:
        raise ArgumentError(f"share {share[0]}/{share[1]} must be i/n with 0 <= i < n")
    store = create_or_continue(out, spec, depths)
    if not store.has_manifest:
        store.write_manifest(list_samples(spec, shards))
    mine = share_of(tasks(spec, store.samples()), share)
    finished = store.finished()
    pending = [task for task in mine if task.id not in finished]
    done = skipped = len(mine) - len(pending)

    def report(task: Task, depth: int, look: Progress | None) -> None:
        within = look.converged / look.wanted if look is not None else 0.0
        part = (depth + within) / len(spec.layers)
        watch(Look(task.sample.key, spec.layers[depth], done, len(mine), part))

    if pending:
        instrument = Instrument(model, spec, device=device, memory=memory)
        for task, rows, results in in_process(pending, shards, instrument, report):
            store.commit(task.id, rows, results)
            done += 1
            watch(Look(task.sample.key, "", done, len(mine), 0.0, rows))
    if done != len(mine):
        raise RunError(f"{len(mine) - done} samples of {out} were not reached; run again")
    failures = tuple(row for row in store.rows() if row.status != "ok")
    return Outcome(store, len(pending), skipped, failures)
