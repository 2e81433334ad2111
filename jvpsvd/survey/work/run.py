"""A run from its spec to its rows: begun, continued or divided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jvpsvd.data import UNREADABLE, Shard
from jvpsvd.errors import RunError, ShardError
from jvpsvd.survey.progress.display import ReportProgress, RunProgress, ignore_progress
from jvpsvd.survey.progress.journal import journal, note
from jvpsvd.survey.spec.manifest import list_samples
from jvpsvd.survey.spec.plan import RunPlan, plan_run
from jvpsvd.survey.spec.spec import Spec
from jvpsvd.survey.spec.tasks import Task, share_of, tasks
from jvpsvd.survey.store.changed_photos import refuse_changed_photos
from jvpsvd.survey.store.compaction import FEW, compact
from jvpsvd.survey.store.files import locked
from jvpsvd.survey.store.layout import Layout
from jvpsvd.survey.store.results import Results
from jvpsvd.survey.store.rows import Row
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.survey.store.store import Store, create_or_continue, discard
from jvpsvd.survey.work.in_process import Solved, in_process
from jvpsvd.survey.work.photo_solver import PhotoSolver
from jvpsvd.survey.work.ray_engine import on_ray
from jvpsvd.svd import Progress
from jvpsvd.svd.arguments import out_of_reach

logger = logging.getLogger(__name__)

# How many tasks are done before their files are gathered, beyond those that are left alone anyway.
_COMPACT_EVERY = 8 * FEW


@dataclass(frozen=True)
class Outcome:
    """What one call of `run` did."""

    store: Store
    computed: int
    """Samples finished by this call."""
    skipped: int
    """Samples that had been finished before."""
    failures: int
    """Rows of the whole run, so far, that hold a failure instead of values."""

    @property
    def results(self) -> Results:
        """The rows of the whole run, as Arrow and NumPy."""
        return Results(self.store)


def run(spec: Spec, report: ReportProgress = ignore_progress) -> Outcome:
    """Compute every row of a spec that its folder does not hold yet.

    Args:
        spec: What to compute, and where to.
        report: Called with a `RunProgress` whenever something happened; what it raises ends the
            run.

    Raises:
        ArgumentError: If a value of the spec cannot be used.
        EngineError: If the engine cannot be had.
        ModelError: If the model, its weights or a layer cannot be found or loaded.
        RunError: If the folder holds another run or something else, or photos or the network were
            changed since the run began.
        ShardError: If the shards hold no sample.

    An example is that of `jvpsvd.survey`.
    """
    plan = plan_run(spec)
    before = Layout(Path(spec.out)).first_files()
    store = create_or_continue(Path(spec.out), plan.identity, plan.depths)
    try:
        with journal(store.folder):
            return _continued(spec, plan, store, report)
    except ShardError:
        if not store.has_manifest:
            # So that the same folder can be given again with other shards.
            discard(store.folder, before)
        raise


def _continued(spec: Spec, plan: RunPlan, store: Store, report: ReportProgress) -> Outcome:
    identity, shards = plan.identity, plan.shards
    _list(store, plan, report)
    refuse_changed_photos(store, shards)
    compact(store)
    every = tasks(identity, store.samples())
    mine = share_of(every, spec.share)
    rows_of = {task.id: len(task.samples) * len(identity.layers) for task in mine}
    finished = store.finished(rows_of)
    pending = [task for task in mine if task.id not in finished]
    count = sum(len(task.samples) for task in mine)
    done = skipped = count - sum(len(task.samples) for task in pending)
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

    said = out_of_reach(identity.tol, getattr(torch, identity.dtype)) if pending else None
    if said:
        logger.warning("%s", said)

    def report_work(task: Task, depth: int, progress: Progress | None) -> None:
        within = progress.converged / progress.wanted if progress is not None else 0.0
        part = len(task.samples) * (depth + within) / len(identity.layers)
        report(RunProgress(task.samples[0].key, identity.layers[depth], done, count, part))

    report(RunProgress(photos_done=done, photos=count))
    by_name: Mapping[str, Shard] = {shard.name: shard for shard in shards}
    for place, (task, (rows, results)) in enumerate(
        _solved_by(spec, plan, pending, by_name, report_work), start=1
    ):
        store.commit(task.id, rows, results)
        done += len(task.samples)
        _note(task, rows)
        report(RunProgress(task.samples[-1].key, "", done, count, 0.0, rows))
        if place % _COMPACT_EVERY == 0:
            compact(store)
    if done != count:
        raise RunError(f"{count - done} samples of {store.folder} were not reached; run again")
    compact(store)
    failures = 0
    for piece in store.scan():
        for line in (piece.problem, *piece.changes()):
            if line:  # of another share, or of nobody: all of this one were read above
                logger.warning("%s; see 'jvpsvd verify'", line)
        failures += sum(status != "ok" for status in piece.unchanged["status"].to_pylist())
    note("ended", computed=count - skipped, failures=failures)
    return Outcome(store, count - skipped, skipped, failures)


def _list(store: Store, plan: RunPlan, report: ReportProgress) -> None:
    """Write the manifest; one process lists the samples, and others of the same run wait for it."""
    shards = plan.shards

    def report_work(done: int) -> None:
        report(RunProgress(shards=done, all_shards=len(shards)))

    with locked(store.folder / "manifest.lock"):
        if not store.has_manifest:
            _refuse_missing_shards(store, plan)
            store.write_manifest(list_samples(store.identity, shards, report_work))


def _refuse_missing_shards(store: Store, plan: RunPlan) -> None:
    """Raise if the samples of a run cannot all be listed, as they were when it began."""
    pairs = zip(store.identity.contents, plan.identity.contents, strict=True)
    for shard, (began, now) in zip(plan.shards, pairs, strict=True):
        if now == UNREADABLE != began:
            raise RunError(
                f"{store.folder} has no manifest that can be read, and {shard}, of which it is to "
                "be listed again, cannot be read now; bring the shard back, then run again"
            )


def _solved_by(
    spec: Spec,
    plan: RunPlan,
    pending: Sequence[Task],
    shards: Mapping[str, Shard],
    report_work: Callable[[Task, int, Progress | None], None],
) -> Iterator[Solved]:
    """Return what the engine of the spec yields."""
    if not pending:
        return iter(())
    model, identity = plan.model, plan.identity
    if spec.engine == "ray":
        return on_ray(
            pending,
            shards,
            model,
            identity,
            address=spec.address,
            workers=spec.workers,
            memory=spec.memory,
            device=spec.device,
        )
    solver = PhotoSolver(model, identity, device=plan.device, memory=spec.memory)
    return in_process(pending, shards, solver, report_work)


def _note(task: Task, rows: Sequence[Row]) -> None:
    counts = RunCounts().with_rows(rows)
    note(
        "finished",
        task=task.id,
        shard=task.shard,
        keys=[sample.key for sample in task.samples],
        samples=len(task.samples),
        values=counts.values,
        failures=counts.failures,
        unconverged=counts.unconverged,
        worst_residual=counts.worst_residual,
        energy=counts.mean_energy,
        seconds=sum(row.seconds for row in rows),
        reasons=sorted({f"{row.status}: {row.message}" for row in rows if row.status != "ok"}),
    )
