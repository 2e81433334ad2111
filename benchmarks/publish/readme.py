"""The performance section of a README, written from stored results only.

    python -m benchmarks readme RESULT.json ... README.md [--only PART] [--brief] [--check]

The text between the two markers is replaced:

    <!-- benchmarks: begin -->
    <!-- benchmarks: end -->

--brief gives each problem of the peers one line. --check writes nothing, and exits with 1 if the
section differs from the results. Records of --quick are refused, since their figures are no claims.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.spread import Spread
from benchmarks.publish.lock_step_tables import together_lines
from benchmarks.publish.peers_tables import peers_section, peers_summary
from benchmarks.publish.record import Record, RecordError, read_records
from benchmarks.publish.tables import MARKS, of_another_commit, origin, table

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


class MarkerError(ValueError):
    """The README does not have the two markers once each, in order."""


def section(records: Sequence[Record], *, brief: bool = False) -> str:
    """Return the markdown of all records, in the order of `WRITERS`."""
    writers = WRITERS | BRIEF if brief else WRITERS
    order = {part: position for position, part in enumerate(WRITERS)}
    records = sorted(records, key=lambda record: order.get(record.part, len(order)))
    return "\n\n".join(writers[r.part](r) for r in records if r.part in writers)


def floors_section(record: Record) -> str:
    """Return a table of wall times over their floor, by parts."""
    head = ["", "m x n", "k", "method", "wall", "floor", "wall / floor", "products / 2k"]
    head.append("one orthogonalisation at the peak")
    parts = list(record.rows[0]["parts"]) if record.rows else []
    shares = [f"time in {part}" for part in parts]
    body = [
        [
            f"`{row['problem']}`",
            " x ".join(map(str, row["shape"])),
            str(row["k"]),
            row["method"],
            f"{row['wall']:.3g} ({row['wall_range'][0]:.3g} to {row['wall_range'][1]:.3g}) s",
            f"{row['floor']:.3g} s",
            f"{row['wall'] / row['floor']:.2f}",
            f"{sum(row['products']) / (2 * row['k']):.2f}",
            f"{row['dense_floor']:.2g} s",
            *(f"{row['parts'][part] / row['wall']:.0%}" for part in parts),
        ]
        for row in record.rows
    ]
    # Each problem may have had a run of its own: take the best of all runs.
    gflops, gbs = (
        max((row[peak] for row in record.rows), default=0.0) for peak in ("gemm_gflops", "copy_gbs")
    )
    return "\n".join(
        [
            origin(record, "floors"),
            "",
            "Wall times are medians and ranges. The floor is k batched JVPs and VJPs at the best "
            "chunk; beside it the time of one pass of V'W and W − V V'W over the bases at the peak "
            "of matrix products; the last columns are shares of the wall time. Peaks here: "
            f"{gflops:.0f} GFLOP/s, {gbs:.0f} GB/s.",
            "",
            *table([*head, *shares], body),
        ]
    )


def growth_section(record: Record) -> str:
    """Return a table of exponents, each with the worst factor by which its law is off."""
    body = []
    for fitted in (row for row in record.rows if "fit" in row):
        rows = [r for r in record.rows if r["axis"] == fitted["axis"] and "seconds" in r]
        if not rows:
            continue
        fits = fitted["fit"]
        body.append(
            [
                fitted["axis"],
                fitted["about"],
                f"{rows[0]['x']} … {rows[-1]['x']} ({len(rows)} places)",
                f"{rows[0]['seconds']['median']:.3g} … {rows[-1]['seconds']['median']:.3g} s",
                _mebibytes(rows[0]["peak_bytes"], rows[-1]["peak_bytes"]),
                *(_exponent(fits.get(name), len(rows)) for name in ("seconds", "peak_bytes")),
            ]
        )
    head = ["", "of", "from … to", "wall", "memory", "exponent of wall", "of memory"]
    return "\n".join([origin(record, "growth"), "", *table(head, body)])


def _mebibytes(first: int, last: int) -> str:
    return f"{first / 2**20:.0f} … {last / 2**20:.0f} MiB" if first else "–"


def _exponent(fit: dict[str, float] | None, points: int) -> str:
    if fit is None:
        return "–"
    # A line through two points fits both.
    off = f" (x {fit['scatter']:.2f})" if points > 2 else ""
    return f"{fit['exponent']:.2f}{off}"


def safety_section(record: Record) -> str:
    """Return the table of outcomes, a line for each case."""
    cases = list(dict.fromkeys(row["case"] for row in record.rows))
    out = {row["solver"] for row in record.rows if row["outcome"] in ("absent", "unable")}
    solvers = [s for s in dict.fromkeys(r["solver"] for r in record.rows) if s not in out]
    cells = {(row["case"], row["solver"]): row["outcome"] for row in record.rows}
    about = {row["case"]: f"{row['case']}: {row['about']}" for row in record.rows if "about" in row}
    budget = record.settings.get("budget_seconds")
    late = {
        (row["case"], row["solver"])
        for row in record.rows
        if (row["note"] or "").startswith(("gave up", "killed"))
    }
    body = [
        [
            about.get(c, c),
            *(f"> {budget} s" if (c, s) in late else MARKS[cells[c, s]] for s in solvers),
        ]
        for c in cases
    ]
    caption = (
        f"The top {record.settings['k']} triplets of small hostile matrices. An answer is right if "
        "values, residuals and orthonormality are what was asked for; a wrong one is **silent** if "
        "no error, warning, flag or NaN tells its user."
    )
    return "\n".join([origin(record, "safety"), "", caption, "", *table(["", *solvers], body)])


def large_models_section(record: Record) -> str:
    """Return the section of "large_models": seconds, memory above the weights, products."""
    head = ["", "parameters", "making", "kept", "peak", "J v, J' u"]
    body = []
    for row in record.rows:
        if "making_seconds" in row:
            inference = row["inference_seconds"]
            size = f"{row['parameters'] / 1e6:.0f} M" if "parameters" in row else ""
            products = (f"{row[each] / inference:.2f}" for each in ("jvp_seconds", "vjp_seconds"))
            made = (
                f"{row['making_seconds']:.1f} s, {row['making_seconds'] / inference:.0f} inferences"
            )
            memory = (f"{row[each] / 2**20:.0f} MiB" for each in ("kept_bytes", "peak_bytes"))
            body.append([row["problem"], size, made, *memory, ", ".join(products)])
    solved = [_solved(row) for row in record.rows if "triplets" in row]
    return "\n".join([origin(record, record.part), "", *table(head, body), "", *solved])


def _solved(row: dict[str, Any]) -> str:
    return (
        f"{row['problem']}: {row['certified']} of {row['triplets']} triplets certified, "
        f"{row['products']} products in {row['solve_seconds']:.0f} s; σ1 = {row['s'][0]:.4g}, "
        f"σ{row['triplets']} = {row['s'][-1]:.4g}."
    )


def gpu_section(record: Record) -> str:
    """Return the checks on the card, a table of times, and one of a survey."""
    checks = [row for row in record.rows if row["kind"] == "check"]
    peaks = [row for row in record.rows if row["kind"] == "peaks"]
    surveyed = [row for row in record.rows if row["kind"] == "survey"]
    widths = [row for row in record.rows if row["kind"] == "width"]
    right = sum(bool(row["right"]) for row in checks)
    body = [
        [
            f"`{row['problem']}`{of_another_commit(row, record)}",
            row["solver"],
            "TF32" if row.get("tf32") else MARKS[row.get("outcome", "skipped")],
            _seconds(row["seconds"]["median"], row["note"]),
            f"{row['product_seconds']:.2g} s",
            f"{row['floor']:.2g} s" if row.get("floor") else "–",
            *(
                f"{row[error]:.0e}" if row.get(error) is not None else "–"
                for error in ("value_error", "residual")
            ),
            f"{row['peak_bytes'] / 2**30:.1f} GiB",
        ]
        for row in sorted(record.rows, key=lambda row: bool(of_another_commit(row, record)))
        if row["kind"] == "time"
    ]
    head = ["", "solver", "", "wall", "products", "floor"]
    head += ["worst value error / s1", "worst residual / s1", "peak"]
    caption = (
        f"{right} of {len(checks)} checks against float64 on the CPU and known values were right."
    )
    for row in peaks:
        caption += (
            f" Peaks of the card: {row['gemm_gflops'] / 1e3:.0f} TFLOP/s in float32, "
            f"{row['copy_gbs'] / 1e3:.1f} TB/s copied."
        )
    if any(row.get("tf32") for row in record.rows):
        caption += (
            " TF32: these took torch's own products, which use TF32 in convolutions unless told "
            "not to, in the chunks that suit a CPU: their answers belong to another matrix than "
            "the float32 one, and their times are no claim."
        )
    lines = [origin(record, "gpu"), "", caption, "", *table(head, body)]
    lines += together_lines(record.rows)
    for problem in dict.fromkeys(row["problem"] for row in widths):
        same = [row for row in widths if row["problem"] == problem]
        seconds = ", ".join(
            f"{row['seconds']['median']:.2g} s with {row['block_size']}" for row in same
        )
        name, k = problem.removeprefix("widths/"), same[0]["k"]
        lines += ["", f"Blocks of several widths, `{name}`, k = {k}: {seconds} vectors."]
    if surveyed:
        one = surveyed[0]
        lines += [
            "",
            f"A survey of {one['photos']} photos on it, k = {one['k']}, tol {one['tol']:g}; "
            "seconds of one photo, median and range:",
            "",
            *table(
                ["depth", "seconds a photo", "products", "photos with all triplets converged"],
                [
                    [
                        f"`{row['problem'].removeprefix('survey/')}`",
                        str(Spread.from_json(row["seconds"])),
                        str(row["products"]),
                        f"{row['converged_photos']} of {row['photos']}",
                    ]
                    for row in surveyed
                ],
            ),
        ]
    return "\n".join(lines)


def _seconds(seconds: float, note: str) -> str:
    return f"{'> ' if note.startswith('gave up') else ''}{seconds:.3g} s"


def script_section(record: Record) -> str:
    """Return the lines that a script printed."""
    printed = [line for row in record.rows for line in row["printed"]]
    return "\n".join([origin(record, record.part), "", "```text", *printed, "```"])


WRITERS: dict[str, Callable[[Record], str]] = {
    "peers": peers_section,
    "floors": floors_section,
    "growth": growth_section,
    "safety": safety_section,
    "gpu": gpu_section,
    "large_models": large_models_section,
    **dict.fromkeys(
        (
            *("allocator", "products", "solver", "survey", "batches", "together"),
            *("projected", "tall", "repeated_points", "tangent_kernel", "sparse", "page"),
            *("many_cores", "waiting", "widths", "first_result", "starts", "forecast"),
            *("choice", "small_networks"),
        ),
        script_section,
    ),
}
BRIEF: dict[str, Callable[[Record], str]] = {"peers": peers_summary}
"""The writers that --brief uses instead."""


def replace_section(readme: str, text: str) -> str:
    """Return the README with this text between its markers.

    Raises:
        MarkerError: If they are not there once each, in order.
    """
    if (
        readme.count(BEGIN) != 1
        or readme.count(END) != 1
        or readme.index(BEGIN) > readme.index(END)
    ):
        raise MarkerError(f"needs one {BEGIN} and, after it, one {END}")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks readme",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("readme", type=Path, metavar="README.md")
    parser.add_argument("--only", action="append", metavar="PART", help="leave other parts out")
    parser.add_argument("--brief", action="store_true", help="a line for each problem")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--allow-quick", action="store_true", help="for trying out")
    options = parser.parse_args(arguments)
    try:
        records = [record for file in options.results for record in read_records(file)]
        records = [
            record for record in records if options.only is None or record.part in options.only
        ]
        hasty = [record.part for record in records if record.quick]
        if hasty and not options.allow_quick:
            raise RecordError(f"{', '.join(hasty)}: measured with --quick, which is no claim")
        old = options.readme.read_text()
        new = replace_section(old, section(records, brief=options.brief))
    except (RecordError, MarkerError, OSError) as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 2
    if options.check:
        if new != old:
            print(f"{options.readme}: the section is not what the results say", file=sys.stderr)
        return int(new != old)
    options.readme.write_text(new)
    return 0
