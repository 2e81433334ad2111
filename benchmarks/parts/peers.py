"""Every solver on every problem, to the same residual: the part "peers".

    python -m benchmarks peers [--quick] [--problem NAME] [--solver NAME] [-k 500] [--rounds 3]

Each solve runs in a process of its own, which gives its peak of memory; solvers take turns, round
by round. Wall time is the solve's alone; making the operator (recording, for ours) is beside it.
All solvers have one residual to reach, tol · s₁. A solver whose answer misses it (or its values)
without complaint is asked again with a tenth of the tolerance, up to twice, so that what is
compared is the price of one accuracy; each miss is kept under "attempts". Others are given up at
`patience` times what ours took, if that is less than the budget: then they are known to be slower.
SciPy's on the hand-written operator have at least twelve times, for factors of ten to be seen.
Whoever takes more than five times our seconds has its turn once, but for SciPy's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure.children import interpreter, run_child, why_absent
from benchmarks.measure.judging import REACHED, allowed
from benchmarks.measure.spread import Spread
from benchmarks.problems.catalogue import Problem, problem, problems, quick_problems
from benchmarks.solvers import BY_HAND, OURS, PEERS, Peer

_RUNGS = 2  # 1e-6 is about what float32 gives
_SCIPY_ROUTE = (BY_HAND, "scipy-propack", "scipy-lobpcg")
_SCIPY_PATIENCE = 12.0
_AGAIN = 5.0
_GRACE_SECONDS = 120.0
_LEAST_SECONDS = 20.0  # of patience: a process on a busy machine is allowed to be slow
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
    """What is compared, and how long anyone may take."""

    names: tuple[str, ...]
    solvers: tuple[str, ...] = tuple(PEERS)
    k: int = 500
    rounds: int = 3
    budget_seconds: float = 600.0
    patience: float = 15.0
    """Times the seconds of jvpsvd, where it took its turn."""
    most_entries: int = 1 << 28
    """Matrices of more are not materialised."""


QUICK = Settings(names=tuple(quick_problems()), k=10, rounds=1, budget_seconds=20.0)
FULL = Settings(
    names=tuple(
        name
        for name, one in problems().items()
        if one.kind == "network" or name.endswith(("n=1e4", "n=1e6")) or name == "1/i/n=1e7"
    )
)


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Return a row of each problem and solver."""
    reasons = {name: why_absent(PEERS[name]) for name in settings.solvers}
    rows: list[dict[str, Any]] = []
    for name in settings.names:
        rows += _of_problem(problem(name), settings, reasons)
    return rows


def _of_problem(
    setting: Problem, settings: Settings, reasons: dict[str, str | None]
) -> list[dict[str, Any]]:
    k = min(settings.k, min(setting.shape[-2:]) - 1)
    about = {"problem": setting.name, "shape": list(setting.shape), "k": k, "tol": setting.tol}
    ready = run_child(
        "benchmarks.parts.peers_child",
        {"problem": setting.name, "solver": None, "k": k},
        limit=7200,
    )
    why = ready.failure or ready.rows[0].get("unavailable")
    if why:
        rows = [{**about, "solver": s, "outcome": "skipped", "note": why} for s in settings.solvers]
        for row in rows:
            _say(row)
        return rows
    turns: dict[str, _Turns] = {}
    rows = []
    for solver in settings.solvers:
        peer, absent = PEERS[solver], reasons[solver]
        if absent:
            rows.append({**about, "solver": solver, "outcome": "absent", "note": absent})
        elif peer.materialises and _entries(setting) > settings.most_entries:
            note = f"would materialise {_entries(setting):.1e} entries"
            rows.append({**about, "solver": solver, "outcome": "skipped", "note": note})
        else:
            turns[solver] = _Turns(peer, setting, k, settings)
    ours: float | None = None
    for _ in range(settings.rounds):
        for solver, turn in turns.items():
            if is_asked_again(solver, turn.seconds, ours):
                turn.take(budget_of(solver, settings, ours))
            if solver == OURS:
                ours = turn.seconds
    rows += [{**about, **turn.row()} for turn in turns.values()]
    refuting = [row["solver"] for row in rows if refutes(row)]
    for row in rows:
        row["refuted_by"] = refuting
    if refuting:
        print(f"{setting.name}: the reference is REFUTED by {', '.join(refuting)}", flush=True)
    for row in rows:
        if row["outcome"] in ("absent", "skipped"):
            _say(row)
    return rows


def budget_of(solver: str, settings: Settings, ours: float | None) -> float:
    """Return the seconds that a solver may take, given what ours took."""
    if ours is None or solver == OURS:
        return settings.budget_seconds
    least = _SCIPY_PATIENCE if solver in _SCIPY_ROUTE else 0.0
    patience = max(settings.patience, least)
    return min(settings.budget_seconds, max(_LEAST_SECONDS, patience * ours))


