"""Files of single tasks that become few, and processes that are killed while they do it."""

import contextlib
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from support.compactions import compact_for_ever, compact_once, read_task_files, restore, started
from support.shards import sample_members, write_tar
from torch import nn

from jvpsvd.networks import Model, PhotoInput, weights_sha256
from jvpsvd.survey import Spec, compact, open, open_store, run, status, verify
from jvpsvd.survey.spec.tasks import make_tasks
from jvpsvd.survey.store.files import refuse_other_kinds
from jvpsvd.survey.store.parts import listed_in, write_part
from jvpsvd.survey.store.rows import SCHEMA
from jvpsvd.survey.store.store import Store

PHOTOS, LAYERS = 6, ("0", "output")


@pytest.fixture(scope="module")
def model():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 8)).eval()
    return Model("mine", net, PhotoInput(size=8, resize=8), weights_sha256(net))


@pytest.fixture
def again(model, tmp_path):
    """A function that runs the same run once more, and returns the outcome."""
    members = [m for i in range(PHOTOS) for m in sample_members(f"photo{i}", i, i % 2)]
    write_tar(tmp_path / "s.tar", members)

    def survey(**wanted):
        options = {"k": 4, "layers": LAYERS, "batch": 1, **wanted}
        return run(Spec(shards=[tmp_path / "s.tar"], model=model, out=tmp_path / "run", **options))

    return survey


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of a run that has ended, to be copied."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def store(again, tmp_path, runs):
    """A copy of a run that has ended: one is computed for all tests."""
    kept = runs / "run"
    if not kept.exists():
        again().store.folder.rename(kept)
    return open_store(Path(shutil.copytree(kept, tmp_path / "run")))


def table(file):
    return pq.ParquetFile(file).read()


def assert_whole(store: Store):
    """Every row is there once, for rows(), tables(), scan() and verify()."""
    wanted = Counter((f"photo{i}", layer) for i in range(PHOTOS) for layer in LAYERS)
    assert Counter((row.key, row.layer) for row in store.rows()) == wanted
    assert store.table().num_rows == len(wanted)
    assert sum(len(piece.unchanged) for piece in store.scan()) == len(wanted)
    assert verify(store).problems == ()


def finished(store):
    every = make_tasks(store.identity, store.samples())
    return store.finished({task.id: len(LAYERS) for task in every})


def test_compaction_changes_files_and_nothing_else(again, store):
    rows, done, before = store.rows(), finished(store), str(status(store).counts)
    assert compact(store, few=PHOTOS) == 0
    assert compact(store, few=0) == PHOTOS
    assert (len(store.layout.task_files()), len(store.layout.part_files())) == (0, 1)
    assert store.rows() == rows
    assert finished(store) == done
    assert len(done) == PHOTOS
    assert (status(store).done, str(status(store).counts)) == (PHOTOS, before)
    assert open(store.folder).spectra("0").s.shape == (PHOTOS, 4)
    assert_whole(store)
    assert compact(store, few=0) == 0
    assert again().computed == 0


def test_tasks_that_come_later_get_a_part_of_their_own(again, store):
    lost = store.layout.task_files()[:3]
    for file in lost:
        file.unlink()
    assert compact(store, few=0) == 3
    outcome = again()
    assert (outcome.computed, outcome.skipped) == (3, 3)
    assert compact(store, few=0) == 3
    assert len(store.layout.part_files()) == 2
    assert_whole(store)


@pytest.mark.parametrize("removed", range(PHOTOS + 1))
def test_kill_before_files_are_removed_leaves_every_row_once(again, store, removed):
    rows, files = store.rows(), store.layout.task_files()
    write_part(store.folder / "spectra", [(file.stem, table(file)) for file in files])
    for file in files[:removed]:
        file.unlink()
    assert_whole(store)
    assert len(finished(store)) == PHOTOS
    assert again().computed == 0
    assert store.layout.task_files() == []
    assert store.rows() == rows
    assert_whole(store)


