"""Tables of the peers part: all solvers, or one line for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure.judging import REACHED
from benchmarks.measure.spread import Spread
from benchmarks.publish.record import Record
from benchmarks.publish.tables import MARKS, origin, table
from benchmarks.solvers import BY_HAND, OURS

_IN_A_TABLE = 6
_INSTANT = 0.01

Row = dict[str, Any]


def peers_section(record: Record) -> str:
    """Return tables of times for each k: a line per solver, a column per problem."""
    lines = [origin(record, "peers")]
    for k in sorted({row["k"] for row in record.rows}):
        rows = [row for row in record.rows if row["k"] == k]
        lines += [
            "",
            f"Seconds to k = {k} triplets with the same residual, their median and range over the "
            "rounds (one where there is no range) · products as a multiple of 2k; > where a solver "
            "was given up, *cannot* where it is not made for such a problem, *too big* where "
            "all entries of the matrix would not fit:",
        ]
        problems = list(dict.fromkeys(row["problem"] for row in rows))
        for start in range(0, len(problems), _IN_A_TABLE):
            names = problems[start : start + _IN_A_TABLE]
            some = [row for row in rows if row["problem"] in names]
            lines += ["", *_table_of(some, names), "", *_errors_of(some, names)]
    if absent := _absent(record):
        lines += ["", absent]
    return "\n".join(lines)


def in_order(rows: Sequence[Row]) -> list[str]:
    """Return the solvers that are not absent, ours first."""
    solvers = list(dict.fromkeys(row["solver"] for row in rows if row["outcome"] != "absent"))
    return sorted(solvers, key=lambda solver: not solver.startswith(OURS))


def _table_of(rows: Sequence[Row], problems: Sequence[str]) -> list[str]:
    solvers = in_order(rows)
    cells = {(row["solver"], row["problem"]): row for row in rows}
    made = (("ours", OURS), ("by hand", BY_HAND))
    return table(
        ["", *(f"`{name}`" for name in problems)],
        [[s, *(_time(cells.get((s, p))) for p in problems)] for s in solvers]
        + [
            [f"*making the operator, {whose}*", *(_set_up(cells.get((s, p))) for p in problems)]
            for whose, s in made
        ],
    )


def _errors_of(rows: Sequence[Row], problems: Sequence[str]) -> list[str]:
    """Return a folded table of worst errors, and of the memory that solves took."""
    solvers = in_order(rows)
    cells = {(row["solver"], row["problem"]): row for row in rows}
    return [
        "<details><summary>The same solves: worst error of a value and worst residual, in units of "
        "s1 · resident memory that the solve added</summary>",
        "",
        *table(
            ["", *(f"`{name}`" for name in problems)],
            [[s, *(_error(cells.get((s, p))) for p in problems)] for s in solvers],
        ),
        "",
        "</details>",
    ]


def _error(row: Row | None) -> str:
    if row is None or row.get("value_error") is None:
        return ""
    residual = row.get("residual")
    parts = [f"{row['value_error']:.0e}", "no vectors" if residual is None else f"{residual:.0e}"]
    if row.get("peak_bytes"):
        parts.append(f"{row['peak_bytes']['median'] / 2**20:.0f} MiB")
    return " · ".join(parts)


def peers_summary(record: Record) -> str:
    """Return one table: for each problem ours, the next that was right, SciPy, and the silent."""
    solved = dict.fromkeys((row["k"], row["problem"]) for row in record.rows)
    body = []
    for k, problem in sorted(solved, key=lambda one: -one[0]):
        rows = [row for row in record.rows if (row["k"], row["problem"]) == (k, problem)]
        ours = next((row for row in rows if row["solver"] == OURS), None)
        if ours is None:
            continue
        seconds = ours["seconds"]["median"] if ours["outcome"] in REACHED else None
        wrong = [row["solver"] for row in rows if row["outcome"] == "silent"]
        best = _fastest(rows)
        body.append(
            [
                f"`{problem}`",
                " x ".join(map(str, ours["shape"])),
                str(k),
                _time(ours),
                _next(best, rows, seconds) if seconds else "",
                ", ".join(filter(None, (_set_up(ours), _set_up(best)))),
                _scipy(rows, seconds) if seconds else "",
                ", ".join(wrong) or "none",
            ]
        )
    head = [
        *("", "m x n", "k", "jvpsvd", "next that was right", "*made in*", "SciPy's default"),
        "silently wrong",
    ]
    caption = (
        "Seconds to k triplets with the same residual, their median and range over the rounds · "
        "products as a multiple of 2k. Beside it the fastest of the others that was right, the "
        "seconds in which both operators were made before, and SciPy's default, ARPACK, on a "
        "linearized operator written by hand, as a multiple of ours; > where nobody was right in "
        "that time. Without a range there was one round. All solvers: benchmarks/README.md."
    )
    lines = [origin(record, "peers"), "", caption, "", *table(head, body)]
    if absent := _absent(record):
        lines += ["", absent]
    return "\n".join(lines)


def _fastest(rows: Sequence[Row]) -> Row | None:
    """Return the fastest of the others that reached the residual."""
    right = [
        row for row in rows if row["outcome"] in REACHED and not row["solver"].startswith(OURS)
    ]
    return min(right, key=lambda row: row["seconds"]["median"], default=None)


def _next(best: Row | None, rows: Sequence[Row], ours: float) -> str:
    if best is None:
        return _given_up_after(rows, ours)
    seconds = best["seconds"]["median"]
    return f"{best['solver']}, {seconds:.3g}: {seconds / ours:.2g} x"


def _scipy(rows: Sequence[Row], ours: float) -> str:
    by_hand = [row for row in rows if row["solver"] == BY_HAND]
    right = [row["seconds"]["median"] for row in by_hand if row["outcome"] in REACHED]
    return f"{right[0] / ours:.2g} x" if right else _given_up_after(by_hand, ours)


def _given_up_after(rows: Sequence[Row], ours: float) -> str:
    """Return after how many times our seconds the first solver was given up, if one was."""
    others = [row for row in rows if not row["solver"].startswith(OURS)]
    given_up = [row["budget"] for row in others if _was_given_up(row)]
    return f"> {min(given_up) / ours:.2g} x" if given_up else "none"


def _absent(record: Record) -> str:
    absent = {row["solver"]: row["note"] for row in record.rows if row["outcome"] == "absent"}
    names = "; ".join(f"{name} ({why})" for name, why in absent.items())
    return f"Not run: {names}." if names else ""


def _was_given_up(row: Row) -> bool:
    return row["outcome"] == "honest" and (row["note"] or "").startswith(("gave up", "killed"))


def _set_up(row: Row | None) -> str:
    setup = (row or {}).get("setup_seconds")
    if not setup:
        return ""
    return f"*{setup['median']:.2g}*" if setup["median"] >= _INSTANT else "*0*"


def _time(row: Row | None) -> str:
    if row is None:
        return ""
    if _was_given_up(row):
        return f"> {row['budget']:.3g}"
    if "seconds" not in row or row["outcome"] not in (*REACHED, "silent"):
        return MARKS[row["outcome"]]
    count = row["shape"][0] if len(row["shape"]) == 3 else 1
    share = (row["forward"] + row["reverse"]) / (2 * row["k"] * count)
    mark = "" if row["outcome"] == "right" else f", {MARKS[row['outcome']]}"
    return f"{Spread.from_json(row['seconds'])} · {share:.2f}{mark}"
