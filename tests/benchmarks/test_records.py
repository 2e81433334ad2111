import json
from dataclasses import replace

import pytest

from benchmarks import __main__ as suite
from benchmarks.measure.machine import describe_machine, find_commit, slug
from benchmarks.parts.table import PARTS
from benchmarks.publish import readme
from benchmarks.publish.figures import FIGURES
from benchmarks.publish.record import Record, RecordError, merge, read_records, write_records

MACHINE = {**describe_machine(), "cpu": "Some CPU @ 2 GHz", "cores": 2, "gpu": None}
SPREAD = {"median": 1.5, "least": 1.0, "most": 2.0, "rounds": 3}
PEER = {"problem": "p", "shape": [30, 20], "k": 4, "tol": 1e-4, "note": ""}
SOLVED = {
    **{**PEER, "seconds": SPREAD, "forward": 5, "reverse": 7, "value_error": 2e-7},
    **{"residual": None, "peak_bytes": {**SPREAD, "median": 3 << 20}},
}
ROWS = {
    "peers": [
        {**SOLVED, "solver": "jvpsvd", "outcome": "right"},
        {**SOLVED, "solver": "other", "outcome": "silent"},
        {**PEER, "solver": "away", "outcome": "absent", "note": "no such module"},
        {
            **PEER,
            "solver": "late",
            "outcome": "honest",
            "note": "gave up after 30 s",
            "budget": 30.0,
        },
    ],
    "floors": [
        {
            **{"problem": "p", "shape": [30, 20], "k": 4, "tol": 1e-4, "wall": 2.0, "floor": 1.0},
            **{"parts": {"products": 1.5, "rest": 0.5}, "method": "exact", "products": [4, 20]},
            **{"gemm_gflops": 50.0, "copy_gbs": 9.0, "wall_range": [1.5, 2.5], "dense_floor": 0.2},
        }
    ],
    "growth": [
        {"axis": "k", "about": "a", "x": 1, "seconds": SPREAD, "peak_bytes": 9, "note": ""},
        {"axis": "k", "about": "a", "x": 2, "seconds": SPREAD, "peak_bytes": 9, "note": ""},
        {
            **{"axis": "k", "about": "a", "x": None},
            "fit": {"seconds": {"exponent": 0.5, "scatter": 1.1}},
        },
    ],
    "safety": [
        {"case": "flat", "solver": "jvpsvd", "outcome": "right", "note": ""},
        {"case": "flat", "solver": "other", "outcome": "silent", "note": ""},
        {"case": "flat", "solver": "away", "outcome": "absent", "note": "no such module"},
    ],
    "gpu": [
        {"kind": "check", "name": "c", "right": True, "error": 0.0},
        {"kind": "peaks", "gemm_gflops": 1e4, "copy_gbs": 1e3},
        {
            "kind": "time",
            "problem": "p",
            "solver": "jvpsvd",
            "outcome": "right",
            "seconds": SPREAD,
            "product_seconds": 0.5,
            "peak_bytes": 10,
            "note": "",
        },
        {
            "kind": "survey",
            "problem": "survey/4",
            "k": 5,
            "tol": 1e-4,
            "seconds": SPREAD,
            "products": 30,
            "photos": 2,
            "converged_photos": 2,
        },
        *(
            {
                **{"kind": "width", "problem": "widths/p", "k": 5, "block_size": width},
                **{"seconds": SPREAD, "products": 30},
            }
            for width in (8, 32)
        ),
        *(
            {
                **{"kind": "together", "problem": f"together/p/{photos}", "k": 5, "tol": 1e-4},
                **{"photos": photos, "block_size": 16, "seconds": SPREAD, "products": 30},
                **{"phases": {"products": 0.25, "checks": 0.5}, "checks": 7},
            }
            for photos in (1, 4)
        ),
        {
            **{"kind": "step", "problem": "steps/p/4", "photos": 4, "block_size": 16},
            **{"seconds": 0.01, "kernels": 0.008, "waiting": 0.001, "waits": 6.0, "launches": 90.0},
        },
        {
            **{"kind": "graph", "problem": "graphs/p/4x16/jvp", "photos": 4, "block_size": 16},
            **{"seconds": 0.01, "replay_seconds": 0.004, "ratio": 2.5, "error": 1e-7},
            "right": True,
        },
        {
            **{"kind": "decompositions", "problem": "decompositions/600/4", "rows": 600},
            **{"photos": 4, "on_device": 0.05, "on_threads": 0.02},
        },
    ],
    "allocator": [{"report": {}, "printed": ["JVP  before 2 ms", "JVP  after  1 ms"]}],
}


