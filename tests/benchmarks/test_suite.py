import dataclasses
import doctest
import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as main
from benchmarks.measure.children import Ended, run_child
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.phases import PHASES, seconds_by_phase
from benchmarks.measure.spread import Spread, fit_power
from benchmarks.parts import gpu, growth, peers
from benchmarks.parts.table import PARTS, Options
from benchmarks.publish.record import Record, read_records
from benchmarks.solvers import SOLVERS, Solver
from benchmarks.solvers.environment import why_absent
from jvpsvd import MatrixOperator, svds


@given(
    exponent=st.floats(-2, 3),
    factor=st.floats(1e-3, 1e3),
    xs=st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True),
)
def test_exponents_are_recovered(exponent, factor, xs):
    power = fit_power(xs, [factor * x**exponent for x in xs])
    assert power.exponent == pytest.approx(exponent, abs=1e-6)
    assert power.scatter == pytest.approx(1, abs=1e-6)


def test_exponents_need_two_points_and_show_their_scatter():
    assert fit_power([3, 3], [1, 2]) is None
    assert fit_power([1, 2], [0, 0]) is None
    assert fit_power([1, 10, 100], [1, 20, 100]).scatter > 1.3


def test_growth_rows_hold_exponents_of_medians():
    axis = growth.Axis("n", (1, 10, 100), {}, "synthetic")
    found = {
        x: [{"seconds": f * x**1.5, "peak_bytes": 8 * x, "products": 3} for f in (1, 2, 3)]
        for x in axis.points
    }
    rows = growth.make_rows(axis, found, {})
    assert rows[0]["seconds"] == Spread(2.0, 1.0, 3.0, 3).to_json()
    assert rows[-1]["fit"]["seconds"]["exponent"] == pytest.approx(1.5)
    assert rows[-1]["fit"]["peak_bytes"]["exponent"] == pytest.approx(1.0)


def test_growth_tells_what_could_not_be_measured(capsys):
    axis = growth.Axis("n", (1, 2), {}, "synthetic")
    rows = growth.make_rows(axis, {1: [], 2: []}, {1: "no Ray", 2: "no Ray"})
    assert [row.get("note") for row in rows[:2]] == ["no Ray", "no Ray"]
    assert rows[-1]["fit"] == {}


def never(target, k, tol, budget):
    raise AssertionError("an absent solver was called")


def test_absent_peers_are_reported_as_absent(monkeypatch):
    missing = Solver("missing", never, requires=("no_such_module_at_all",))
    assert "no_such_module_at_all" in why_absent(missing)
    monkeypatch.setitem(SOLVERS, "missing", missing)
    settings = dataclasses.replace(
        peers.QUICK, names=("rank-deficient/n=1e3",), solvers=("missing", "jvpsvd"), k=3
    )
    rows = peers.measure(settings)
    (absent,) = (row for row in rows if row["solver"] == "missing")
    assert absent["outcome"] == "absent"
    assert not {"seconds", "forward", "value_error"} & absent.keys()
    (ours,) = (row for row in rows if row["solver"] == "jvpsvd")
    assert ours["outcome"] == "right"
    assert ours["reference"] == "exact"
    assert ours["seconds"]["rounds"] == 1


def test_a_missed_residual_runs_again_with_tighter_tolerances(monkeypatch):
    tolerances = []

    def run_child(module, question, *, limit, python):
        tolerances.append(question["own_tol"])
        outcome = "right" if question["own_tol"] <= 1.01e-6 else "silent"
        figures = dict.fromkeys(("seconds", "setup_seconds", "product_seconds", "peak_bytes"), 1.0)
        return Ended([{"outcome": outcome, **figures}], None)

    monkeypatch.setattr(peers, "run_child", run_child)
    settings = dataclasses.replace(peers.QUICK, rounds=2)
    turns = peers.Turns(SOLVERS["scipy-arpack"], peers.find_problem("perceptron"), 3, settings)
    turns.take(20.0)
    turns.take(20.0)
    row = turns.row()
    assert tolerances == pytest.approx([1e-4, 1e-5, 1e-6, 1e-6])
    assert row["outcome"] == "right"
    assert [miss["outcome"] for miss in row["attempts"]] == ["silent", "silent"]
    assert row["seconds"]["rounds"] == 2


def test_others_are_given_up_at_a_multiple_of_our_seconds(monkeypatch):
    budgets = {}

    def run_child(module, question, *, limit, python=None):
        if question["solver"] is None:
            return Ended([{"reference": "exact"}], None)
        budgets.setdefault(question["solver"], []).append(question["budget"])
        figures = dict.fromkeys(("seconds", "setup_seconds", "product_seconds", "peak_bytes"), 4.0)
        return Ended([{"outcome": "right", "forward": 1, "reverse": 1, **figures}], None)

    monkeypatch.setattr(peers, "run_child", run_child)
    settings = dataclasses.replace(
        peers.QUICK,
        names=("perceptron",),
        solvers=("jvpsvd", "scipy-arpack", "primme"),
        budget_seconds=100.0,
        time_factor=10.0,
    )
    monkeypatch.setattr(peers, "why_absent", lambda peer: None)
    peers.measure(settings)
    assert budgets == {"jvpsvd": [100.0], "scipy-arpack": [48.0], "primme": [40.0]}
    peers.measure(dataclasses.replace(settings, solvers=("scipy-arpack",)))
    assert budgets["scipy-arpack"] == [48.0, 100.0]


