"""How long a run takes where another process is busy, by how the threads of OpenMP wait.

    python -m benchmarks waiting [--rounds 2] [--busy 0,1] [--spins 300000,5000] [-k 20]
                                 [--photos 1] [--shares 1]

Each run is `jvpsvd run --limit PHOTOS` with two depths of EfficientNet-Lite0, in a process of its
own, or in several with `--share`. Policies take turns: "passive", which the command line takes by
itself, and numbers of turns after which a waiting thread sleeps (GOMP_SPINCOUNT). GNU's OpenMP
spins 300 000 times where nothing is said. Beside each run are so many processes that do nothing but
compute.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.solvers.environment import ROOT

OPENMP_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
_LAYERS = "_blocks.15,output"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks waiting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--busy", default="0,1", help="numbers of processes beside")
    parser.add_argument("--spins", default="300000,5000")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--shares", type=int, default=1, help="processes of one run")
    options = parser.parse_args(arguments)
    policies = {"passive": {"OMP_WAIT_POLICY": "passive"}}
    policies |= {f"{n} turns": {"GOMP_SPINCOUNT": n} for n in options.spins.split(",")}
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    found: dict[str, Any] = {}
    for busy in map(int, options.busy.split(",")):
        seconds: dict[str, list[float]] = {name: [] for name in policies}
        for _ in range(options.rounds):
            for name, policy in policies.items():
                with _busy_processes(busy):
                    seconds[name].append(run_once(options, policy))
                load, took = os.getloadavg()[0], seconds[name][-1]
                print(f"  {busy} busy, {name}: {took:.1f} s (load {load:.1f})", flush=True)
        passive = statistics.median(seconds["passive"])
        for name, times in seconds.items():
            listed = ", ".join(f"{one:.1f}" for one in times)
            ratio = statistics.median(times) / passive
            print(f"{busy} busy, {name}: {listed} s; {ratio:.2f} of passive", flush=True)
        found[str(busy)] = seconds
    print(f"load after: {os.getloadavg()[0]:.1f}")
    return found


def run_once(options: argparse.Namespace, policy: dict[str, str]) -> float:
    """Return the wall seconds of one run, all its shares included."""
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP_CHOICES}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jvpsvd", "run", "--layers", _LAYERS]
        command += ["--limit", str(options.photos), "-k", str(options.k)]
        command += ["--out", str(Path(folder, "run"))]
        began = time.perf_counter()
        processes = [
            subprocess.Popen(  # noqa: S603 -- an interpreter of ours, a module of ours
                [*command, "--share", f"{index}/{options.shares}"],
                cwd=ROOT,
                env=environment | policy,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for index in range(options.shares)
        ]
        if sum(process.wait() for process in processes):
            sys.exit("a run failed")
        return time.perf_counter() - began


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603 -- likewise
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
