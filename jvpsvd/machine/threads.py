"""How many threads OpenMP starts, and how they wait: read from the environment as torch loads.

By default a thread of OpenMP that has nothing to do spins, to be there at once when there is work.
Where another process needs the core, the work waits for the spinning: `python -m benchmarks
waiting` prints how much slower that is. With the policy "passive" a waiting thread sleeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from jvpsvd.machine.cores import affine_cores, granted_cores

_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # OpenMP's, GNU's and Intel's
_THREADS = "OMP_NUM_THREADS"
_OURS = "JVPSVD_OMP_NUM_THREADS"  # what `limit_threads` has set, not the user


def waiting_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to an environment so that threads sleep; nothing if the user has chosen.

    >>> waiting_policy({}), waiting_policy({"GOMP_SPINCOUNT": "1000"})
    ({'OMP_WAIT_POLICY': 'passive'}, {})
    """
    chosen = any(name in environment for name in _POLICIES)
    return {} if chosen else {"OMP_WAIT_POLICY": "passive"}


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait sleep, unless the user has chosen; call it before torch is imported."""
    environment.update(waiting_policy(environment))


def limit_threads(
    environment: MutableMapping[str, str] = os.environ,
    root: Path = Path("/"),
    affine: int | None = None,
) -> None:
    """Start no more threads than cores are granted; call it before NumPy or torch is imported.

    OpenMP sees the cores that a process may run on, but not the share of time that a container has
    of them, nor what Slurm gives to a task where it does not bind tasks to cores. What the user has
    chosen stays.

    Args:
        environment: Is given OMP_NUM_THREADS, where fewer cores are granted than are seen.
        root: Where `proc` and `sys` are.
        affine: The cores that this process may run on; None: `affine_cores()`.

    >>> environment = {"SLURM_CPUS_PER_TASK": "4"}
    >>> limit_threads(environment, Path("/nowhere"), affine=64)
    >>> environment["OMP_NUM_THREADS"]
    '4'
    """
    seen = affine_cores() if affine is None else affine
    granted = granted_cores(environment, root, seen)
    if granted < seen and _THREADS not in environment:
        environment[_THREADS] = environment[_OURS] = str(granted)


def threads_of_a_share(
    shares: int, environment: Mapping[str, str] = os.environ, granted: int | None = None
) -> int | None:
    """Return the threads of one of several processes of a run; None to leave them as they are.

    Shares of a run often work on one machine or in one container, and then each has its part of the
    cores. Where the user or a batch system has set a limit, that is the part already.

    Args:
        shares: How many processes share the run.
        environment: Holds OMP_NUM_THREADS if there is a limit; one of `limit_threads` is of all.
        granted: The cores of all of them; None: `granted_cores()`.

    >>> threads_of_a_share(2, {}, granted=8), threads_of_a_share(2, {_THREADS: "8"}, granted=8)
    (4, None)
    """
    chosen = environment.get(_THREADS) != environment.get(_OURS)
    if shares == 1 or chosen or "SLURM_JOB_ID" in environment:
        return None
    return max(1, (granted_cores(environment) if granted is None else granted) // shares)


def threads_of_a_worker(
    workers: int, environment: Mapping[str, str] = os.environ, granted: int | None = None
) -> int:
    """Return the threads of one of several workers on this machine: its part of the cores.

    Args:
        workers: How many there are.
        environment: Holds OMP_NUM_THREADS where that is a limit for each.
        granted: The cores of all of them; None: `granted_cores()`.

    >>> threads_of_a_worker(2, {}, granted=8), threads_of_a_worker(2, {_THREADS: "1"}, granted=8)
    (4, 1)
    """
    part = max(1, (granted_cores(environment) if granted is None else granted) // workers)
    limit = environment.get(_THREADS, "")
    return min(part, int(limit)) if limit.isdecimal() and int(limit) > 0 else part