def record(part, quick=False):
    return Record(
        part=part,
        quick=quick,
        created="2026-01-02T03:04:05+00:00",
        commit="abc",
        seconds=1.0,
        machine=MACHINE,
        settings={"k": 4, "rounds": 3},
        rows=ROWS[part],
    )


@pytest.mark.parametrize("count", [1, 3])
def test_records_come_back_as_they_were(tmp_path, count):
    written = [record(part) for part in list(ROWS)[:count]]
    write_records(written, tmp_path / "deep" / "r.json")
    assert read_records(tmp_path / "deep" / "r.json") == written


def test_numbers_without_a_word_in_json_become_null(tmp_path):
    rows = [{"kind": "check", "error": float("nan"), "worst": float("inf")}]
    broken = Record("gpu", False, "now", None, 1.0, MACHINE, {}, rows)
    write_records([broken], tmp_path / "r.json")
    assert read_records(tmp_path / "r.json")[0].rows[0] == {
        "kind": "check",
        "error": None,
        "worst": None,
    }


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"part": None}, {"rows": [{"case": "flat"}]}, {"more": 1}]
)
def test_what_is_no_record_is_refused(tmp_path, change):
    stored = {**record("safety").to_json(), **change}
    if change == {"part": None}:
        del stored["part"]
    (tmp_path / "r.json").write_text(json.dumps(stored))
    with pytest.raises(RecordError):
        read_records(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(RecordError, match="cannot be read"):
        read_records(tmp_path / "r.json")


def test_a_narrowed_run_replaces_what_it_measured_and_no_more():
    kept = record("safety")
    flat = {**ROWS["safety"][0], "outcome": "honest"}
    slope = {**flat, "case": "slope"}
    new = replace(kept, rows=[flat], created="2027-01-01T00:00:00+00:00")
    assert merge(kept, new).rows == [flat]
    assert merge(replace(kept, rows=[*kept.rows, slope]), new).rows == [slope, flat]
    assert merge(kept, new).created == new.created
    other = replace(new, machine={**MACHINE, "threads": 99}, rows=[slope])
    assert merge(kept, other).rows == [slope]


def test_problems_that_a_card_had_no_time_for_are_kept_with_their_commit():
    kept = record("gpu")
    old = [{**row, "commit": "abc"} for row in kept.rows]
    failed = {"kind": "failure", "problem": "p", "note": "no memory", "commit": "def"}
    again = {**old[2], "problem": "q", "commit": "def"}
    new = replace(kept, commit="def", rows=[*kept.rows[:2], again])
    both = merge(replace(kept, rows=old), new)
    assert [row for row in both.rows if row["kind"] == "time"] == [old[2], again]
    text = readme.gpu_section(both)
    assert "| `q` | jvpsvd |" in text
    assert "| `p` (abc) | jvpsvd |" in text
    assert "`p`, k = 5: 1.5 s with 8, 1.5 s with 32 vectors" in text
    after = merge(replace(kept, rows=[failed]), kept)
    assert [row["kind"] for row in after.rows if row.get("problem") == "p"] == ["time"]


def test_photos_together_on_a_card_are_tables():
    text = readme.gpu_section(record("gpu"))
    assert "| 4 | 1.5 | 30 | 16 | 7 | 250 ms | 0 ms | 0 ms | 0 ms | 500 ms |" in text
    assert "Photos solved together, `p`, k = 5, tol 0.0001" in text
    assert "| 4 | 10.00 ms | 8.00 ms | 1.00 ms | 6 | 90 |" in text
    assert "| jvp | 4 | 16 | 10.00 ms | 4.00 ms | 2.50 | right |" in text
    assert "- 4 projected problems of 600 rows: 50.0 ms each on the card, 20.0 ms by" in text


def test_records_of_another_machine_are_taken_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(Record, "file", lambda self: tmp_path / f"kept-{self.part}.json")
    file = tmp_path / "lent.json"
    for _ in range(2):
        write_records([record("gpu"), record("safety")], file)
        assert suite.main(["--store", str(file)]) == 0
    assert read_records(tmp_path / "kept-gpu.json") == [record("gpu")]
    assert read_records(tmp_path / "kept-safety.json") == [record("safety")]
    write_records([record("floors"), record("growth", quick=True)], file)
    assert suite.main(["--store", str(file)]) == 2
    assert "--quick; it is not kept" in capsys.readouterr().err
    assert not (tmp_path / "kept-floors.json").exists()
    file.write_text("{")
    assert suite.main(["--store", str(file)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_tree_without_its_history_is_given_its_commit(monkeypatch):
    monkeypatch.setenv("JVPSVD_COMMIT", "0123abc")
    assert find_commit() == "0123abc"
    monkeypatch.delenv("JVPSVD_COMMIT")
    assert find_commit() != "0123abc"


def test_solvers_that_were_given_up_are_not_called_honest():
    text = readme.peers_section(record("peers"))
    assert "| late | > 30 |" in text
    assert "| jvpsvd | 1.5 (1 to 2) · 1.50 |" in text


def test_errors_and_memory_stand_below_the_times():
    times, errors = readme.peers_section(record("peers")).split("<details>")
    assert "MiB" not in times
    assert "| jvpsvd | 2e-07 · no vectors · 3 MiB |" in errors
    assert "| late |  |" in errors


def test_a_line_of_each_problem_names_the_next_that_was_right():
    text = readme.BRIEF["peers"](record("peers"))
    assert text.endswith("Not run: away (no such module).")
    assert "| `p` | 30 x 20 | 4 | 1.5 (1 to 2) · 1.50 | > 20 x |  | none | other |" in text
    slow = {**SPREAD, "median": 3.0}
    right = {**SOLVED, "solver": "scipy-arpack", "outcome": "right", "seconds": slow}
    text = readme.BRIEF["peers"](replace(record("peers"), rows=[*ROWS["peers"], right]))
    assert "| scipy-arpack, 3: 2 x |  | 2 x | other |" in text


def test_many_problems_are_shown_in_several_tables():
    rows = [
        {**SOLVED, "solver": "jvpsvd", "outcome": "right", "problem": f"p{i}"} for i in range(7)
    ]
    text = readme.peers_section(replace(record("peers"), rows=rows))
    assert text.count("|  | `p") == 2 * 2  # times, and errors
    assert all(f"`p{i}`" in text for i in range(7))


def test_files_are_named_by_part_and_machine():
    assert record("peers").file().name == "peers-some-cpu-2-ghz-2-cores.json"
    assert slug({**MACHINE, "gpu": "NVIDIA H100"}) == "nvidia-h100"


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["versions"].keys() >= {"torch", "numpy", "scipy"}
    assert machine["memory_bytes"] > 2**28
    assert len(machine["load_at_start"]) == 3
    json.dumps(machine)


@pytest.mark.parametrize("part", FIGURES)
def test_every_part_of_rows_has_a_figure(tmp_path, part):
    FIGURES[part](record(part)).savefig(tmp_path / "f.png", dpi=40)
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_section(part):
    shown = record(part if part in ROWS else "allocator")
    text = readme.WRITERS[part](shown)
    assert f"`python -m benchmarks {shown.part}` on Some CPU" in text


def test_only_the_requested_parts_are_written(written):
    arguments, file = written
    assert readme.main([*arguments, "--only", "allocator"]) == 0
    text = file.read_text()
    assert "```text\nJVP  before 2 ms\nJVP  after  1 ms\n```" in text
    assert "benchmarks safety" not in text


@pytest.fixture
def written(tmp_path):
    write_records([record(part) for part in ROWS], tmp_path / "r.json")
    (tmp_path / "README.md").write_text(f"above\n{readme.BEGIN}\nold\n{readme.END}\nbelow\n")
    return [str(tmp_path / "r.json"), str(tmp_path / "README.md")], tmp_path / "README.md"


def test_the_section_is_written_once_and_checked(written, capsys):
    arguments, file = written
    assert readme.main([*arguments, "--check"]) == 1
    assert "not what the results say" in capsys.readouterr().err
    assert readme.main(arguments) == 0
    once = file.read_text()
    assert readme.main([*arguments, "--check"]) == 0
    assert readme.main(arguments) == 0
    assert file.read_text() == once
    assert once.startswith("above\n")
    assert once.endswith("\nbelow\n")
    assert "old" not in once
    assert "**silent**" in once
    assert "away (no such module)" in once
    file.write_text(once.replace("1.5", "0.1"))
    assert readme.main([*arguments, "--check"]) == 1


def test_readmes_without_markers_and_hasty_results_are_refused(tmp_path, written, capsys):
    arguments, file = written
    file.write_text("nothing")
    assert readme.main(arguments) == 2
    assert "needs one" in capsys.readouterr().err
    write_records([record("safety", quick=True)], tmp_path / "q.json")
    assert readme.main([str(tmp_path / "q.json"), arguments[1]]) == 2
    assert "--quick" in capsys.readouterr().err
