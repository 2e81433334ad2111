"""Measure jvpsvd beside what its users would pick instead, and write down what was found.

    python -m benchmarks [NAME ...] [--quick] [--json FILE] [--list]

Each part runs in a process of its own. Its record goes to benchmarks/results/NAME-MACHINE.json
(`record.py` says what is in it). --problem narrows a part down (problems of "peers" and "floors",
axes of "growth", cases of "safety"): these are then replaced in that file. Without it they are
measured one after another, each stored before the next begins. --json FILE writes all of it there
at the end, and nothing elsewhere. With --quick or --solver, which give no fair comparison, nothing
is written without it. --store FILE measures nothing: it takes over the records of such a file, of
`benchmarks.parts.gpu` on a lent machine, say. Everything, on two cores, takes most of a day.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure.machine import ROOT, commit, described_machine
from benchmarks.parts.table import PARTS, Asked, Part
from benchmarks.publish.record import (
    Record,
    RecordError,
    merged,
    read_records,
    without_nan,
    write_records,
)


def run(part: Part, asked: Asked) -> Record | None:
    """Run a part in a child of this process; None if it failed, which it has said itself."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "asked.json"), Path(folder, "record.json")
        question.write_text(json.dumps(asdict(asked)))
        command = [sys.executable, "-m", "benchmarks", "--inside", str(question), str(answer)]
        child = subprocess.Popen([*command, part.name], cwd=ROOT)  # noqa: S603
        try:
            code = child.wait()
        except BaseException:
            child.terminate()  # it ends its own children in turn
            child.wait()
            raise
        if code or not answer.exists():
            print(f"{part.name}: failed, exit {code}", file=sys.stderr)
            return None
        return read_records(answer)[0]


def inside(name: str, asked: Asked, answer: Path) -> None:
    """Measure one part here, and write its record."""
    part = PARTS[name]
    machine, began = described_machine(), time.perf_counter()
    settings, rows = part.measure(asked) if part.measure else of_script(part, asked.quick)
    created, tree = datetime.now(UTC).isoformat(timespec="seconds"), commit()
    record = Record(
        part=name,
        quick=asked.quick,
        created=created,
        commit=tree,
        seconds=time.perf_counter() - began,
        machine=machine,
        settings=settings,
        rows=[without_nan({**row, "commit": tree, "created": created}) for row in rows],
    )
    write_records([record], answer)


def of_script(part: Part, quick: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run an older script, which prints; what it writes as JSON is the only row."""
    arguments = list(part.quick_arguments) if quick else []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        written = ["--json", str(file)] if part.writes_json else []
        command = [sys.executable, "-m", f"benchmarks.parts.{part.name}", *arguments, *written]
        ran = subprocess.run(  # noqa: S603 -- a module of ours
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        print(ran.stdout, end="")
        report = json.loads(file.read_text()) if file.exists() else {}
    return {"arguments": arguments}, [{"report": report, "printed": ran.stdout.splitlines()}]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given[:1] == ["--inside"]:
        question, answer, name = given[1:]
        stored = json.loads(Path(question).read_text())
        lists = {key: tuple(stored[key]) for key in ("problems", "solvers")}
        inside(name, Asked(**{**stored, **lists}), Path(answer))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts; all of them if none")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here instead")
    parser.add_argument("--store", type=Path, metavar="FILE", help="take these records over")
    parser.add_argument("--list", action="store_true", help="list parts, problems and solvers")
    parser.add_argument("--problem", action="append", default=[], metavar="NAME")
    parser.add_argument("--solver", action="append", default=[], metavar="NAME")
    parser.add_argument("-k", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=int, metavar="SECONDS", help="of one solve")
    parser.add_argument("--patience", type=int, help="times our seconds that others may take [15]")
    options = parser.parse_args(given)
    if options.list:
        listed()
        return 0
    if options.store:
        return take_over(options.store)
    unknown = [name for name in options.names if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    asked = Asked(
        options.quick,
        tuple(options.problem),
        tuple(options.solver),
        options.k,
        options.rounds,
        options.budget,
        options.patience,
    )
    records: dict[str, Record] = {}
    stored = options.json is None and not options.quick and not options.solver
    failed = False
    for name in options.names or list(PARTS):
        print(f"== {name}: {PARTS[name].about}", flush=True)
        for piece in in_pieces(PARTS[name], asked):
            record = run(PARTS[name], piece)
            failed |= record is None
            if record is None or not record.rows:
                continue
            records[name] = merged(records[name], record) if name in records else record
            if stored:
                store(record)
    if options.json and records:
        write_records(list(records.values()), options.json)
        print(f"written to {options.json}")
    return int(failed)


def in_pieces(part: Part, asked: Asked) -> list[Asked]:
    """Return what is asked of a part, one problem after another; all of it if it has none."""
    if part.measure is None and (asked.problems or asked.k or asked.rounds):
        print(f"{part.name} is a script: --problem, -k and --rounds mean nothing to it")
    if asked.quick or part.pieces is None:
        return [asked]
    return [replace(asked, problems=(name,)) for name in asked.problems or part.pieces()]


def store(record: Record) -> None:
    """Write a record into the file of its part and machine, in place of what it measured again."""
    file = record.file()
    kept = read_records(file) if file.exists() else []
    write_records([merged(kept[0], record) if kept else record], file)
    print(f"written to {file.relative_to(ROOT)}", flush=True)


def take_over(file: Path) -> int:
    """Put the records of a file among those that are kept; sizes of --quick are no claims."""
    try:
        records = read_records(file)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 2
    if any(record.quick for record in records):
        print(f"{file} was measured with the sizes of --quick; it is not kept", file=sys.stderr)
        return 2
    for record in records:
        store(record)
    return 0


def listed() -> None:
    from benchmarks.measure.children import why_absent
    from benchmarks.problems.catalogue import problems, quick_problems
    from benchmarks.problems.hostile import CASES
    from benchmarks.solvers import PEERS

    print("parts")
    for part in PARTS.values():
        print(f"  {part.name:12} {part.about}")
    print("problems")
    for one in {**problems(), **quick_problems()}.values():
        print(f"  {one.name:28} {' x '.join(map(str, one.shape))}")
    print("solvers")
    for peer in PEERS.values():
        absent = why_absent(peer)
        print(f"  {peer.name:22} {'absent: ' + absent if absent else 'there'}")
    print("hostile cases")
    for case in CASES.values():
        print(f"  {case.name:16} {case.about}")


if __name__ == "__main__":
    sys.exit(main())
