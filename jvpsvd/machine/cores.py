"""How many cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jvpsvd.machine.cgroups import read_cgroup_limits


def affine_cores() -> int:
    """Return the number of cores that this process may run on.

    >>> affine_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def granted_cores(
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    affine: int | None = None,
) -> int:
    """Return how many threads of this process can work at the same time.

    That is the least of the cores that it may run on, of the time that its control groups allow,
    and of what Slurm gives to each task. A part of a core does not count, unless it is all.

    Args:
        environment: Holds SLURM_CPUS_PER_TASK in a job of Slurm that asks for it.
        root: Where `proc` and `sys` are.
        affine: The cores that this process may run on; None: `affine_cores()`.

    >>> granted_cores({"SLURM_CPUS_PER_TASK": "4"}, Path("/nowhere"), affine=64)
    4
    """
    found = [affine_cores() if affine is None else affine, read_cgroup_limits(root).cores]
    if (task := environment.get("SLURM_CPUS_PER_TASK", "")).isdecimal():
        found.append(int(task))
    return max(1, int(min(found)))
