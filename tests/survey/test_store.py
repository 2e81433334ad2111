import errno
import json
import os
import subprocess
import sys
from importlib import metadata

import pyarrow.parquet as pq
import pytest

import jvpsvd
from jvpsvd.errors import DiskError, RunError
from jvpsvd.report import read_values, write_report
from jvpsvd.survey import SCHEMA, open_store
from jvpsvd.survey.store.files import write_whole

CONTRACT = (
    "shard key label wnid layer status message s residuals converged k method products_forward "
    "products_reverse fro2 seconds defined_to size counts counts_low counts_high counts_error "
    "participation entropy nuclear_norm photo_checksum vectors_checksum checksum"
)


def test_rows_on_disk_have_the_columns_of_the_contract(finished):
    store = finished()
    files = sorted((store.folder / "spectra").glob("*.parquet"))
    assert len(files) == 4
    for file in files:
        assert pq.read_schema(file).names == CONTRACT.split() == SCHEMA.names


def test_run_is_read_back_as_it_was(surveyed, shard):
    store = surveyed([shard]).store
    assert open_store(store.folder) == store
    record = json.loads((store.folder / "run.json").read_text())
    assert record["versions"]["torch"]
    assert len(record["identity"]["weights_sha256"]) == 64


def test_a_source_that_is_not_installed_begins_runs(surveyed, shard, monkeypatch):
    installed = metadata.distribution

    def distribution(name):
        if name == "jvpsvd":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    store = surveyed([shard], "uninstalled", limit=1).store
    record = json.loads((store.folder / "run.json").read_text())
    assert record["versions"]["jvpsvd"] == jvpsvd.__version__


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def write_old(file):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"half")
    os.utime(file, (0, 0))
    return file


@pytest.mark.parametrize("folder", [".", "spectra", "shards", "report"])
def test_nothing_half_written_is_left_or_read(surveyed, finished, shard, ended, folder):
    store = finished()
    of_run = store.folder / folder
    left_over = write_old(of_run / f".0123.parquet.{ended}-0123abcd.part")
    own = write_old(of_run / f".0123.parquet.{os.getpid()}-0123abcd.part")  # a number given anew
    fresh = of_run / f".0123.parquet.{ended}-abcd0123.part"
    fresh.write_bytes(b"being written on another machine")
    suspended = write_old(of_run / f".0123.parquet.{os.getppid()}-0123abcd.part")
    others = [write_old(of_run / name) for name in ("x.part", f".x.{ended}.part", ".x.csv")]
    assert len(store.rows()) == 8
    surveyed([shard])
    assert not left_over.exists()
    assert not own.exists()
    assert all(file.exists() for file in (fresh, suspended, *others))


def test_a_report_removes_what_one_that_was_killed_left(finished, ended):
    store = finished()
    left_over = write_old(store.folder / "report" / f".index.html.{ended}-0123abcd.part")
    of_rows = write_old(store.folder / "spectra" / f".0123.parquet.{ended}-0123abcd.part")
    write_report(read_values(store))
    assert not left_over.exists()
    assert of_rows.exists()


def test_full_disk_keeps_what_was_finished(surveyed, shard, monkeypatch):
    synced = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(28, "No space left on device")
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"\.parquet cannot be written: No space .*; free some"):
            surveyed([shard])
    outcome = surveyed([shard])
    assert 0 < outcome.skipped < 4
    assert len(outcome.store.rows()) == 8


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device; free some"),
        (errno.EROFS, "Read-only file system; make it writable, or choose another place$"),
        (errno.EACCES, "Permission denied; make it writable, or choose another place$"),
    ],
)
def test_a_disk_that_takes_no_folder_says_why(surveyed, shard, monkeypatch, number, said):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DiskError, match=f"cannot be written: {said}"):
        surveyed([shard])


def test_a_limit_on_the_size_of_files_names_the_file_and_what_to_do(tmp_path):
    file = tmp_path / "rows.parquet"

    def write(aside):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(DiskError, match=rf"{file} .*File too large; raise the limit .*ulimit -f"):
        write_whole(file, write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"spec": {"k": "9"}, "depths": []}', '{"spec": {}, "depths": []}', "\x00"],
)
def test_unreadable_run_json_is_one_error(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        open_store(tmp_path)


def test_folder_without_run_is_one_error(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        open_store(tmp_path)
