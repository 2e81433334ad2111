"""A second report into the same folder: what the first left goes, what is anybody else's stays."""

import json

import pytest

from benchmarks.problems.synthetic_run import make_run
from jvpsvd.report import analysis, read_values, write_report
from jvpsvd.report.stale import RECORD, remove_stale


@pytest.fixture
def folder(tmp_path):
    """A folder with two files of a report, one of a user."""
    for name in ("index.html", "class-tree.csv", "notes.csv"):
        (tmp_path / name).write_text(name)
    remove_stale(tmp_path, [tmp_path / "index.html", tmp_path / "class-tree.csv"])
    return tmp_path


def names(folder):
    return {file.name for file in folder.iterdir()} - {RECORD}


def test_what_is_not_written_again_goes(folder):
    removed = remove_stale(folder, [folder / "index.html"])
    assert removed == [folder / "class-tree.csv"]
    assert names(folder) == {"index.html", "notes.csv"}


def test_what_somebody_changed_stays(folder):
    (folder / "class-tree.csv").write_text("mine")
    assert remove_stale(folder, [folder / "index.html"]) == []
    assert names(folder) == {"index.html", "class-tree.csv", "notes.csv"}


def test_without_a_note_nothing_goes(folder):
    (folder / RECORD).unlink()
    assert remove_stale(folder, [folder / "index.html"]) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"notes.csv": 3}', "\x00"])
def test_a_damaged_note_removes_nothing_and_is_written_anew(folder, text):
    (folder / RECORD).write_text(text)
    assert remove_stale(folder, [folder / "index.html"]) == []
    assert list(json.loads((folder / RECORD).read_text())) == ["index.html"]


def test_a_note_reaches_nothing_outside_and_no_link(folder):
    inside = folder / "inside"
    inside.mkdir()
    outside = folder / "class-tree.csv"
    digest = json.loads((folder / RECORD).read_text())["class-tree.csv"]
    (inside / "link.csv").symlink_to(outside)
    noted = dict.fromkeys(["../class-tree.csv", str(outside), "link.csv", "..", ""], digest)
    (inside / RECORD).write_text(json.dumps(noted))
    assert remove_stale(inside, []) == []
    assert outside.exists()
    assert names(inside) == {"link.csv"}


def test_a_report_without_a_tree_removes_the_tree_of_the_one_before(tmp_path, monkeypatch):
    pytest.importorskip("jinja2", reason="the page needs jvpsvd[report]")
    pytest.importorskip("matplotlib", reason="figures need jvpsvd[plot]")
    values = read_values(make_run(tmp_path / "run", photos=6, depths=1, k=3))
    report = tmp_path / "run" / "report"
    report.mkdir()
    (report / "notes.txt").write_text("mine")
    write_report(values)
    before = names(report)
    monkeypatch.setattr(analysis, "make_class_trees", lambda *_: (None, ""))
    write_report(values)
    figures = {
        f"{name}.{end}" for name in ("class-tree", "class-distances") for end in ("png", "svg")
    }
    tables = {f"{name}.csv" for name in ("class-tree", "class-distances", "wordnet-distances")}
    assert before - names(report) == figures | tables
    assert 'href="class-tree' not in (report / "index.html").read_text("utf-8")
    assert {"notes.txt", "spectra.csv", "index.html"} <= names(report)
