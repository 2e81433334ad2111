"""Where a solver is installed: its interpreter, its version, and why it is absent."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.solvers.protocol import Solver

ROOT = Path(__file__).parents[2]
_QUOTED = 400


def find_interpreter(solver: Solver) -> str:
    """Return the Python that has this solver: of its own environment, if there is one."""
    folder = os.environ.get("JVPSVD_PEERS")
    if folder and solver.environment:
        own = Path(folder) / solver.environment / "bin" / "python"
        if own.is_file():
            return str(own)
    return sys.executable


def why_absent(solver: Solver) -> str | None:
    """Return why a solver cannot run here; None if it can."""
    if solver.cuda_only:
        import torch

        if not torch.cuda.is_available():
            return "needs a CUDA GPU"
    if not solver.requires:
        return None
    imports = "; ".join(f"import {name}" for name in solver.requires)
    ran = subprocess.run(  # noqa: S603
        [find_interpreter(solver), "-c", imports], capture_output=True, text=True, cwd=ROOT
    )
    return None if ran.returncode == 0 else last_line(ran.stderr)


def installed_version(distribution: str | None) -> str | None:
    """Return the version of a package; None where it is not installed or there is none."""
    if distribution is None:
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def last_line(text: str) -> str:
    """Return the last line that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_QUOTED] if lines else "no message"