def is_asked_again(solver: str, took: float | None, ours: float | None) -> bool:
    """Return whether a solver that took so long has another turn: the far slower have one.

    >>> is_asked_again("primme", 4.0, 1.0), is_asked_again("primme", 6.0, 1.0)
    (True, False)
    """
    if took is None or ours is None or solver in (OURS, BY_HAND):
        return True
    return took <= _AGAIN * ours


def refutes(row: dict[str, Any]) -> bool:
    """Return whether an answer shows that a certified reference misses a value.

    Orthonormal triplets with small true residuals that lie above the reference: such values exist.
    """
    if row.get("reference") != "certified" or row.get("residual") is None:
        return False
    limit = allowed(row["tol"], torch.float32)
    near = row["residual"] <= limit and row["orthonormality"] <= 1e-2
    return bool(near and row["excess"] > 2 * limit)


class _Turns:
    """The rounds of one solver on one problem."""

    def __init__(self, peer: Peer, setting: Problem, k: int, settings: Settings) -> None:
        self._peer, self._setting, self._k, self._settings = peer, setting, k, settings
        self._own_tol = setting.tol
        self._misses: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._over = False
        self._budget = settings.budget_seconds

    @property
    def seconds(self) -> float | None:
        """Seconds of the first turn, if it was to the end."""
        return self._found[0].get("seconds") if self._found else None

    def take(self, budget: float) -> None:
        """Take one turn; in the first one, tighten the tolerance until the residual is reached."""
        if self._over:
            return
        first = not self._found
        self._budget = budget
        found = as_asked = self._solved()
        while (
            first
            and self._peer.ladder
            and found["outcome"] == "silent"
            and len(self._misses) < _RUNGS
        ):
            kept = ("value_error", "residual", "said_converged", "seconds", "outcome")
            self._misses.append({"own_tol": self._own_tol} | {key: found.get(key) for key in kept})
            self._own_tol /= 10
            found = self._solved()
        if found["outcome"] not in REACHED:
            found, self._own_tol = as_asked, self._setting.tol
        self._found.append(found)
        if len(self._found) == 1:
            _say({"problem": self._setting.name, **self.row()})
        # What is wrong, too slow or dead in the first round would only be so again.
        self._over = found["outcome"] not in REACHED

    def _solved(self) -> dict[str, Any]:
        asked = {
            "problem": self._setting.name,
            "solver": self._peer.name,
            "k": self._k,
            "tol": self._setting.tol,
            "own_tol": self._own_tol,
            "budget": self._budget,
        }
        limit = 1.5 * self._budget + _GRACE_SECONDS
        ended = run_child(
            "benchmarks.parts.peers_child", asked, limit=limit, python=interpreter(self._peer)
        )
        if ended.rows:
            return ended.rows[0]
        note = ended.failure or "no answer"
        return {"outcome": "honest" if note.startswith("killed") else "broken", "note": note}

    def row(self) -> dict[str, Any]:
        """Return medians and ranges, and the latest of what does not vary."""
        worst = ("broken", "silent", "honest", "unable", "unsure", "right")
        last = min(self._found, key=lambda one: worst.index(one["outcome"]))
        spreads = {
            key: Spread.of([one[key] for one in self._found]).to_json()
            for key in _FIGURES
            if all(key in one for one in self._found)
        }
        return {
            "solver": self._peer.name,
            "outcome": last["outcome"],
            **spreads,
            **{key: last.get(key) for key in _LATEST},
            "own_tol": self._own_tol,
            "budget": self._budget,
            "attempts": self._misses,
        }


def _entries(setting: Problem) -> int:
    m, n = setting.shape[-2:]  # of a batch, one matrix after another
    return m * n


def _say(row: dict[str, Any]) -> None:
    text = f"{row['problem']:28} {row['solver']:22} {row['outcome']:8}"
    if "seconds" in row:
        spent = (row.get("forward") or 0) + (row.get("reverse") or 0)
        error = row.get("value_error")
        text += f" {Spread.from_json(row['seconds'])!s:>8} s {spent:7} products"
        text += f"  error {error:.0e}" if error is not None else ""
    print(f"{text}  {(row['note'] or '')[:60]}", flush=True)


def settings_of(names: Sequence[str], solvers: Sequence[str], quick: bool, **more: int) -> Settings:
    """Return the settings of a command line, what it leaves out as planned."""
    base = QUICK if quick else FULL
    return Settings(
        names=tuple(names) or base.names,
        solvers=tuple(solvers) or base.solvers,
        k=more.get("k") or base.k,
        rounds=more.get("rounds") or base.rounds,
        budget_seconds=more.get("budget") or base.budget_seconds,
        patience=more.get("patience") or base.patience,
    )
