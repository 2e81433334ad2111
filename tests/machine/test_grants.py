"""Cores and memory of a job: the machine's, or less where something grants less."""

import pytest
from support.cgroups import write_groups

from jvpsvd.machine import (
    affine_cores,
    granted_cores,
    granted_memory,
    limit_threads,
    physical_memory,
    threads_of_a_share,
    threads_of_a_worker,
    wait_passively,
)

GIB = 1 << 30


def machine(folder, quota="max 100000", memory="max"):
    return write_groups(folder, "0::/\n", {"cpu.max": quota, "memory.max": memory})


@pytest.mark.parametrize(
    ("quota", "environment", "cores"),
    [
        ("max 100000", {}, 64),
        ("250000 100000", {}, 2),
        ("50000 100000", {}, 1),
        ("9900000 100000", {}, 64),
        ("max 100000", {"SLURM_CPUS_PER_TASK": "4"}, 4),
        ("300000 100000", {"SLURM_CPUS_PER_TASK": "4"}, 3),
        ("max 100000", {"SLURM_CPUS_PER_TASK": ""}, 64),
        ("max 100000", {"SLURM_CPUS_PER_TASK": "many"}, 64),
    ],
)
def test_the_least_of_all_that_grant_cores(tmp_path, quota, environment, cores):
    root = machine(tmp_path, quota=quota)
    assert granted_cores(environment, root, affine=64) == cores
    limit_threads(environment, root, affine=64)
    assert environment.get("OMP_NUM_THREADS") == (None if cores == 64 else str(cores))


def test_threads_that_the_user_chose_stay(tmp_path):
    environment = {"OMP_NUM_THREADS": "16", "SLURM_CPUS_PER_TASK": "4"}
    limit_threads(environment, machine(tmp_path), affine=64)
    assert environment["OMP_NUM_THREADS"] == "16"


@pytest.mark.parametrize(
    ("limit", "environment", "memory"),
    [
        ("max", {}, 256 * GIB),
        (f"{8 * GIB}\n", {}, 8 * GIB),
        (f"{800 * GIB}\n", {}, 256 * GIB),
        ("max", {"SLURM_MEM_PER_NODE": "16384"}, 16 * GIB),
        ("max", {"SLURM_MEM_PER_NODE": "16G"}, 16 * GIB),
        (f"{8 * GIB}\n", {"SLURM_MEM_PER_NODE": "16384"}, 8 * GIB),
        ("max", {"SLURM_MEM_PER_NODE": "0"}, 256 * GIB),
        ("max", {"SLURM_MEM_PER_CPU": "2048"}, 2 * GIB),
        ("max", {"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_PER_TASK": "4"}, 8 * GIB),
    ],
)
def test_the_least_of_all_that_grant_memory(tmp_path, limit, environment, memory):
    root = machine(tmp_path, memory=limit)
    assert granted_memory(environment, root, physical=256 * GIB) == memory


def test_a_machine_without_limits_is_granted_whole(tmp_path):
    assert granted_cores({}, tmp_path) == affine_cores()
    assert granted_memory({}, tmp_path) == physical_memory()


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_how_threads_wait_is_the_users_choice_first(name):
    chosen = {name: "active"}
    wait_passively(chosen)
    assert chosen == {name: "active"}
    free = {}
    wait_passively(free)
    assert free == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("shares", "environment", "threads"),
    [
        (1, {}, None),
        (2, {}, 4),
        (3, {}, 2),
        (100, {}, 1),
        (2, {"OMP_NUM_THREADS": "8"}, None),
        (2, {"SLURM_JOB_ID": "7"}, None),
    ],
)
def test_shares_of_a_run_share_the_cores(shares, environment, threads):
    assert threads_of_a_share(shares, environment, granted=8) == threads


@pytest.mark.parametrize(
    ("environment", "threads"),
    [({}, 4), ({"OMP_NUM_THREADS": "8"}, None), ({"OMP_NUM_THREADS": "16"}, None)],
)
def test_shares_in_a_container_share_its_cores(tmp_path, environment, threads):
    root = machine(tmp_path, quota="800000 100000")
    limit_threads(environment, root, affine=64)
    granted = granted_cores(environment, root, affine=64)
    assert threads_of_a_share(2, environment, granted) == threads


@pytest.mark.parametrize(
    ("workers", "environment", "threads"),
    [
        (8, {}, 1),
        (1, {}, 8),
        (3, {}, 2),
        (16, {}, 1),
        (2, {"OMP_NUM_THREADS": "2"}, 2),
        (2, {"OMP_NUM_THREADS": "8"}, 4),
    ],
)
def test_workers_share_the_cores(workers, environment, threads):
    assert threads_of_a_worker(workers, environment, granted=8) == threads
