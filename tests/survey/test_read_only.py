"""A run in a folder that is read-only: it is read as it is, and what would write says so."""

import errno
import os

import pytest
from support.command_line import MAIN
from support.read_only import run_read_only

from jvpsvd.cli import main
from jvpsvd.errors import ArgumentError, DiskError
from jvpsvd.report import read_values, write_report
from jvpsvd.survey import compact, verify

NOT_WRITTEN = "cannot be written: Read-only file system; make it writable, or choose another place"
RUN = ("run", "--model", "tiny:net", "-k", "10", "--layers", "2,output", "--batch", "1",
       "--choice", "first", "--out", "run", "--shards")  # fmt: skip
LIBRARY = """
from pathlib import Path
from jvpsvd import errors, report, survey

results = survey.open("run")
print(results.table().num_rows, survey.verify(results.store).problems)
print(survey.status(results.store).lines()[0])
try:
    survey.compact(results.store)
except errors.DiskError as error:
    print(error)
print(report.write_report(report.read_values(results.store), folder=Path("elsewhere")).page)
"""


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_cannot_write_says_where_in_one_line(finished, shard, begun):
    folder = finished().folder
    if begun:
        next(folder.glob("spectra/*.parquet")).unlink()
    code, _, errors = run_read_only(MAIN, *RUN, str(shard), folder=folder)
    assert (code, errors) == (2, f"jvpsvd: run/log {NOT_WRITTEN}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--status", "run"), "4 of 4 photos done (100 %)"),
        (("verify", "run"), "8 rows with values"),
        (("compare", "run", "run"), "0 ± 0"),
        (("report", "run", "--out", "elsewhere"), "page: elsewhere/index.html"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_commands_that_read_need_not_write(finished, arguments, said):
    folder = finished().folder
    code, output, errors = run_read_only(MAIN, *arguments, folder=folder)
    assert (code, errors) == (0, "")
    assert said in output


def test_a_report_beside_the_run_says_where_in_one_line(finished):
    folder = finished().folder
    code, _, errors = run_read_only(MAIN, "report", "run", folder=folder)
    assert (code, errors) == (2, f"jvpsvd: run/report {NOT_WRITTEN}\n")


def test_the_library_reads_it(finished):
    folder = finished().folder
    code, output, errors = run_read_only(LIBRARY, folder=folder)
    assert (code, errors) == (0, "")
    rows, done, compacted, page = output.splitlines()
    assert rows == "8 ()"
    assert done.startswith("4 of 4 photos done (100 %)")
    assert compacted == f"run/compaction.lock {NOT_WRITTEN}"
    assert page == "elsewhere/index.html"


def test_a_lock_that_another_process_holds_is_none_of_the_disk(finished):
    """A compaction leaves the work to the one that is at it, and a full disk is no other one."""
    filelock = pytest.importorskip("filelock")
    store = finished()
    with filelock.FileLock(store.folder / "compaction.lock"):
        assert compact(store, few=0) == 0
    assert compact(store, few=0) == 4
    assert verify(store).problems == ()


def test_a_lock_that_cannot_be_made_names_the_folder(finished, monkeypatch):
    store, opened = finished(), os.open
    lock = store.folder / "compaction.lock"
    lock.unlink()

    def refuse(file, *arguments, **options):
        if os.fspath(file) == str(lock):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(lock))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskError, match=f"^{store.folder} cannot be written: No space .*; free "):
        compact(store)


def test_a_report_may_lie_elsewhere_but_not_among_other_files(finished, tmp_path, capsys):
    store, folder = finished(), tmp_path / "some" / "report"
    folder.mkdir(parents=True)
    (folder / ".DS_Store").write_text("of a file browser")
    written = write_report(read_values(store), folder=folder)
    assert {file.parent for file in (*written.files, written.page)} == {folder}
    assert not (store.folder / "report").exists()
    again = write_report(read_values(store), threshold=2.0, folder=folder)
    assert again.page == written.page
    (tmp_path / "site").mkdir()
    page = tmp_path / "site" / "index.html"
    page.write_text("mine")
    with pytest.raises(ArgumentError, match="site holds files that are of no report; give another"):
        write_report(read_values(store), folder=page.parent)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(store.folder), "--out", str(page.parent)])
    assert ended.value.code == 2
    assert "site holds files that are of no report" in capsys.readouterr().err
    assert page.read_text() == "mine"
