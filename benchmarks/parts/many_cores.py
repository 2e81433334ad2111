"""Photos per hour of one process, of shares, and of Ray's workers; and what more cores would give.

    python -m benchmarks many_cores [--photos 6] [-k 50] [--layers _blocks.9,output] [--cores 64]

Four runs of the demo's photos on two cores, each in processes of its own: one process with one
thread, and with two; two shares of one thread each; two workers of Ray of one thread each (left out
where Ray is not installed). The rate is that between the first photo of each worker and the last of
all, so that neither the start nor the recording counts; "first" is the time to the first photo.

The model has three numbers: the rate of one thread; the part of the work that threads divide
(Amdahl: a photo on T threads takes 1 − p + p / T of the time on one); and the share of the rate
that workers keep while all cores work, since they share memory. Forecasts are for machines that
have the memory channels for their cores, as these two have. It takes about five minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.parts.waiting import OPENMP_CHOICES
from benchmarks.solvers.environment import ROOT
from jvpsvd.imports import is_installed
from jvpsvd.survey.progress.journal import events, journals


@dataclass(frozen=True)
class Way:
    """A way to run a survey on two cores."""

    name: str
    workers: int
    threads: int
    shares: int = 1
    ray: bool = False


WAYS = (
    Way("1 process x 1 thread", 1, 1),
    Way("1 process x 2 threads", 1, 2),
    Way("2 shares x 1 thread", 2, 1, shares=2),
    Way("2 Ray workers x 1 thread", 2, 1, ray=True),
)


@dataclass(frozen=True)
class Measured:
    """What one run came to."""

    per_hour: float
    """Photos per hour, once all workers work."""
    first: float
    """Seconds to the first photo."""
    memory: int
    """Largest resident memory of a process that was started, in bytes."""


@dataclass(frozen=True)
class Model:
    """Photos per hour of W workers with T threads each.

    >>> model = Model(one=100.0, parallel=0.5, kept=0.9)
    >>> model.rate(1, 1), round(model.rate(1, 2), 1), model.rate(2, 1)
    (100.0, 133.3, 180.0)
    """

    one: float
    """Of one worker with one thread."""
    parallel: float
    """Part of the work that threads divide among themselves, from 0 to 1."""
    kept: float
    """Share of its rate that a worker keeps while all cores work."""

    def rate(self, workers: int, threads: int) -> float:
        """Return the photos per hour of so many workers with so many threads each."""
        faster = 1 / (1 - self.parallel + self.parallel / threads)
        return workers * self.one * faster * (self.kept if workers > 1 else 1.0)


def fit(one: float, two_threads: float, two_workers: float) -> Model:
    """Return the model that has these three rates.

    >>> fit(100.0, 160.0, 190.0)
    Model(one=100.0, parallel=0.75, kept=0.95)
    """
    parallel = 2 * (1 - one / two_threads)
    return Model(one, min(1.0, max(0.0, parallel)), min(1.0, two_workers / (2 * one)))


def rate_of(finished: Sequence[float], workers: int) -> float:
    """Return photos per hour, of the times at which photos of all workers were finished.

    The first photo of each worker is left out, with the time before it.

    >>> rate_of([10.0, 12.0, 20.0, 22.0, 30.0, 32.0], 2)
    720.0
    """
    times = sorted(finished)
    if len(times) <= workers:
        raise ValueError(f"{len(times)} photos of {workers} workers have no rate")
    return 3600 * (len(times) - workers) / (times[-1] - times[workers - 1])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks many_cores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--layers", default="_blocks.9,output")
    parser.add_argument("--cores", type=int, default=64, help="of the forecast")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    found: dict[str, list[Measured]] = {}
    for _ in range(options.rounds):
        for way in WAYS:
            if way.ray and not is_installed("ray"):
                print(f"{way.name}: left out, Ray is not installed (pip install 'jvpsvd[ray]')")
                continue
            found.setdefault(way.name, []).append(run_once(way, options))
            one, load = found[way.name][-1], os.getloadavg()[0]
            print(f"  {way.name}: {one.per_hour:.0f} photos per hour (load {load:.1f})", flush=True)
    best = {name: max(runs, key=lambda run: run.per_hour) for name, runs in found.items()}
    model = fit(*(best[way.name].per_hour for way in WAYS[:3]))
    memory = best[WAYS[0].name].memory
    print_tables(best, model, memory, options.cores)
    return {
        "ways": {name: asdict(one) for name, one in best.items()},
        "model": asdict(model),
        "forecast": forecast(model, options.cores, memory),
    }


def run_once(way: Way, options: argparse.Namespace) -> Measured:
    """Run the survey in one way, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        command = [sys.executable, "-m", "jvpsvd", "run", "--layers", options.layers]
        command += ["--limit", str(options.photos), "-k", str(options.k), "--out", str(out)]
        command += ["--device", "cpu", "--vectors", "0", "--batch", "1"]
        if way.ray:
            command += ["--engine", "ray", "--workers", str(way.workers)]
        began = time.time()
        processes = [
            subprocess.Popen(  # noqa: S603 -- an interpreter of ours, a module of ours
                [*command, "--share", f"{index}/{way.shares}"],
                cwd=ROOT,
                env=environment_of(way.threads, os.environ),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for index in range(way.shares)
        ]
        ended = [os.wait4(process.pid, 0) for process in processes]
        if any(status for _, status, _ in ended):
            sys.exit(f"a run failed: {way.name}")
        finished = [
            datetime.fromisoformat(event["time"]).timestamp()
            for file in journals(out)
            for event in events(file)
            if event.get("event") == "finished"
        ]
    memory = max(usage.ru_maxrss for _, _, usage in ended) << 10
    return Measured(rate_of(finished, way.workers), min(finished) - began, memory)


def environment_of(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with so many threads, and no other choice of OpenMP."""
    kept = {name: value for name, value in environment.items() if name not in OPENMP_CHOICES}
    return {**kept, "OMP_NUM_THREADS": str(threads)}


def forecast(model: Model, cores: int, memory: int) -> list[dict[str, float]]:
    """Return what workers times threads give on so many cores, from one worker to all."""
    rows, workers = [], 1
    while workers <= cores:
        threads = cores // workers
        rate = model.rate(workers, threads)
        rows.append(
            {"workers": workers, "threads": threads, "per_hour": rate, "memory": workers * memory}
        )
        workers *= 2
    return rows


def print_tables(best: Mapping[str, Measured], model: Model, memory: int, cores: int) -> None:
    """Print what was measured, the model, and the forecast, as Markdown."""
    print("\n| on two cores | photos per hour | first photo after | memory of a process |")
    print("|---|---|---|---|")
    for name, one in best.items():
        size = "–" if "Ray" in name else f"{one.memory / 2**30:.1f} GiB"
        print(f"| {name} | {one.per_hour:.0f} | {one.first:.0f} s | {size} |")
    print(
        f"\nmodel: {model.one:.0f} photos per hour on one thread; threads divide "
        f"{model.parallel:.0%} of the work; workers keep {model.kept:.0%} of their rate"
    )
    print(f"\n| workers x threads on {cores} cores, by the model | photos per hour | memory |")
    print("|---|---|---|")
    for row in forecast(model, cores, memory):
        name = f"{row['workers']} x {row['threads']}"
        print(f"| {name} | {row['per_hour']:.0f} | {row['memory'] / 2**30:.0f} GiB |")


if __name__ == "__main__":
    main()