def test_who_is_far_slower_has_one_turn_but_for_scipys_default(monkeypatch):
    took = {"jvpsvd": 1.0, "scipy-arpack": 9.0, "scipy-propack": 4.0, "primme": 6.0}
    called = []

    def run_child(module, question, *, limit, python=None):
        solver = question["solver"]
        if solver is None:
            return Ended([{"reference": "exact"}], None)
        called.append(solver)
        figures = dict.fromkeys(("seconds", "setup_seconds", "product_seconds"), took[solver])
        return Ended([{"outcome": "right", "forward": 1, "reverse": 1, **figures}], None)

    monkeypatch.setattr(peers, "run_child", run_child)
    monkeypatch.setattr(peers, "why_absent", lambda peer: None)
    settings = dataclasses.replace(
        peers.QUICK, names=("perceptron",), solvers=tuple(took), rounds=3
    )
    rows = peers.measure(settings)
    turns = {"jvpsvd": 3, "scipy-arpack": 3, "scipy-propack": 3, "primme": 1}
    assert {solver: called.count(solver) for solver in took} == turns
    assert {row["solver"]: row["seconds"]["rounds"] for row in rows} == turns


def test_a_solver_that_misses_at_every_tolerance_is_shown_with_the_first(monkeypatch):
    def run_child(module, question, *, limit, python):
        return Ended([{"outcome": "silent", "value_error": question["own_tol"]}], None)

    monkeypatch.setattr(peers, "run_child", run_child)
    turns = peers.Turns(SOLVERS["primme"], peers.find_problem("perceptron"), 3, peers.QUICK)
    turns.take(20.0)
    turns.take(20.0)
    row = turns.row()
    assert (row["outcome"], row["own_tol"], row["value_error"]) == ("silent", 1e-4, 1e-4)
    assert len(row["attempts"]) == peers.TIGHTER_TOLERANCES


def test_children_that_die_and_children_that_hang_are_distinguished(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.children.ROOT", tmp_path)
    (tmp_path / "dying.py").write_text("import os; os.abort()")
    (tmp_path / "hanging.py").write_text("import time; time.sleep(60)")
    assert "SIGABRT" in run_child("dying", {}, limit=30).failure
    assert run_child("hanging", {}, limit=0.5).failure.startswith("killed")


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_phases_add_up_to_the_wall_time(method):
    result = svds(MatrixOperator(torch.eye(60, 50)), 5, method=method)
    parts = seconds_by_phase(result, 10.0)
    assert tuple(parts) == PHASES
    assert sum(parts.values()) == pytest.approx(10.0)
    assert parts["checks"] > 0


def test_without_a_card_the_gpu_part_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert list(gpu.measure(1.0, 5)) == []
    assert capsys.readouterr().out.count("\n") == 1


def test_unknown_parts_are_refused_in_one_line(capsys):
    assert main.main(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("no part nothing; there are peers")


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.pieces])
def test_a_long_part_is_stored_problem_by_problem(name):
    part, options = PARTS[name], Options()
    every = [piece.problems for piece in main.split(part, options)]
    assert len(every) == len(set(every)) > 3
    assert all(len(problems) == 1 for problems in every)
    some = dataclasses.replace(options, problems=("a", "b"))
    assert [piece.problems for piece in main.split(part, some)] == [("a",), ("b",)]
    quick = dataclasses.replace(options, quick=True)
    assert main.split(part, quick) == [quick]


def test_scripts_say_what_does_not_reach_them(capsys):
    options = Options(k=5)
    assert main.split(PARTS["tall"], options) == [options]
    assert "tall is a script" in capsys.readouterr().out


def test_what_was_stored_before_a_failure_stays(tmp_path, monkeypatch):
    """The second axis dies; the first is in the file."""
    rows = {"k": [{"axis": "k", "x": 1, "about": ""}]}

    def run(part, options, keep):
        (axis,) = options.problems
        if axis not in rows:
            return None
        machine = describe_machine()
        return Record(part.name, False, "now", "abc", 1.0, machine, {}, rows[axis])

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "ROOT", tmp_path)
    monkeypatch.setattr(Record, "file", lambda self: tmp_path / f"{self.part}.json")
    assert main.main(["growth", "--problem", "k", "--problem", "n"]) == 1
    assert read_records(tmp_path / "growth.json")[0].rows == rows["k"]


def test_a_larger_value_with_small_residuals_refutes_a_certified_reference():
    row = {"reference": "certified", "tol": 1e-4, "orthonormality": 1e-7}
    assert peers.refutes({**row, "residual": 1e-5, "excess": 0.1})
    assert not peers.refutes({**row, "residual": 0.1, "excess": 0.1})
    assert not peers.refutes({**row, "residual": 1e-5, "excess": 1e-5})
    assert not peers.refutes({**row, "reference": "exact", "residual": 1e-5, "excess": 0.1})


@pytest.mark.parametrize(
    "name",
    [
        *("problems.spectra", "problems.random_problems", "solvers.steps", "measure.machine"),
        *("measure.judging", "measure.spread", "measure.descendants", "parts.peers"),
    ],
)
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
