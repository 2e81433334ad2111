"""Limits of control groups, read from folders as the kernel lays them out."""

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cgroups import write_groups

from jvpsvd.machine import CgroupLimits, read_cgroup_limits

MIB, NO_LIMIT_OF_1 = 1 << 20, 9223372036854771712
GROUPS = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, math.inf, math.inf),
    "container with a group of its own": (
        "0::/\n",
        {"cpu.max": "150000 100000\n", "memory.max": f"{512 * MIB}\n"},
        1.5,
        512 * MIB,
    ),
    "outer groups count": (
        "0::/kubepods/pod1/box\n",
        {
            "kubepods/cpu.max": "800000 100000",
            "kubepods/pod1/cpu.max": "400000 100000",
            "kubepods/pod1/box/cpu.max": "max 100000",
            "kubepods/memory.max": f"{64 * MIB}",
            "kubepods/pod1/box/memory.max": f"{128 * MIB}",
        },
        4.0,
        64 * MIB,
    ),
    "a job of Slurm": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        {
            "system.slice/slurmstepd.scope/job_7/memory.max": f"{16 * MIB}\n",
            "system.slice/slurmstepd.scope/job_7/step_0/memory.max": "max\n",
        },
        math.inf,
        16 * MIB,
    ),
    "version 1": (
        "9:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n",
        {
            "cpu/docker/ab/cpu.cfs_quota_us": "250000\n",
            "cpu/docker/ab/cpu.cfs_period_us": "100000\n",
            "memory/docker/ab/memory.limit_in_bytes": f"{2 * MIB}\n",
            "memory/memory.limit_in_bytes": f"{NO_LIMIT_OF_1}\n",
        },
        2.5,
        2 * MIB,
    ),
    "version 1 in a container: the path is the host's": (
        "9:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n",
        {
            "cpu/cpu.cfs_quota_us": "50000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": f"{3 * MIB}\n",
        },
        0.5,
        3 * MIB,
    ),
    "version 1 without a quota": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        math.inf,
        math.inf,
    ),
    "both versions": (
        "4:memory:/a\n0::/b\n",
        {"memory/a/memory.limit_in_bytes": f"{5 * MIB}\n", "b/cpu.max": "300000 100000\n"},
        3.0,
        5 * MIB,
    ),
    "a group that is not mounted here": (
        "0::/../other\n",
        {"cpu.max": "200000 100000\n", "other/cpu.max": "100000 100000\n"},
        2.0,
        math.inf,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_tightest_limit_of_all_groups(tmp_path, name):
    own, files, cores, memory = GROUPS[name]
    limits = read_cgroup_limits(write_groups(tmp_path, own, files))
    assert limits == CgroupLimits(cores, memory)


LIMITS = st.one_of(st.none(), st.integers(1, 1 << 50))


@given(st.lists(st.tuples(LIMITS, LIMITS), min_size=1, max_size=5))
def test_any_tree_gives_its_least_limits(limits):
    """Each level has a quota for a period of 100000 and a memory limit, or none."""
    files = {}
    for depth, (quota, memory) in enumerate(limits):
        folder = "".join(f"g{level}/" for level in range(depth))
        files[f"{folder}cpu.max"] = f"{'max' if quota is None else quota} 100000\n"
        files[f"{folder}memory.max"] = f"{'max' if memory is None else memory}\n"
    own = "0::/" + "/".join(f"g{level}" for level in range(len(limits) - 1)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        found = read_cgroup_limits(write_groups(Path(folder), own, files))
    cores = [quota / 100000 for quota, _ in limits if quota is not None]
    memory = [size for _, size in limits if size is not None]
    assert found == CgroupLimits(min(cores, default=math.inf), min(memory, default=math.inf))


def test_the_real_machine_is_read():
    limits = read_cgroup_limits()
    assert limits.cores > 0
    assert limits.memory > 0
