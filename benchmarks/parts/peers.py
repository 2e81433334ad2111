"""Every solver on every problem, to the same residual: the part "peers".

    python -m benchmarks peers [--quick] [--problem NAME] [--solver NAME] [-k 500] [--rounds 3]

Each solve runs in a process of its own, which shows its peak of memory; solvers take turns, round
by round. Wall time is that of the solve alone; the time that the operator takes to make (for ours,
to record) stands beside it.

All solvers have to reach one residual, tol · s₁, so that times are compared at one accuracy. A
solver that misses it (or misses a value) without complaint runs again with a tenth of the
tolerance, up to twice; each miss is kept under "attempts".

A solver is given up after `time_factor` times the seconds that ours took, or at the budget if that
is sooner: it is slower, then. SciPy's solvers on the hand-written operator have at least twelve
times, so that a factor of ten can be seen. A solver that takes more than five times our seconds
runs in the first round only, except SciPy's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure.children import run_child
from benchmarks.measure.judging import REACHED, allowed
from benchmarks.measure.spread import Spread
from benchmarks.problems.catalogue import NamedProblem, all_problems, find_problem, quick_problems
from benchmarks.solvers import BY_HAND, OURS, SOLVERS, Solver
from benchmarks.solvers.environment import find_interpreter, why_absent

TIGHTER_TOLERANCES = 2  # by tenths: 1e-6 is about what float32 gives
_SCIPY_ROUTE = (BY_HAND, "scipy-propack", "scipy-lobpcg")
_SCIPY_TIME_FACTOR = 12.0
_AGAIN = 5.0
_GRACE_SECONDS = 120.0
_LEAST_SECONDS = 20.0  # a process on a busy machine is allowed to be slow
_FIGURES = ("seconds", "setup_seconds", "product_seconds", "peak_bytes")
_LATEST = (
    "forward",
    "reverse",
    "value_error",
    "excess",
    "residual",
    "orthonormality",
    "said_converged",
    "note",
    "reference",
    "dtype",
    "version",
)


@dataclass(frozen=True)
class Settings:
    """What is compared, and how long a solver may take."""

    names: tuple[str, ...]
    solvers: tuple[str, ...] = tuple(SOLVERS)
    k: int = 500
    rounds: int = 3
    budget_seconds: float = 600.0
    time_factor: float = 15.0
    """How many times the seconds of jvpsvd others may take, where it ran before them."""
    most_entries: int = 1 << 28
    """Matrices with more entries are not materialised."""


QUICK = Settings(names=tuple(quick_problems()), k=10, rounds=1, budget_seconds=20.0)
FULL = Settings(
    names=tuple(
        name
        for name, one in all_problems().items()
        if one.kind == "network" or name.endswith(("n=1e4", "n=1e6")) or name == "1/i/n=1e7"
    )
)


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Return a row for each problem and solver."""
    reasons = {name: why_absent(SOLVERS[name]) for name in settings.solvers}
    rows: list[dict[str, Any]] = []
    for name in settings.names:
        rows += _compare_on(find_problem(name), settings, reasons)
    return rows


def _compare_on(
    named: NamedProblem, settings: Settings, reasons: dict[str, str | None]
) -> list[dict[str, Any]]:
    k = min(settings.k, min(named.shape[-2:]) - 1)
    about = {"problem": named.name, "shape": list(named.shape), "k": k, "tol": named.tol}
    ready = run_child(
        "benchmarks.parts.peers_child",
        {"problem": named.name, "solver": None, "k": k},
        limit=7200,
    )
    why = ready.failure or ready.rows[0].get("unavailable")
    if why:
        rows = [{**about, "solver": s, "outcome": "skipped", "note": why} for s in settings.solvers]
        for row in rows:
            _print_row(row)
        return rows
    turns: dict[str, Turns] = {}
    rows = []
    for name in settings.solvers:
        solver, absent = SOLVERS[name], reasons[name]
        if absent:
            rows.append({**about, "solver": name, "outcome": "absent", "note": absent})
        elif solver.materialises and _entries(named) > settings.most_entries:
            note = f"would materialise {_entries(named):.1e} entries"
            rows.append({**about, "solver": name, "outcome": "skipped", "note": note})
        else:
            turns[name] = Turns(solver, named, k, settings)
    ours: float | None = None
    for _ in range(settings.rounds):
        for name, turn in turns.items():
            if has_another_turn(name, turn.seconds, ours):
                turn.take(choose_budget(name, settings, ours))
            if name == OURS:
                ours = turn.seconds
    rows += [{**about, **turn.row()} for turn in turns.values()]
    refuting = [row["solver"] for row in rows if refutes(row)]
    for row in rows:
        row["refuted_by"] = refuting
    if refuting:
        print(f"{named.name}: the reference is REFUTED by {', '.join(refuting)}", flush=True)
    for row in rows:
        if row["outcome"] in ("absent", "skipped"):
            _print_row(row)
    return rows


