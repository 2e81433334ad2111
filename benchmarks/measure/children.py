"""Measurements in processes of their own, so that memory, threads and crashes are their own."""

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

from benchmarks.solvers.protocol import Peer

ROOT = Path(__file__).parents[2]
_QUOTED = 400


@dataclass(frozen=True)
class Ended:
    """How a child ended: with lines of JSON, and in the end a reason if it did not end well."""

    rows: list[dict[str, Any]]
    failure: str | None


def run_child(
    module: str, asked: dict[str, Any], *, limit: float, python: str | None = None
) -> Ended:
    """Run `python -m module` on one JSON object, and return the rows that it wrote.

    Args:
        module: Whose `main` calls `serve`.
        asked: What it is asked.
        limit: Seconds after which it is killed.
        python: The interpreter; None: this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "asked.json"), Path(folder, "answer.jsonl")
        question.write_text(json.dumps(asked))
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
            _, told = child.communicate(timeout=limit)
            failure = None if child.returncode == 0 else _why(child.returncode, told)
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
    """The child's side: rows are written as soon as they are there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, row: dict[str, Any]) -> None:
        """Write one row."""
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def serve() -> tuple[dict[str, Any], Reply]:
    """Return what this child was asked, and where it answers."""
    question, answer = map(Path, sys.argv[1:3])
    return json.loads(question.read_text()), Reply(answer)


def interpreter(peer: Peer) -> str:
    """Return the Python that has this peer: of its own environment, if there is one."""
    folder = os.environ.get("JVPSVD_PEERS")
    if folder and peer.environment:
        own = Path(folder) / peer.environment / "bin" / "python"
        if own.is_file():
            return str(own)
    return sys.executable


def why_absent(peer: Peer, python: str | None = None) -> str | None:
    """Return why a peer cannot be run here; None if it can."""
    if peer.cuda_only:
        import torch

        if not torch.cuda.is_available():
            return "needs a CUDA GPU"
    if not peer.requires:
        return None
    imports = "; ".join(f"import {name}" for name in peer.requires)
    ran = subprocess.run(  # noqa: S603
        [python or interpreter(peer), "-c", imports], capture_output=True, text=True, cwd=ROOT
    )
    return None if ran.returncode == 0 else _last_line(ran.stderr)


def reset_peak() -> int:
    """Forget this process's peak of resident memory, and return what it holds now, in bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the peak of resident memory since `reset_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _why(code: int, told: str) -> str:
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{ended}: {_last_line(told)}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_QUOTED] if lines else "no message"
