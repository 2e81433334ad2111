"""What a survey costs beside its solves, and what workers, manifests and long runs cost.

    python -m benchmarks survey [--only overhead,workers,manifest,memory]

overhead: photos at one depth of EfficientNet-Lite0, about a second each. The wall time between the
    first and the last photo, over the time spent in `solve`; beside it, as a check, the wall time
    per photo of a bare loop of decode, record and `svds` in this process.
workers: the same photos with one and with two Ray workers of one thread each.
manifest: the time to list 100 shards of 1000 samples.
memory: resident memory while 10 000 small samples pass.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.measure.memory import resident_bytes
from jvpsvd import JacobianOperator, svds
from jvpsvd.data import Photo, decode_photo, demo_photos, walk
from jvpsvd.data.pack import write_shard
from jvpsvd.networks import Model, PhotoInput, layer_maps, load_model, weights_sha256
from jvpsvd.operators import Trace, keep_freed_memory
from jvpsvd.survey import RunProgress, Spec, run
from jvpsvd.survey.work.photo_solver import PhotoSolver

DEPTH, TOL = "_blocks.15", 1e-4


def timed_run(spec: Spec) -> tuple[float, int, float]:
    """Return the seconds and the photos between the first and the last, and all seconds."""
    moments: list[tuple[float, int]] = []

    def on_progress(progress: RunProgress) -> None:
        if progress.rows:
            moments.append((time.perf_counter(), progress.photos_done))

    began = time.perf_counter()
    outcome = run(spec, on_progress)
    whole = time.perf_counter() - began
    if outcome.failures or outcome.skipped:
        raise SystemExit(f"{outcome.failures} rows failed in {spec.out}")
    (first, before), (last, after) = moments[0], moments[-1]
    return last - first, after - before, whole


def photo_shard(folder: Path, count: int) -> Path:
    photos = demo_photos()
    chosen = [photos[i % len(photos)] for i in range(count)]
    named = [Photo(p.file, f"{i:03}-{p.key}", p.label, p.record) for i, p in enumerate(chosen)]
    return write_shard(folder / "photos.tar", named)


def overhead(folder: Path, report: dict[str, Any]) -> None:
    count, k = 12, 8
    shard = photo_shard(folder, count)
    wanted = {"shards": [shard], "layers": [DEPTH], "k": k, "tol": TOL}
    plain = PhotoSolver.solve

    def solve(self: PhotoSolver, *args: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(self, *args)
        finally:
            solves.append(time.perf_counter() - began)

    solves: list[float] = []
    PhotoSolver.solve = solve  # type: ignore[method-assign]
    try:
        seconds, photos, _ = timed_run(Spec(**wanted, out=folder / "overhead"))  # type: ignore[arg-type]
    finally:
        PhotoSolver.solve = plain  # type: ignore[method-assign]
    inside = sum(solves[1:])
    bare = bare_loop(shard, k)
    share = seconds / inside - 1
    print(
        f"overhead: {inside / photos:.2f} s a photo in solve, {seconds / photos:.2f} s in all: "
        f"{against(100 * share, 3, '%')}; a bare loop takes {bare:.2f} s a photo "
        f"(survey / bare {seconds / photos / bare:.3f}, noise included)"
    )
    report["overhead"] = {"share": share, "seconds": seconds / photos, "bare": bare}


def bare_loop(shard: Path, k: int) -> float:
    """Return the seconds per photo without a survey."""
    model = load_model("efficientnet-lite0")
    data = [(s, shard.read_bytes()[s.offset : s.offset + s.size]) for s in walk(shard)]
    trace: Trace | None = None
    seconds = []
    for _, photo in data:
        began = time.perf_counter()
        x = decode_photo(photo, model.photo_input)
        if trace is None:
            trace = Trace(layer_maps(model.module, x, [DEPTH]), x)
        J = JacobianOperator.from_linear_map(trace.at(x)[0])
        svds(J, k, tol=TOL, vectors=False, on_unconverged="ignore")
        seconds.append(time.perf_counter() - began)
    return float(np.mean(seconds[1:]))


def workers(folder: Path, report: dict[str, Any]) -> None:
    shard = photo_shard(folder, 20)
    rates = []
    for count in (1, 2):
        spec = Spec(
            shards=[shard],
            layers=[DEPTH],
            k=20,
            tol=TOL,
            engine="ray",
            workers=count,
            out=folder / f"workers-{count}",
        )
        seconds, photos, whole = timed_run(spec)
        rates.append(photos / seconds)
        print(f"  {count} Ray workers: {60 * rates[-1]:.1f} photos/min, {whole:.0f} s in all")
    print(f"workers: two do {against(rates[1] / rates[0], 1.7, ' x one', least=True)}")
    report["workers"] = {"rates": rates, "speedup": rates[1] / rates[0]}


def manifest(folder: Path, report: dict[str, Any]) -> None:
    model = small_model(64)
    shards = folder / "many"
    shards.mkdir()
    photo = encoded(0)
    for i in range(100):
        with tarfile.open(shards / f"part-{i:04}.tar", "w") as tar:
            for j in range(1000):
                for suffix, data in (("png", photo), ("cls", b"7"), ("json", b'{"a": 1}')):
                    info = tarfile.TarInfo(f"{i:04}-{j:04}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    seconds = []
    for _ in range(2):
        moments: list[float] = []

        def on_progress(progress: RunProgress, moments: list[float] = moments) -> None:
            moments.append(time.perf_counter())
            if not progress.all_shards:
                raise StopIteration

        began = time.perf_counter()
        try:
            run(
                Spec(shards=str(shards), model=model, k=5, layers=["output"], out=folder / "m"),
                on_progress,
            )
        except StopIteration:
            seconds.append(time.perf_counter() - began)
    print(
        f"manifest: 100 x 1000 samples listed in {against(seconds[0], 60, ' s')}, "
        f"reused by the next run after {seconds[1]:.1f} s"
    )
    report["manifest"] = {"listed": seconds[0], "reused": seconds[1]}


def memory(folder: Path, report: dict[str, Any]) -> None:
    model = small_model(64)
    with tarfile.open(folder / "small.tar", "w") as tar:
        for i in range(10_000):
            data = encoded(i)
            info = tarfile.TarInfo(f"{i:05}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    resident: list[tuple[int, float]] = []

    def on_progress(progress: RunProgress) -> None:
        if progress.rows and progress.photos_done % 992 < 32:
            resident.append((progress.photos_done, resident_bytes() / (1 << 20)))

    began = time.perf_counter()
    spec = Spec(
        shards=[folder / "small.tar"], model=model, k=5, layers=["output"], out=folder / "small"
    )
    run(spec, on_progress)
    seconds = time.perf_counter() - began
    text = ", ".join(f"{done}: {mib:.0f}" for done, mib in resident)
    early, late = resident[1][1], resident[-1][1]
    print(f"  resident MiB after so many samples: {text}")
    print(
        f"memory: {late - early:+.0f} MiB from sample {resident[1][0]} to {resident[-1][0]}, "
        f"{10_000 / seconds:.0f} samples/s"
    )
    report["memory"] = {"resident": resident, "samples_per_second": 10_000 / seconds}


def small_model(size: int) -> Model:
    torch.manual_seed(0)
    shown = PhotoInput(size=16, resize=16)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, size), nn.Tanh(), nn.Linear(size, 10)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return Model("small", net, shown, weights_sha256(net))


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def against(value: float, target: float, unit: str, *, least: bool = False) -> str:
    met = value >= target if least else value <= target
    return f"{value:.3g}{unit} (target {target:g}, {'met' if met else 'missed'})"


PARTS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "overhead": overhead,
    "workers": workers,
    "manifest": manifest,
    "memory": memory,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks survey",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(PARTS), metavar="NAME,…")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    report: dict[str, Any] = {}
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), report)
    return report