def choose_budget(solver: str, settings: Settings, ours: float | None) -> float:
    """Return the seconds that a solver may take after ours took so many."""
    if ours is None or solver == OURS:
        return settings.budget_seconds
    least = _SCIPY_TIME_FACTOR if solver in _SCIPY_ROUTE else 0.0
    time_factor = max(settings.time_factor, least)
    return min(settings.budget_seconds, max(_LEAST_SECONDS, time_factor * ours))


def has_another_turn(solver: str, took: float | None, ours: float | None) -> bool:
    """Return whether a solver that took so many seconds runs again: much slower ones do not.

    >>> has_another_turn("primme", 4.0, 1.0), has_another_turn("primme", 6.0, 1.0)
    (True, False)
    """
    if took is None or ours is None or solver in (OURS, BY_HAND):
        return True
    return took <= _AGAIN * ours


def refutes(row: dict[str, Any]) -> bool:
    """Return whether an answer shows that a certified reference misses a value.

    If orthonormal triplets with small true residuals lie above the reference, such values exist.
    """
    if row.get("reference") != "certified" or row.get("residual") is None:
        return False
    limit = allowed(row["tol"], torch.float32)
    met = row["residual"] <= limit and row["orthonormality"] <= 1e-2
    return bool(met and row["excess"] > 2 * limit)


class Turns:
    """The rounds of one solver on one problem."""

    def __init__(self, solver: Solver, named: NamedProblem, k: int, settings: Settings) -> None:
        self._solver, self._named, self._k, self._settings = solver, named, k, settings
        self._own_tol = named.tol
        self._misses: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._over = False
        self._budget = settings.budget_seconds

    @property
    def seconds(self) -> float | None:
        """The seconds of the first turn, if it came to an end."""
        return self._found[0].get("seconds") if self._found else None

    def take(self, budget: float) -> None:
        """Take one turn; in the first one, tighten the tolerance until the residual is reached."""
        if self._over:
            return
        first = not self._found
        self._budget = budget
        found = at_tol = self._solve()
        while (
            first
            and self._solver.takes_tolerance
            and found["outcome"] == "silent"
            and len(self._misses) < TIGHTER_TOLERANCES
        ):
            kept = ("value_error", "residual", "said_converged", "seconds", "outcome")
            self._misses.append({"own_tol": self._own_tol} | {key: found.get(key) for key in kept})
            self._own_tol /= 10
            found = self._solve()
        if found["outcome"] not in REACHED:
            found, self._own_tol = at_tol, self._named.tol
        self._found.append(found)
        if len(self._found) == 1:
            _print_row({"problem": self._named.name, **self.row()})
        # A solver that is wrong, too slow or dead in the first round would only be so again.
        self._over = found["outcome"] not in REACHED

    def _solve(self) -> dict[str, Any]:
        options = {
            "problem": self._named.name,
            "solver": self._solver.name,
            "k": self._k,
            "tol": self._named.tol,
            "own_tol": self._own_tol,
            "budget": self._budget,
        }
        limit = 1.5 * self._budget + _GRACE_SECONDS
        ended = run_child(
            "benchmarks.parts.peers_child",
            options,
            limit=limit,
            python=find_interpreter(self._solver),
        )
        if ended.rows:
            return ended.rows[0]
        note = ended.failure or "no answer"
        return {"outcome": "honest" if note.startswith("killed") else "broken", "note": note}

    def row(self) -> dict[str, Any]:
        """Return medians and ranges of figures, and the latest of what does not vary."""
        worst = ("broken", "silent", "honest", "unable", "unsure", "right")
        last = min(self._found, key=lambda one: worst.index(one["outcome"]))
        spreads = {
            key: Spread.of([one[key] for one in self._found]).to_json()
            for key in _FIGURES
            if all(key in one for one in self._found)
        }
        return {
            "solver": self._solver.name,
            "outcome": last["outcome"],
            **spreads,
            **{key: last.get(key) for key in _LATEST},
            "own_tol": self._own_tol,
            "budget": self._budget,
            "attempts": self._misses,
        }


def _entries(named: NamedProblem) -> int:
    m, n = named.shape[-2:]  # matrices of a batch are solved one after another
    return m * n


def _print_row(row: dict[str, Any]) -> None:
    text = f"{row['problem']:28} {row['solver']:22} {row['outcome']:8}"
    if "seconds" in row:
        products = (row.get("forward") or 0) + (row.get("reverse") or 0)
        error = row.get("value_error")
        text += f" {Spread.from_json(row['seconds'])!s:>8} s {products:7} products"
        text += f"  error {error:.0e}" if error is not None else ""
    print(f"{text}  {(row['note'] or '')[:60]}", flush=True)


def choose_settings(
    names: Sequence[str], solvers: Sequence[str], quick: bool, **more: int
) -> Settings:
    """Return the settings of a command line, with defaults for what it leaves out."""
    base = QUICK if quick else FULL
    return Settings(
        names=tuple(names) or base.names,
        solvers=tuple(solvers) or base.solvers,
        k=more.get("k") or base.k,
        rounds=more.get("rounds") or base.rounds,
        budget_seconds=more.get("budget") or base.budget_seconds,
        time_factor=more.get("time_factor") or base.time_factor,
    )
