"""Measure jvpsvd beside what its users would pick instead, and look for its faults.

    python -m benchmarks [PART ...] [--quick] [--json FILE] [--list]
    python -m benchmarks COMMAND ...
    python -m benchmarks NAME --help

Each part runs in a process of its own. Its record goes to benchmarks/results/NAME-MACHINE.json
(`publish/record.py` says what is in it). --problem narrows a part down (problems of "peers" and
"floors", axes of "growth", cases of "safety"): these are then replaced in that file. Without it
they are measured one after another, each stored before the next begins. --json FILE writes all of
it there at the end, and nothing elsewhere; the rows of a single part are there as soon as they are
measured. With --quick, --solver or arguments of a part's own, which give no fair comparison,
nothing is written without it. --store FILE measures nothing: it takes over the records of such a
file, for example those of "gpu" on a lent machine. Everything, on two cores, takes most of a day.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
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

from benchmarks.measure.machine import describe_machine, find_commit
from benchmarks.parts.table import COMMANDS, PARTS, Options, Part
from benchmarks.publish.record import (
    Record,
    RecordError,
    merge,
    read_records,
    remove_nan,
    write_records,
)
from benchmarks.solvers.environment import ROOT

_SHORT_MINUTES = 5.0  # a run of the gpu part that ends before is no claim


def run(part: Part, options: Options, keep: Path | None = None) -> Record | None:
    """Run a part in a child of this process; None if it failed, which it has said itself.

    Args:
        part: What to run.
        options: What the command line says to it.
        keep: Where its record is written, row by row; None: nowhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "options.json"), keep or Path(folder, "record.json")
        question.write_text(json.dumps(asdict(options)))
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


def run_inside(name: str, options: Options, answer: Path) -> None:
    """Measure one part in this process, and write its record with every row that is there."""
    part = PARTS[name]
    machine, began, tree = describe_machine(), time.perf_counter(), find_commit()
    settings, found = part.measure(options)
    rows: list[dict[str, Any]] = []

    def write() -> None:
        record = Record(
            part=name,
            quick=options.quick,
            created=_now(),
            commit=tree,
            seconds=time.perf_counter() - began,
            machine=machine,
            settings=settings,
            rows=rows,
        )
        write_records([record], answer)

    for row in found:
        rows.append(remove_nan({**row, "commit": tree, "created": _now()}))
        write()
    write()


def make_parser() -> argparse.ArgumentParser:
    listing = [
        *("parts (measured, and stored)", *(f"  {p.name:16} {p.about}" for p in PARTS.values())),
        *("commands", *(f"  {c.name:16} {c.about}" for c in COMMANDS.values())),
    ]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("names", nargs="*", metavar="PART", help="all of them if none")
    parser.add_argument("-h", "--help", action="store_true", help="this text, or that of a part")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here instead")
    parser.add_argument("--store", type=Path, metavar="FILE", help="take these records over")
    parser.add_argument("--list", action="store_true", help="list parts, problems and solvers")
    parser.add_argument("--problem", action="append", default=[], metavar="NAME")
    parser.add_argument("--solver", action="append", default=[], metavar="NAME")
    parser.add_argument("-k", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=int, metavar="SECONDS", help="of one solve")
    parser.add_argument(
        "--time-factor", type=int, help="times our seconds that others may take [15]"
    )
    parser.add_argument("--minutes", type=float, help="that the gpu part may take [10]")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in COMMANDS:
        return COMMANDS[given[0]].run(given[1:])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given[:1] == ["--inside"]:
        question, answer, name = given[1:]
        run_inside(name, Options.from_json(json.loads(Path(question).read_text())), Path(answer))
        return 0
    parser = make_parser()
    parsed, own = parser.parse_known_args(given)
    unknown = [name for name in parsed.names if name not in PARTS]
    if unknown:
        names = ", ".join((*PARTS, *COMMANDS))
        print(f"no part {', '.join(unknown)}; there are {names}", file=sys.stderr)
        return 2
    names = parsed.names or list(PARTS)
    if parsed.help:
        return print_help(parser, parsed.names)
    if own and (len(names) > 1 or PARTS[names[0]].script is None):
        parser.error(f"unrecognized arguments: {' '.join(own)}")
    if parsed.list:
        print_list()
        return 0
    if parsed.store:
        return take_over(parsed.store)
    options = Options(
        quick=parsed.quick or (parsed.minutes or _SHORT_MINUTES) < _SHORT_MINUTES,
        problems=tuple(parsed.problem),
        solvers=tuple(parsed.solver),
        k=parsed.k,
        rounds=parsed.rounds,
        budget=parsed.budget,
        time_factor=parsed.time_factor,
        minutes=parsed.minutes,
        own=tuple(own),
    )
    return measure(names, options, parsed.json)


