"""Limits of the control groups of Linux, by which containers and batch systems share a machine.

A group may use as much as it and each group around it allow. Version 2 has one tree of groups,
version 1 one for each controller. Inside of a container the path of the process may be that of the
host, which is not mounted here; then the mounted root is the group of the container.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_NO_LIMIT = ("max", "-1")


@dataclass(frozen=True)
class CgroupLimits:
    """What the groups of this process allow; infinite where they set no limit."""

    cores: float
    """Seconds of processor time in each second."""
    memory: float
    """Bytes."""


def read_cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the tightest limits of the groups of this process and of all groups around them.

    Args:
        root: Where `proc` and `sys` are.

    >>> read_cgroup_limits(Path("/nowhere"))
    CgroupLimits(cores=inf, memory=inf)
    """
    folders = list(_group_folders(root))
    return CgroupLimits(
        min(map(_cores, folders), default=math.inf), min(map(_memory, folders), default=math.inf)
    )


def _group_folders(root: Path) -> Iterator[Path]:
    """Yield the folder of each group of this process, and of the groups around it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        inner = PurePosixPath(path.lstrip("/"))
        for name in controllers.split(","):  # version 2 has one line, without a name
            tree = root / "sys/fs/cgroup" / name
            for group in (inner, *inner.parents):
                if ".." not in group.parts:  # a group outside of what is mounted
                    yield tree / group


def _cores(group: Path) -> float:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota = _read(group / "cpu.cfs_quota_us").strip()
        period = _read(group / "cpu.cfs_period_us").strip()
    return math.inf if not period or quota in _NO_LIMIT else int(quota) / int(period)


def _memory(group: Path) -> float:
    limit = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
    return math.inf if not limit or limit in _NO_LIMIT else int(limit)


def _read(file: Path) -> str:
    """Return what a file says; nothing where the kernel has no such file."""
    try:
        return file.read_text()
    except OSError:
        return ""
