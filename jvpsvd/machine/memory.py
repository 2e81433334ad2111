"""How much memory this process may use."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from jvpsvd.machine.cgroups import read_cgroup_limits

_SLURM_UNITS = {"K": 1 << 10, "M": 1 << 20, "": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def physical_memory() -> int:
    """Return the bytes of memory of this machine.

    >>> physical_memory() > 1 << 20
    True
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def granted_memory(
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    physical: int | None = None,
) -> int:
    """Return the bytes of memory that this process may use.

    That is the least of what the machine has, of what its control groups allow, and of what Slurm
    gives to the job on this node, or to each core of a task.

    Args:
        environment: Holds SLURM_MEM_PER_NODE or SLURM_MEM_PER_CPU in a job of Slurm.
        root: Where `proc` and `sys` are.
        physical: The memory of the machine; None: `physical_memory()`.

    >>> granted_memory({"SLURM_MEM_PER_NODE": "16384"}, Path("/nowhere"), physical=1 << 40) >> 30
    16
    """
    found = [physical_memory() if physical is None else physical, read_cgroup_limits(root).memory]
    found.append(_slurm_size(environment, "SLURM_MEM_PER_NODE"))
    cores = environment.get("SLURM_CPUS_PER_TASK", "")
    per_core = _slurm_size(environment, "SLURM_MEM_PER_CPU")
    found.append(per_core * (int(cores) if cores.isdecimal() else 1))
    return int(min(found))


def _slurm_size(environment: Mapping[str, str], name: str) -> float:
    """Return the bytes that a variable of Slurm states; infinite if none, or 0: all of the node."""
    match = re.fullmatch("([0-9]{1,15})([KMGT]?)", environment.get(name, ""))
    size = 0 if match is None else int(match[1]) * _SLURM_UNITS[match[2]]
    return size or math.inf
