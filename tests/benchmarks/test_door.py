"""`python -m benchmarks NAME` reaches every part and command, with its options and its help."""

import contextlib
import json
import subprocess
import sys

import pytest

from benchmarks import __main__ as door
from benchmarks.parts.table import COMMANDS, PARTS, Options, Part
from benchmarks.publish.record import read_records


@pytest.mark.parametrize("name", [*PARTS, *COMMANDS])
def test_every_name_has_help(name, capsys):
    with contextlib.suppress(SystemExit):  # argparse's way
        door.main([name, "--help"])
    assert "usage: python -m benchmarks" in capsys.readouterr().out


def test_the_help_of_the_suite_lists_every_name(capsys):
    assert door.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in (*PARTS, *COMMANDS))


def test_a_reader_that_goes_ends_it_without_a_traceback():
    command = [sys.executable, "-m", "benchmarks", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `| head` does once it has its lines
        said = process.stderr.read()
    assert said == b""
    assert process.returncode == 1


def test_options_that_a_script_has_too_reach_it(capsys):
    options = Options(quick=True, k=7, rounds=2, own=("--tol", "1e-3"))
    assert PARTS["solver"].script.command_line(options) == [
        *("-k", "20", "--skip-arpack"),
        *("-k", "7", "--tol", "1e-3"),
    ]
    assert door.split(PARTS["solver"], options) == [options]
    assert capsys.readouterr().out == "solver is a script: --rounds mean nothing to it\n"


@pytest.mark.parametrize("names", [["safety"], ["survey", "page"]])
def test_arguments_of_nobody_are_refused(names, capsys):
    with pytest.raises(SystemExit) as ended:
        door.main([*names, "--only", "overhead"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --only overhead" in capsys.readouterr().err


def test_arguments_of_a_script_reach_it_and_store_nothing(monkeypatch):
    calls = []
    monkeypatch.setattr(
        door, "measure", lambda names, options, file: calls.append((names, options))
    )
    door.main(["survey", "--only", "overhead"])
    assert calls == [(["survey"], Options(own=("--only", "overhead")))]
    monkeypatch.undo()
    monkeypatch.setattr(door, "run", lambda part, options, keep: None)
    monkeypatch.setattr(door, "store", lambda record: calls.append(record))
    door.measure(["survey"], calls[0][1], None)
    assert len(calls) == 1


def test_short_minutes_are_no_claim(monkeypatch):
    found = []
    monkeypatch.setattr(door, "measure", lambda names, options, file: found.append(options.quick))
    for arguments in (["gpu"], ["gpu", "--minutes", "10"], ["gpu", "--minutes", "4"]):
        door.main(arguments)
    assert found == [False, False, True]


def test_what_a_script_prints_is_its_row(tmp_path, capsys):
    question = tmp_path / "options.json"
    question.write_text(json.dumps({"quick": True, "problems": [], "solvers": [], "own": []}))
    assert door.main(["--inside", str(question), str(tmp_path / "r.json"), "tall"]) == 0
    (record,) = read_records(tmp_path / "r.json")
    (row,) = record.rows
    assert record.quick
    assert record.settings == {"arguments": ["tall", "--quick"]}
    assert row["printed"] == capsys.readouterr().out.splitlines()
    assert len(row["report"]["tall"]) == len(row["printed"]) - 1


def test_rows_are_in_the_file_as_soon_as_they_are_measured(tmp_path, monkeypatch):
    file, seen = tmp_path / "r.json", []

    def rows():
        yield {"kind": "check", "name": "a"}
        seen.extend(read_records(file)[0].rows)
        yield {"kind": "check", "name": "b"}
        raise RuntimeError("the card is gone")

    monkeypatch.setitem(PARTS, "gpu", Part("gpu", "", lambda options: ({"k": 1}, rows())))
    with pytest.raises(RuntimeError):
        door.run_inside("gpu", Options(), file)
    assert [row["name"] for row in seen] == ["a"]
    assert [row["name"] for row in read_records(file)[0].rows] == ["a", "b"]
