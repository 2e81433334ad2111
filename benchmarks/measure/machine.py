"""The machine that a benchmark ran on, as far as figures depend on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from threadpoolctl import threadpool_info

from benchmarks.solvers.environment import ROOT, installed_version

_LISTED = ("torch", "numpy", "scipy", "scikit-learn", "primme", "slepc4py", "cola-ml")
_ALSO_LISTED = ("curvlinops-for-pytorch", "matfree", "jax", "cupy-cuda12x", "cupy-cuda13x", "ray")


def describe_machine() -> dict[str, Any]:
    """Return the processor, memory, libraries and load of this moment, as JSON stores them."""
    return {
        "cpu": find_cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": find_versions((*_LISTED, *_ALSO_LISTED)),
        "blas": sorted({describe_blas(entry) for entry in threadpool_info()}),
        "torch_blas": _torch_blas(),
        "load_at_start": list(os.getloadavg()),
        "environment": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
    }


def find_cpu() -> str:
    """Return the processor's name, as the system gives it."""
    listing = Path("/proc/cpuinfo")
    named = (
        re.search(r"^model name\s*: (.*)$", listing.read_text(), re.M) if listing.exists() else None
    )
    return named[1] if named else platform.processor() or platform.machine()


def find_versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}


def describe_blas(entry: dict[str, Any]) -> str:
    """Return one library that threadpoolctl found, in words."""
    kernel = entry.get("architecture")
    built = f"{entry['internal_api']} {entry['version']}" + (f" ({kernel})" if kernel else "")
    return f"{built}, {entry['num_threads']} threads"


def slug(machine: dict[str, Any]) -> str:
    """Return a name for files: the GPU's where there is one, else the processor's.

    >>> slug({"gpu": None, "cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2})
    'intel-xeon-cpu-2.20ghz-2-cores'
    """
    name = machine["gpu"] or f"{machine['cpu']} {machine['cores']} cores"
    plain = re.sub(r"\((r|tm)\)|@", " ", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")


def find_commit() -> str | None:
    """Return the commit of this tree, with a + if it was changed since; None outside of git.

    $JVPSVD_COMMIT has it where the tree was copied without its history.
    """
    if given := os.environ.get("JVPSVD_COMMIT"):
        return given

    def git(*arguments: str) -> str | None:
        try:
            ran = subprocess.run(  # noqa: S603 -- fixed arguments
                ["git", *arguments],  # noqa: S607
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return ran.stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    if head is None:
        return None
    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "jvpsvd", "benchmarks/*.py"
    )
    return head + ("+" if changed else "")


def _torch_blas() -> str:
    for line in torch.__config__.show().splitlines():
        if "BLAS" in line or "MKL" in line:
            return line.strip(" -")
    return f"unknown (numpy {np.__version__}, scipy {scipy.__version__})"