@pytest.mark.parametrize("content", ["half", "whole"])
def test_kill_while_the_part_is_written_leaves_every_row_once(again, store, content):
    files = store.layout.task_files()
    part = write_part(store.folder / "spectra", [(file.stem, table(file)) for file in files])
    left = part.with_name(f".{part.name}.77-abcd.part")
    left.write_bytes(part.read_bytes()[: -1000 if content == "half" else None])
    part.unlink()
    assert_whole(store)
    assert again().computed == 0
    assert compact(store, few=0) == PHOTOS
    assert_whole(store)


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-20],
    "half": lambda data: data[: len(data) // 2],
    "pages": lambda data: data[:4] + bytes(len(data) // 3) + data[4 + len(data) // 3 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("left", [0, 2])
def test_damaged_part_is_done_again(again, store, damage, left):
    rows = [(row.key, row.layer, row.s) for row in store.rows()]
    files = [(file, file.read_bytes()) for file in store.layout.task_files()]
    assert compact(store, few=0) == PHOTOS
    for file, data in files[:left]:
        file.write_bytes(data)
    (part,) = store.layout.part_files()
    part.write_bytes(DAMAGES[damage](part.read_bytes()))
    assert verify(store).problems
    assert again().computed == PHOTOS - left
    assert [(row.key, row.layer, row.s) for row in store.rows()] == rows
    assert_whole(store)


def stale_files(store):
    """What kills and damage may have left next to the rows."""
    file, *_ = store.layout.task_files()
    aside = file.with_name(f".{file.name}.77-abcd.part")
    aside.write_bytes(file.read_bytes())
    half = file.with_name(f".{file.name}.78-abcd.part")
    half.write_bytes(file.read_bytes()[:100])
    (store.folder / "spectra" / "part-0123456789abcdef.parquet").write_bytes(b"damaged")


def rows_of_pyarrow(folder):
    found = pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=["key", "layer"])
    return [tuple(row.values()) for row in found.to_pylist()]


def rows_of_duckdb(folder):
    duckdb = pytest.importorskip("duckdb")
    return duckdb.sql(f"SELECT key, layer FROM '{folder}/*.parquet'").fetchall()  # noqa: S608


def rows_of_polars(folder):
    polars = pytest.importorskip("polars")
    return polars.scan_parquet(f"{folder}/*.parquet").select("key", "layer").collect().rows()


@pytest.mark.parametrize("read", [rows_of_pyarrow, rows_of_duckdb, rows_of_polars])
@pytest.mark.parametrize("state", ["single", "merged", "killed", "stale_files"])
def test_folder_is_a_dataset_for_others(again, store, read, state):
    if state == "killed":
        files = store.layout.task_files()
        write_part(store.folder / "spectra", [(file.stem, table(file)) for file in files])
    elif state == "stale_files":
        stale_files(store)
    elif state == "merged":
        compact(store, few=0)
    again()
    wanted = sorted((f"photo{i}", layer) for i in range(PHOTOS) for layer in LAYERS)
    assert sorted(read(store.folder / "spectra")) == wanted


def test_part_says_which_tasks_it_holds(store):
    names = [file.stem for file in store.layout.task_files()]
    compact(store, few=0)
    (part,) = store.layout.part_files()
    assert listed_in(part) == [(name, len(LAYERS)) for name in names]
    assert table(part).select(SCHEMA.names).schema.equals(SCHEMA)


def test_two_compactions_at_once_gather_once(store):
    files = [(file, file.read_bytes()) for file in store.layout.task_files()]
    for _ in range(5):
        merged = []
        starting = threading.Barrier(3)

        def merge(merged=merged, starting=starting):
            starting.wait()
            merged.append(compact(store, few=0))

        threads = [threading.Thread(target=merge) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (sum(merged), len(store.layout.part_files())) == (PHOTOS, 1)
        assert_whole(store)
        for file, data in files:
            file.write_bytes(data)
        store.layout.part_files()[0].unlink()


@contextlib.contextmanager
def flickering(file):
    """Move a file away and back, again and again, from another thread."""
    elsewhere, ended = file.parents[1] / "elsewhere", threading.Event()

    def flicker():
        while not ended.is_set():
            file.replace(elsewhere)
            elsewhere.replace(file)

    thread = threading.Thread(target=flicker)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_names_that_come_and_go_are_files_of_the_run_or_not_there(store):
    file, *_ = store.layout.task_files()
    with flickering(file):
        for _ in range(3000):
            refuse_other_kinds(file)
            assert store.layout.unexpected_files() == []
        problems = {store.read_task(file).problem for _ in range(300)}
    assert all("cannot be read" in problem for problem in problems - {""})
    assert_whole(store)


def test_runs_with_vectors_are_left_as_they_are(again):
    store = again(vectors=True).store
    before = sorted(store.folder.rglob("*.*"))
    assert compact(store, few=0) == 0
    assert sorted(file for file in store.folder.rglob("*.*") if file.suffix != ".lock") == [
        file for file in before if file.suffix != ".lock"
    ]
    assert_whole(store)


def test_tasks_that_may_be_mended_stay_single_and_are_done_again(again):
    store = again().store
    mended = store.layout.task_files()[:3]
    for file in mended:
        file.unlink()
    tight = again(memory=10)
    assert tight.failures == 3 * len(LAYERS)
    assert {row.status for row in store.rows()} == {"ok", "refused"}
    assert compact(store, few=0) == 3
    assert store.layout.task_files() == mended
    assert_whole(store)
    roomy = again()
    assert (roomy.computed, roomy.failures) == (3, 0)
    assert_whole(store)


def wait_for_a_part(store, seconds):
    began = time.monotonic()
    while not store.layout.part_files() and time.monotonic() - began < seconds:
        pass


@pytest.mark.parametrize("least", [6, pytest.param(26, marks=pytest.mark.slow)])
def test_compaction_killed_at_random_instants_leaves_every_row_once(again, store, least):
    backup, rows, dice, states = read_task_files(store), store.rows(), random.Random(1), set()
    began = time.monotonic()
    compact(store, few=1)
    restore(store, backup)
    longest = 3 * (time.monotonic() - began)
    kills = 0
    while kills < least or (len(states) < 2 and kills < 150):
        with started(compact_for_ever, store, backup):
            if kills % 2:  # a part and files of single tasks are there together for an instant
                wait_for_a_part(store, 10 * longest)
            else:
                time.sleep(dice.uniform(0, longest))
        kills += 1
        for file in store.folder.rglob("restored.part"):
            file.unlink()  # of this test, not of a run
        states.add((len(store.layout.task_files()), len(store.layout.part_files())))
        assert store.rows() == rows
        assert verify(store).problems == ()
        compact(store, few=1)
        assert store.rows() == rows
        assert store.layout.task_files() == []
        restore(store, backup)
    assert len(states) > 1, f"killed in no other state than {states}"
    assert again().computed == 0
    assert_whole(store)


@pytest.mark.parametrize("times", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_rows_can_be_read_while_another_process_compacts(store, times):
    backup, rows, reads = read_task_files(store), store.rows(), 0
    for _ in range(times):
        with started(compact_once, store, backup) as child:
            while child.is_alive():
                assert len(store.rows()) == len(rows)
                assert verify(store).problems == ()
                reads += 1
            assert child.exitcode == 0
        restore(store, backup)
    assert reads >= times
