"""What this process may use of its machine: cores and memory, and how its threads wait.

Nothing here imports torch, so that the command line can decide before torch is there.
"""

from jvpsvd.machine.cgroups import CgroupLimits, read_cgroup_limits
from jvpsvd.machine.cores import affine_cores, granted_cores
from jvpsvd.machine.disk import ASIDE, is_aside, sync, writer_may_live, writing, written_aside
from jvpsvd.machine.memory import granted_memory, physical_memory
from jvpsvd.machine.processor import processor_maker
from jvpsvd.machine.sizes import in_words, parse_memory
from jvpsvd.machine.threads import (
    limit_threads,
    threads_of_a_share,
    threads_of_a_worker,
    wait_passively,
    waiting_policy,
)

__all__ = [
    "ASIDE",
    "CgroupLimits",
    "affine_cores",
    "granted_cores",
    "granted_memory",
    "in_words",
    "is_aside",
    "limit_threads",
    "parse_memory",
    "physical_memory",
    "processor_maker",
    "read_cgroup_limits",
    "sync",
    "threads_of_a_share",
    "threads_of_a_worker",
    "wait_passively",
    "waiting_policy",
    "writer_may_live",
    "writing",
    "written_aside",
]