def measure(names: Sequence[str], options: Options, file: Path | None) -> int:
    """Measure parts one after another, and store what they find; 1 if one of them failed."""
    records: dict[str, Record] = {}
    stored = file is None and not (options.quick or options.solvers or options.own)
    failed = False
    for name in names:
        print(f"== {name}: {PARTS[name].about}", flush=True)
        pieces = split(PARTS[name], options)
        keep = file if len(names) == len(pieces) == 1 else None
        for piece in pieces:
            record = run(PARTS[name], piece, keep)
            failed |= record is None
            if record is None or not record.rows:
                continue
            records[name] = merge(records[name], record) if name in records else record
            if stored:
                store(record)
    if file and records:
        write_records(list(records.values()), file)
        print(f"written to {file}")
    return int(failed)


def split(part: Part, options: Options) -> list[Options]:
    """Return the options of each run of a part: one problem after another, if it has problems."""
    if part.script:
        given = {"--problem": options.problems, "-k": options.k, "--rounds": options.rounds}
        lost = [flag for flag, value in given.items() if value and flag not in part.script.takes]
        if lost:
            print(f"{part.name} is a script: {', '.join(lost)} mean nothing to it")
    if options.quick or part.pieces is None:
        return [options]
    return [replace(options, problems=(name,)) for name in options.problems or part.pieces()]


def store(record: Record) -> None:
    """Write a record into the file of its part and machine, in place of what it measured again."""
    file = record.file()
    kept = read_records(file) if file.exists() else []
    write_records([merge(kept[0], record) if kept else record], file)
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


def print_help(parser: argparse.ArgumentParser, names: Sequence[str]) -> int:
    """Print the help of one part, or of the suite."""
    if len(names) != 1:
        parser.print_help()
        return 0
    part = PARTS[names[0]]
    if part.script:
        part.script.measure(Options(own=("--help",)))  # argparse ends this process
    module = importlib.import_module(f"benchmarks.parts.{part.name}")
    print(f"{part.name}: {part.about}\n\n{module.__doc__}\n{parser.format_usage()}")
    return 0


def print_list() -> None:
    from benchmarks.problems.catalogue import all_problems, quick_problems
    from benchmarks.problems.hostile import CASES
    from benchmarks.solvers import SOLVERS
    from benchmarks.solvers.environment import why_absent

    print("parts")
    for part in PARTS.values():
        print(f"  {part.name:16} {part.about}")
    print("commands")
    for command in COMMANDS.values():
        print(f"  {command.name:16} {command.about}")
    print("problems")
    for one in {**all_problems(), **quick_problems()}.values():
        print(f"  {one.name:28} {' x '.join(map(str, one.shape))}")
    print("solvers")
    for solver in SOLVERS.values():
        absent = why_absent(solver)
        print(f"  {solver.name:22} {'absent: ' + absent if absent else 'there'}")
    print("hostile cases")
    for case in CASES.values():
        print(f"  {case.name:16} {case.about}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def start() -> int:
    """Run what the command line names; where the reader of a pipe goes, as head does, end quietly.

    Returns:
        The exit code: that of `main`, or 1 where the reader was gone.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python writes at its end has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(start())
