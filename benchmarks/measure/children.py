"""Measurements in child processes, which keep memory, threads and crashes apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.solvers.environment import ROOT, last_line


@dataclass(frozen=True)
class Ended:
    """What a child wrote, and why it failed, if it did."""

    rows: list[dict[str, Any]]
    failure: str | None


def run_child(
    module: str, options: dict[str, Any], *, limit: float, python: str | None = None
) -> Ended:
    """Run `python -m module` on one JSON object, and return the rows that it wrote.

    Args:
        module: A module whose `main` calls `serve`.
        options: The JSON object.
        limit: Seconds after which the child is killed.
        python: The interpreter; None: this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "options.json"), Path(folder, "answer.jsonl")
        question.write_text(json.dumps(options))
        command = [python or sys.executable, "-m", module, str(question), str(answer)]
        child = subprocess.Popen(  # noqa: S603 -- an interpreter of ours, a module of ours
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, errors = child.communicate(timeout=limit)
            failure = None if child.returncode == 0 else _find_failure(child.returncode, errors)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            failure = f"killed after {limit:.0f} s"
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise
        lines = answer.read_text().splitlines() if answer.exists() else []
        return Ended([json.loads(line) for line in lines], failure)


class Reply:
    """The file that a child answers in, row by row."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, row: dict[str, Any]) -> None:
        """Write one row."""
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def serve() -> tuple[dict[str, Any], Reply]:
    """Return the options of this child, and where it answers."""
    question, answer = map(Path, sys.argv[1:3])
    return json.loads(question.read_text()), Reply(answer)


def _find_failure(code: int, errors: str) -> str:
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{ended}: {last_line(errors)}"
