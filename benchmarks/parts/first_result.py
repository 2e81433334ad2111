"""What commands take to answer, and a run from its start to its first row, by phases.

    python -m benchmarks first_result [--rounds 2] [-k 20] [--layers NAME,NAME] [--against TREE]

Each command runs in a process of its own, `jvpsvd run --limit 1` on the demo's photos. It ends when
the first row is stored (`first_result_child.py` says how phases are told apart). In every round it
takes turns with `python -c 'import torch'`, which nobody who computes can avoid, and with the same
commands of an older tree: a folder, or a commit of this repository. Seconds of the CPU are
compared, since those of the wall depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.solvers.environment import ROOT

_CHILD = Path(__file__).with_name("first_result_child.py")
_TORCH = "python -c 'import torch'"
_COMMANDS = {
    "jvpsvd --help": ["--help"],
    "jvpsvd --version": ["--version"],
    "jvpsvd run --status RUN": ["run", "--status", "RUN"],
    "completion of jvpsvd run --en": [],
}
_COMPLETING = {
    "COMP_WORDS": "jvpsvd run --en",
    "COMP_CWORD": "2",
    "_JVPSVD_COMPLETE": "bash_complete",
}
_SMALL = 0.05
"""Seconds of the CPU below which a phase is among the others."""


@dataclass(frozen=True)
class Took:
    """Seconds of one thing."""

    wall: float
    cpu: float


Round = dict[str, Took]
"""What each thing of one tree took in one round, by its name."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks first_result",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--layers", help="depths of the run; by default those of the demo")
    parser.add_argument("--against", metavar="TREE", help="a folder or a commit")
    options = parser.parse_args(arguments)
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    with _tree(options.against) as older, tempfile.TemporaryDirectory() as folder:
        trees = {"this tree": ROOT} | ({} if older is None else {options.against: older})
        found: dict[str, list[Round]] = {name: [] for name in trees}
        torch: list[Took] = []
        for index in range(options.rounds):
            torch.append(_call([sys.executable, "-c", "import torch"], os.environ))
            for name, tree in trees.items():
                out = Path(folder, f"{name.replace('/', '-')}-{index}")
                found[name].append(measure_tree(tree, out, options.k, options.layers))
                first = found[name][-1]["first row"]
                print(
                    f"  {name}: first row after {first.wall:.1f} s, {first.cpu:.1f} s of the CPU "
                    f"(load {os.getloadavg()[0]:.1f})",
                    flush=True,
                )
    medians = {name: _medians(rounds) for name, rounds in found.items()}
    medians = {name: {_TORCH: _median(torch), **one} for name, one in medians.items()}
    print_table(medians)
    return {name: {what: vars(took) for what, took in one.items()} for name, one in medians.items()}


def measure_tree(tree: Path, out: Path, k: int, layers: str | None) -> Round:
    """Return what each phase of a run takes to the first row, and what each command takes."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    wanted = ["run", "--limit", "1", "-k", str(k), "--out", str(out)]
    wanted += [] if layers is None else ["--layers", layers]
    answer = out.with_suffix(".json")
    command = [sys.executable, "-P", str(_CHILD), str(answer), str(time.perf_counter()), *wanted]
    _call(command, environment)
    stored = json.loads(answer.read_text())
    found = {
        name: Took(*each) for part in ("seconds", "marks") for name, each in stored[part].items()
    }
    for name, arguments in _COMMANDS.items():
        given = [str(out) if each == "RUN" else each for each in arguments]
        completing = {} if arguments else _COMPLETING
        found[name] = _call([sys.executable, "-m", "jvpsvd", *given], environment | completing)
    return found


def _call(command: Sequence[str], environment: Mapping[str, str]) -> Took:
    """Run a command, and return what it took."""
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 -- an interpreter of ours
        command,
        cwd=tempfile.gettempdir(),  # no tree lies there
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return Took(time.perf_counter() - began, used.ru_utime + used.ru_stime)


@contextmanager
def _tree(name: str | None) -> Iterator[Path | None]:
    """Yield the folder of a tree; a commit is unpacked, and None is left out."""
    if name is None or Path(name).is_dir():
        yield None if name is None else Path(name).resolve()
        return
    packed = subprocess.run(  # noqa: S603 -- a commit of this repository
        ["git", "archive", name],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        print(f"{name} is neither a folder nor a commit of this repository; it is left out")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _medians(rounds: Sequence[Round]) -> Round:
    """Return the median of each thing; what a round has not took nothing there."""
    names = dict.fromkeys(name for each in rounds for name in each)
    nothing = Took(0.0, 0.0)
    return {name: _median([each.get(name, nothing) for each in rounds]) for name in names}


def _median(each: Sequence[Took]) -> Took:
    return Took(median(one.wall for one in each), median(one.cpu for one in each))


def print_table(medians: Mapping[str, Round]) -> None:
    """Print seconds of the CPU and of the wall, as Markdown; phases that take little as one."""
    ours, *_ = medians.values()
    last = [_TORCH, *(name for name in ours if name.startswith("first ")), *_COMMANDS]
    names = dict.fromkeys(name for one in medians.values() for name in one if name not in last)
    phases = [n for n in names if any(n in o and o[n].cpu >= _SMALL for o in medians.values())]
    phases.sort(key=lambda name: -max(o[name].cpu for o in medians.values() if name in o))
    columns = [*medians, *(["ratio"] if _two(medians) else [])]
    print(f"\n| seconds of the CPU (of the wall) | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    for name in (*phases, "other phases", *last):
        cells = []
        for one in medians.values():
            others = [one[each] for each in names if each in one and each not in phases]
            took = one.get(name, Took(0.0, 0.0))
            if name == "other phases":
                took = Took(sum(o.wall for o in others), sum(o.cpu for o in others))
            cells.append(took)
        shown = [f"{took.cpu:.2f} ({took.wall:.2f})" for took in cells]
        if _two(medians):
            shown.append(f"{cells[0].cpu / cells[1].cpu:.2f}" if cells[1].cpu else "")
        print(f"| {name} | {' | '.join(shown)} |")


def _two(medians: Mapping[str, Round]) -> bool:
    return len(medians) == 2


if __name__ == "__main__":
    main()
