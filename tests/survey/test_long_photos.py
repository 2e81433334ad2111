"""Depths of a photo that takes long are stored as they are done, and not computed again."""

import dataclasses
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from jvpsvd.errors import RunError
from jvpsvd.survey import RunProgress, Spec, compact, open_store, show_progress, status, verify
from jvpsvd.survey.spec.manifest import list_samples
from jvpsvd.survey.spec.plan import plan_run
from jvpsvd.survey.spec.tasks import make_tasks
from jvpsvd.survey.store.rows import from_table, to_table
from jvpsvd.survey.work.feed import read_tasks
from jvpsvd.survey.work.photo_solver import PhotoSolver

LAYERS = ["0", "2", "output"]


class StoppedError(Exception):
    """What the report of a run raises to end it."""


class Slow:
    """A report that makes depths take some seconds, but the first, and ends the run at one."""

    def __init__(self, until, seconds):
        self.until, self.seconds, self.solved, self.stored = until, seconds, [], []

    def __call__(self, progress):
        if progress.stored is not None and progress.stored not in self.stored:
            self.stored.append(progress.stored)
        if progress.layer and progress.layer not in self.solved:
            if progress.layer == self.until:
                raise StoppedError
            if progress.layer != LAYERS[0]:
                time.sleep(self.seconds)
            self.solved.append(progress.layer)


@pytest.fixture
def long_photo(surveyed, shard):
    """A function that runs one photo at three depths; it returns the report."""

    def run(until=None, seconds=0.0, **wanted):
        report = Slow(until, seconds)
        surveyed([shard], layers=LAYERS, limit=1, report=report, **wanted)
        return report

    return run


@pytest.fixture
def at_work(long_photo, tmp_path):
    """A function that begins such a run and ends it at the last depth; it returns the store."""

    def begin(**wanted):
        with pytest.raises(StoppedError):
            long_photo("output", 1.1, **wanted)
        return open_store(tmp_path / "run")

    return begin


def rewrite(store, **changed):
    """Write the last row of the only task again, changed, with the checksum that belongs to it."""
    (file,) = store.layout.task_files()
    *rows, last = store.rows()
    pq.write_table(to_table([*rows, dataclasses.replace(last, **changed)], file.stem), file)


@pytest.mark.parametrize("kept", [{}, {"vectors": True}, {"vectors": 2}], ids=str)
def test_depths_that_are_done_are_stored_and_not_computed_again(
    at_work, long_photo, surveyed, shard, kept
):
    store = at_work(**kept)
    before = store.rows()
    assert [(row.layer, row.status) for row in before] == [("0", "ok"), ("2", "ok")]
    assert (status(store).done, status(store).begun) == (0, 2)
    assert "unfinished photos: 2 depths stored" in status(store).lines()
    assert [line.split()[0] for line in verify(store).problems] == ["missing:"]
    report = long_photo(**kept)
    assert (report.solved, report.stored) == (["output"], [])
    assert store.rows()[:2] == before
    assert verify(store).problems == ()
    assert (status(store).done, status(store).begun) == (1, 0)
    whole = surveyed([shard], "whole", layers=LAYERS, limit=1, **kept).store.rows()
    for one, two in zip(store.rows(), whole, strict=True):
        np.testing.assert_allclose(one.s, two.s, atol=2e-6 * two.s[0])
        assert (one.vectors_checksum is None) == (not kept)


def test_what_is_stored_is_reported(long_photo, tmp_path):
    report = long_photo(seconds=1.1)
    assert report.solved == LAYERS
    row = open_store(tmp_path / "run").rows()[1]
    assert [(stored.layer, stored.s) for stored in report.stored] == [("2", row.s)]


def test_photos_at_work_are_not_merged(surveyed, shard):
    store = surveyed([shard], layers=LAYERS).store
    for file in store.layout.task_files()[:2]:
        pq.write_table(to_table(from_table(pq.read_table(file))[:2], file.stem), file)
    assert compact(store, few=0) == 2
    assert len(store.layout.task_files()) == 2
    assert len(store.rows()) == 10


@pytest.mark.parametrize("reason", ["refused", "out-of-memory", "error", "undelivered"])
def test_what_another_try_may_mend_is_tried_again(at_work, long_photo, reason):
    store = at_work()
    rewrite(store, status=reason, message="once")
    assert long_photo().solved == ["2", "output"]
    assert verify(store).problems == ()


def test_a_failure_that_is_final_stays(at_work, long_photo):
    store = at_work()
    rewrite(store, status="non-finite", message="a NaN")
    assert long_photo().solved == ["output"]
    assert [row.status for row in store.rows()] == ["ok", "non-finite", "ok"]


def test_rows_of_other_photo_bytes_are_computed_again(at_work, long_photo):
    store = at_work()
    rewrite(store, photo_checksum="0" * 16)
    assert long_photo().solved == LAYERS
    assert verify(store).problems == ()


def test_rows_of_another_depth_are_computed_again(at_work, long_photo):
    store = at_work()
    rewrite(store, layer="output")
    assert long_photo().solved == ["2", "output"]


