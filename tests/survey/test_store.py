import errno
import json
import os
from importlib import metadata

import pyarrow.parquet as pq
import pytest

import jvpsvd
from jvpsvd.errors import DiskError, RunError
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


def test_nothing_half_written_is_left_or_read(surveyed, finished, shard):
    store = finished()
    left_over = store.folder / "spectra" / ".0123.parquet.77-0123abcd.part"
    left_over.write_bytes(b"half")
    fresh = store.folder / "spectra" / ".0123.parquet.77-abcd0123.part"
    fresh.write_bytes(b"being written by another share")
    os.utime(left_over, (0, 0))
    assert len(store.rows()) == 8
    surveyed([shard])
    assert not left_over.exists()
    assert fresh.exists()


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
