"""A run from its spec to its rows: begun, continued or divided."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from jvpsvd.arguments import shown
from jvpsvd.data import UNREADABLE
from jvpsvd.errors import ArgumentError, RunError, ShardError
from jvpsvd.networks import guess_recording_seconds
from jvpsvd.survey.progress.display import (
    ReportProgress,
    RunProgress,
    ignore_progress,
    show_progress,
)
from jvpsvd.survey.progress.journal import journal, note, others_at_work
from jvpsvd.survey.spec.command import command_of
from jvpsvd.survey.spec.manifest import list_samples
from jvpsvd.survey.spec.plan import RunPlan, plan_run
from jvpsvd.survey.spec.spec import Spec
from jvpsvd.survey.spec.tasks import Task, make_tasks, share_of
from jvpsvd.survey.store.changed_photos import refuse_changed_photos
from jvpsvd.survey.store.compaction import FEW, compact
from jvpsvd.survey.store.files import locked
from jvpsvd.survey.store.layout import Layout
from jvpsvd.survey.store.record import RECORD, read_record
from jvpsvd.survey.store.rows import Row, count_unread
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.survey.store.store import Store, create_or_continue, discard
from jvpsvd.survey.work.in_process import solve_in_process
from jvpsvd.survey.work.photo_solver import SolvedTask
from jvpsvd.survey.work.ray_engine import check_engine, solve_on_ray
from jvpsvd.svd import Progress
from jvpsvd.svd.request import out_of_reach
from jvpsvd.text_table import count_noun

if TYPE_CHECKING:
    from jvpsvd.survey.store.results import Results

logger = logging.getLogger(__name__)

# How many tasks are done before their files are merged, beyond those that are left alone anyway.
_COMPACT_EVERY = 8 * FEW
_TOLD_SECONDS = 1.0


@dataclass(frozen=True, repr=False)
class Outcome:
    """What one call of `run` did."""

    store: Store
    computed: int
    """Samples that this call gave values, at one depth at least."""
    skipped: int
    """Samples that had been finished before."""
    failures: int
    """Rows of the whole run, so far, that hold a failure instead of values."""
    failed: int = 0
    """Samples to which this call could give no values."""

    def __repr__(self) -> str:
        return (
            f"<Outcome: {self.computed} computed, {self.failed} failed, {self.skipped} were there, "
            f"{count_noun(self.failures, 'row')} without values, in {self.store.folder}>"
        )

    @property
    def results(self) -> Results:
        """The rows of the whole run, as Arrow and NumPy."""
        from jvpsvd.survey.store.results import Results  # no row needs it

        return Results(self.store)


def run(spec: Spec, report: ReportProgress | bool = True) -> Outcome:
    """Compute every row of a spec that its folder does not hold yet.

    Args:
        spec: What to compute, and where to.
        report: Whether to show progress on stderr: a bar on a terminal, elsewhere a line for each
            task. Or a function that is called with a `RunProgress` whenever something happened;
            what it raises ends the run.

    Raises:
        ArgumentError: If a value of the spec cannot be used.
        EngineError: If the engine cannot be had.
        ModelError: If the model, its weights or a layer cannot be found or loaded.
        RunError: If the folder holds another run or something else, or photos or the network were
            changed since the run began.
        ShardError: If the shards hold no sample.

    An example is that of `jvpsvd.survey`.
    """
    if not isinstance(spec, Spec):
        raise ArgumentError(f"spec is {shown(spec)}; give a survey.Spec")
    if not isinstance(report, bool) and not callable(report):
        raise ArgumentError(f"report={shown(report)} must be True, False or a function")
    if report is True:
        with show_progress() as show:
            return _run(spec, show)
    return _run(spec, report or ignore_progress)


def _run(spec: Spec, report: ReportProgress) -> Outcome:
    out = Path(spec.out)
    if spec.engine == "ray" and not (out / RECORD).exists():
        check_engine(spec)  # a folder that is begun and not gone on with blocks other runs
    goes_on = spec.inputs is not None and os.path.lexists(out / RECORD)
    plan = plan_run(spec, read_record(out).identity if goes_on else None)
    before = Layout(out).first_files()
    store = create_or_continue(out, plan.identity, plan.depths, spec.unsaid)
    # Names of tasks hash the preprocessing, even where no photo is read, as in older versions.
    begun = {name: getattr(store.identity, name) for name in (*spec.unsaid, "photo_input")}
    plan = replace(plan, identity=replace(plan.identity, **begun))
    try:
        with journal(store.folder):
            note("called", command=command_of(spec), where=str(Path.cwd()))
            _write_manifest(store, plan, report)
            refuse_changed_photos(store, plan.shards)
            compact(store)
            return _solve_pending(spec, plan, store, report)
    except (ArgumentError, ShardError):
        if not store.has_manifest:
            # So that the same folder can be given again with other shards or classes.
            discard(store.folder, before)
        raise


def _write_manifest(store: Store, plan: RunPlan, report: ReportProgress) -> None:
    """List the samples, if no process did; others of the same run wait until it is done."""
    shards = plan.shards

    def report_shards(done: int) -> None:
        report(RunProgress(shards=done, all_shards=len(shards)))

    with locked(store.folder / "manifest.lock"):
        if not store.has_manifest:
            _refuse_missing_shards(store, plan)
            store.write_manifest(list_samples(store.identity, shards, report_shards))


def _refuse_missing_shards(store: Store, plan: RunPlan) -> None:
    """Raise if the samples of a run cannot all be listed, as they were when it began."""
    pairs = zip(store.identity.contents, plan.identity.contents, strict=True)
    for shard, (began, now) in zip(plan.shards, pairs, strict=True):
        if now == UNREADABLE != began:
            raise RunError(
                f"{store.folder} has no manifest that can be read, and {shard}, of which it is to "
                "be listed again, cannot be read now; bring the shard back, then run again"
            )


def _solve_pending(spec: Spec, plan: RunPlan, store: Store, report: ReportProgress) -> Outcome:
    """Solve and store the tasks of the share that are not finished."""
    identity = plan.identity
    every = make_tasks(identity, store.samples())
    mine = share_of(every, spec.share)
    if not mine:
        logger.warning(
            "share %d/%d has nothing to do: as many as %d %ss are solved together, which makes %s; "
            "take as many shares, or --batch 1 in another folder",
            *spec.share, identity.batch, identity.sample_word, count_noun(len(every), "part"),
        )  # fmt: skip
    finished = store.finished({task.id: len(task.samples) * len(identity.layers) for task in mine})
    pending = [task for task in mine if task.id not in finished]
    count, skipped = _count_photos(mine), _count_photos(mine) - _count_photos(pending)
    note(
        "began",
        samples=count,
        skipped=skipped,
        share=list(spec.share),
        engine=spec.engine,
        model=identity.model,
        layers=list(identity.layers),
        k=identity.k,
    )
    for other in others_at_work(store.folder, spec.share) if pending else ():
        logger.warning(
            "%s works on the same share of %s: both compute every %s of it; stop one of them, or "
            "divide the run by --share 0/2 and 1/2",
            other, store.folder, identity.sample_word,
        )  # fmt: skip
    warning = out_of_reach(identity.tol, getattr(torch, identity.dtype)) if pending else None
    if warning:
        logger.warning("%s", warning)
    progress = RunProgress(photos_done=skipped, photos=count, one=identity.sample_word)
    recording = guess_recording_seconds(plan.model.module)
    begins = pending and spec.engine == "local" and recording >= _TOLD_SECONDS
    report(replace(progress, recording=recording if begins else None))
    failed = 0

    def report_depth(task: Task, depth: int, solve: Progress | None) -> None:
        within = solve.converged / solve.wanted if solve is not None else 0.0
        part = len(task.samples) * (depth + within) / len(identity.layers)
        key, layer = task.samples[0].key, identity.layers[depth]
        report(replace(progress, key=key, layer=layer, share_of_photo=part))

    def keep(solved: SolvedTask) -> Sequence[Row]:
        nonlocal progress
        rows = store.commit_first(solved.task, solved.rows, solved.results)
        last = rows[-1]
        note("stored", task=solved.task.id, key=last.key, layer=last.layer, seconds=last.seconds)
        progress = replace(progress, stored=last)
        return rows

    def solve() -> Iterator[SolvedTask]:
        if spec.engine == "ray":
            return solve_on_ray(pending, plan, spec)
        begun = store.first_rows
        return solve_in_process(pending, plan, spec.memory, report_depth, keep, begun)

    # Bound to no name: what stops the run also closes the iterator, and ends its thread.
    for number, solved in enumerate(solve() if pending else (), start=1):
        store.commit(solved.task.id, solved.rows, solved.results)
        done = progress.photos_done + len(solved.task.samples)
        progress = replace(progress, photos_done=done, stored=None)
        _note_finished(solved)
        failed += _count_failed(solved)
        report(replace(progress, key=solved.task.samples[-1].key, rows=solved.rows))
        if number % _COMPACT_EVERY == 0:
            compact(store)
    if progress.photos_done != count:
        missing = count - progress.photos_done
        raise RunError(f"not reached: {count_noun(missing, 'sample')} of {store.folder}; run again")
    compact(store)
    failures = _count_failures(store)
    note("ended", computed=count - skipped - failed, failed=failed, failures=failures)
    return Outcome(store, count - skipped - failed, skipped, failures, failed)


def _count_failed(solved: SolvedTask) -> int:
    """Return how many photos of a task have values at no depth."""
    good = {(row.shard, row.key) for row in solved.rows if row.status == "ok"}
    return len({(row.shard, row.key) for row in solved.rows} - good)


def _count_photos(some: Sequence[Task]) -> int:
    return sum(len(task.samples) for task in some)


def _count_failures(store: Store) -> int:
    """Return how many rows of the whole run hold a failure; warn of those that were changed."""
    failures = 0
    for piece in store.scan():
        for line in (piece.problem, *piece.changes()):
            if line:  # of another share, or of nobody: all of this one were read before
                logger.warning("%s; see 'jvpsvd verify'", line)
        failures += sum(status != "ok" for status in piece.unchanged["status"].to_pylist())
    return failures


def _note_finished(solved: SolvedTask) -> None:
    task, rows = solved.task, solved.rows
    counts = RunCounts().with_rows(rows)
    note(
        "finished",
        task=task.id,
        shard=task.shard,
        keys=[sample.key for sample in task.samples],
        samples=len(task.samples),
        unread=count_unread(rows),
        values=counts.values,
        failures=counts.failures,
        unconverged=counts.unconverged,
        worst_residual=counts.worst_residual,
        energy=counts.mean_energy,
        seconds=sum(row.seconds for row in rows),
        reasons=sorted({f"{row.status}: {row.message}" for row in rows if row.status != "ok"}),
    )