def test_rows_from_the_first_that_was_changed_on_are_computed_again(at_work, long_photo):
    store = at_work()
    (file,) = store.layout.task_files()
    table = pq.read_table(file)
    index = table.schema.get_field_index("seconds")
    pq.write_table(table.set_column(index, table.schema.field(index), [[1.0, 1.0]]), file)
    with pytest.raises(RunError, match="not what was written"):
        store.rows()
    assert long_photo().solved == LAYERS
    assert verify(store).problems == ()


def test_rows_whose_vectors_are_gone_are_computed_again(at_work, long_photo):
    store = at_work(vectors=True)
    store.layout.vector_files()[1].unlink()
    assert long_photo(vectors=True).solved == ["2", "output"]
    assert verify(store).problems == ()


def only_task(store):
    return make_tasks(store.identity, store.samples())[0]


def solved_elsewhere(store, shard, **wanted):
    """Rows and results of the only task, as another process has them, which rounds otherwise."""
    spec = Spec(shards=[shard], model="tiny:net", layers=LAYERS, batch=1, **wanted)
    plan = plan_run(spec)
    task, photos = next(read_tasks([only_task(store)], plan.shards))
    solver = PhotoSolver(plan.model, store.identity)
    solved = solver.solve(solver.decode(task, photos))
    results = [dataclasses.replace(result, U=result.U * (1 + 1e-7)) for result in solved.results]
    return solved.rows, results


def test_a_slower_process_takes_no_row_away_and_takes_over_those_that_are_there(
    at_work, long_photo, surveyed, shard
):
    """Both compute the same share; the other may be stopped at any depth."""
    store = at_work(vectors=True)
    before = store.rows()
    rows, results = solved_elsewhere(store, shard, k=10, vectors=True)
    for count in (1, 2):
        assert store.commit_first(only_task(store), rows[:count], results[:count]) == before[:count]
    assert store.rows() == before
    long_photo(vectors=True)
    whole = store.rows()
    assert store.commit_first(only_task(store), rows[:2], results[:2]) == whole[:2]
    assert store.rows() == whole
    assert verify(store).problems == ()


@pytest.mark.parametrize("vectors", [False, True])
def test_a_retry_is_stored_depth_by_depth_too(long_photo, surveyed, shard, vectors):
    """What stopped the first try may stop the second; rows behind it are not lost meanwhile."""
    store = surveyed([shard], layers=LAYERS, limit=1, vectors=vectors).store
    first, second, third = store.rows()
    (file,) = store.layout.task_files()
    failed = dataclasses.replace(second, status="out-of-memory", message="once", s=[])
    pq.write_table(to_table([first, failed, third], file.stem), file)
    with pytest.raises(StoppedError):
        long_photo("output", 1.1, vectors=vectors)
    assert [row.status for row in store.rows()] == ["ok"] * 3
    assert store.rows()[2] == third
    assert long_photo(vectors=vectors).solved == []
    assert verify(store).problems == ()


def test_depths_stay_while_the_shard_is_away(at_work, long_photo, shard):
    store = at_work()
    before = store.rows()
    away = shard.rename(shard.with_name("away"))
    long_photo()
    assert [row.status for row in store.rows()] == ["ok", "ok", "undelivered"]
    assert store.rows()[:2] == before
    away.rename(shard)
    assert long_photo().solved == ["output"]
    assert store.rows()[:2] == before


def test_more_rows_than_depths_are_no_error_of_python(at_work, long_photo):
    store = at_work()
    (file,) = store.layout.task_files()
    pq.write_table(to_table([*store.rows(), *store.rows()], file.stem), file)
    assert status(store).begun == 2
    assert long_photo().solved == ["output"]
    assert verify(store).problems == ()


def test_without_a_store_all_results_are_returned_at_the_end(tiny, shard):
    """As a worker of Ray returns them."""
    spec = Spec(shards=[shard], model="tiny:net", layers=LAYERS, k=5, vectors=True, batch=1)
    plan = plan_run(spec)
    tasks = make_tasks(plan.identity, list_samples(plan.identity, plan.shards))
    task, photos = next(read_tasks(tasks[:1], plan.shards))
    solver = PhotoSolver(plan.model, plan.identity)
    solved = solver.solve(solver.decode(task, photos), lambda depth, progress: time.sleep(0.4))
    assert [row.layer for row in solved.rows] == LAYERS
    assert all(result is not None and result.U is not None for result in solved.results)


def test_a_line_for_a_depth_where_none_was_printed_for_long(at_work, capsys):
    (_, row), seconds = at_work().rows(), [0.0]
    row = dataclasses.replace(row, seconds=3.42)
    with show_progress(lambda: seconds[0]) as show:
        for now, stored in ((9.0, None), (9.5, row), (12.0, row)):
            seconds[0] = now
            show(RunProgress(row.key, "output", photos=4, stored=stored))
        assert capsys.readouterr().err == ""  # the row came when it was not yet long
        seconds[0] = 13.0
        later = dataclasses.replace(row, layer="5")
        for _ in range(2):
            show(RunProgress(row.key, "output", photos=4, stored=later))
    line = f"photo 1/4 {row.key} at 5: 10 of 10 values certified, 3.4 s\n"
    assert capsys.readouterr().err == line
