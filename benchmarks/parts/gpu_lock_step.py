"""Photos solved together on a card: seconds a photo, what a step waits for, widths, decompositions.

A part of `python -m benchmarks gpu`. The photos are those of the demo, and their mirror images.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure.spread import Spread
from benchmarks.measure.timing import time_least
from benchmarks.problems.networks import UnavailableError
from jvpsvd import JacobianOperator, LinearOperator, SVDResult, svds
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Derivatives, load_model
from jvpsvd.operators import BatchedMap, full_precision
from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.kernels.threads import over_matrices
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization

TOL, ROUNDS = 1e-4, 2
_STEPS, _STEPS_BEFORE = 6, 3
_LOSS = 1e-9
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Setting:
    """Where to measure, and how much.

    Args:
        device: "cuda"; "cpu" to try the script.
        k: Number of triplets.
        depth: Depth of EfficientNet-Lite0.
        together: Numbers of photos that are solved together.
        widths: Block sizes, of a batch of the last but one of these numbers.
        sizes: Rows of the decompositions.
    """

    device: str = "cuda"
    k: int = 500
    depth: str = "_blocks.9"
    together: tuple[int, ...] = (1, 4, 16, 32)
    widths: tuple[int, ...] = (8, 16, 32)
    sizes: tuple[int, ...] = (600, 1000)


TINY = Setting("cpu", 5, "_blocks.15", (1, 2), (2, 4), (80,))


def measure(setting: Setting, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield the rows: photos together, steps, widths and decompositions, while there is time.

    Raises:
        UnavailableError: If the demo's network or photos are not installed.
    """
    photos = Photos(setting)
    for count in setting.together:
        if time.perf_counter() < deadline:
            yield time_photos(photos, setting, count)
    for count in setting.together:
        if time.perf_counter() < deadline:
            yield time_step(photos, setting, count)
    count = setting.together[-2]
    for width in setting.widths:
        if time.perf_counter() < deadline:
            row = time_photos(photos, setting, count, width)
            yield {**row, "kind": "width", "problem": f"widths/{row['problem']}"}
    for size, count in itertools.product(setting.sizes, setting.together):
        if time.perf_counter() < deadline:
            yield time_decompositions(setting, size, count)


class Photos:
    """The Jacobians of a network to one depth at many photos, recorded once."""

    def __init__(self, setting: Setting) -> None:
        try:
            model, shown = load_model("efficientnet-lite0"), demo_photos()
        except Exception as error:
            raise UnavailableError(f"the demo extra is needed: {error}") from error
        decoded = [decode_photo(one.file.read_bytes(), model.photo_input) for one in shown]
        # Of another photo the Jacobian is another one, and so it is of its mirror image.
        self._points = [*decoded, *(x.flip(-1) for x in decoded)]
        self._device = torch.device(setting.device)
        module = model.module.eval().requires_grad_(False).to(self._device)
        example = self._points[0].to(self._device)
        self._derivatives = Derivatives(module, example, [setting.depth])

    def operator(self, count: int) -> LinearOperator:
        """Return the Jacobians at the first photos; of one alone, its own and no batch."""
        if count == 1:
            found = self._derivatives.at(self._points[0].to(self._device), "a photo")[0]
        else:
            found = self._derivatives.at_many(self.points(count))[0]
        if isinstance(found, JvpsvdError):
            raise found
        return JacobianOperator.from_linear_map(found)

    def derivative(self, count: int) -> BatchedMap:
        """Return the derivative at the first photos, replayed together, even if it is one."""
        found = self._derivatives.at_many(self.points(count))[0]
        if isinstance(found, JvpsvdError):
            raise found
        return found

    def points(self, count: int) -> Tensor:
        """Return so many photos, stacked."""
        chosen = itertools.islice(itertools.cycle(self._points), count)
        return torch.stack(list(chosen)).to(self._device)


def time_photos(
    photos: Photos, setting: Setting, count: int, width: int | None = None
) -> dict[str, Any]:
    """Return the row of photos that are solved together, values alone; seconds are of one."""
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    J = photos.operator(count)
    with full_precision():
        found = [_solve(J, setting, width) for _ in range(ROUNDS + 1)]  # the first is not counted
    result = found[-1]
    spread = Spread.of([one.seconds / count for one in found[1:]])
    phases = {name: seconds / count for name, seconds in result.seconds_by_phase.items()}
    met = int(result.converged.reshape(count, -1).all(-1).sum())
    checks = len(result.history)
    shown = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in phases.items())
    name = f"{count:2} photos together" if width is None else f"blocks of {width}, {count} photos"
    print(f"{name}: {spread} s a photo, {checks} checks, {met} met tol; {shown}", flush=True)
    return {
        "kind": "together",
        "problem": f"together/lite0/{setting.depth}/{count}",
        "k": setting.k,
        "tol": TOL,
        "photos": count,
        "block_size": result.plan.block_size,
        "seconds": spread.to_json(),
        "phases": phases,
        "checks": checks,
        "products": result.products.total // count,
        "converged_photos": met,
        "plan": result.plan.reason,
        "peak_bytes": torch.cuda.max_memory_allocated() if setting.device == "cuda" else None,
    }


def _solve(J: LinearOperator, setting: Setting, width: int | None) -> SVDResult:
    return svds(
        J,
        setting.k,
        tol=TOL,
        method="golub-kahan",
        block_size=width,
        vectors=False,
        on_unconverged="ignore",
    )


def time_step(photos: Photos, setting: Setting, count: int) -> dict[str, Any]:
    """Return what one step takes: wall, kernels on the card, and waits for it."""
    J = photos.operator(count)
    oriented = J.T if J.shape[-2] < J.shape[-1] else J
    bases = GolubKahanFactorization(
        oriented, block_size=setting.widths[-1], seed=0, capacity=setting.k, max_loss=_LOSS
    )
    on_card = setting.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with torch.no_grad(), full_precision():
        bases.initialize()
        for _ in range(_STEPS_BEFORE):
            bases.expand()
        wall = _seconds_of_steps(bases, on_card)
        with profile(activities=activities) as profiled:
            _seconds_of_steps(bases, on_card)
    events = profiled.key_averages()
    waits = [event for event in events if event.key in _WAITS or event.key == "cudaMemcpyAsync"]
    row = {
        "kind": "step",
        "problem": f"steps/lite0/{setting.depth}/{count}",
        "photos": count,
        "block_size": setting.widths[-1],
        "seconds": wall / _STEPS,
        "kernels": 1e-6 * sum(event.self_device_time_total for event in events) / _STEPS,
        "waiting": 1e-6 * sum(event.self_cpu_time_total for event in waits) / _STEPS,
        "waits": sum(event.count for event in waits if event.key in _WAITS) / _STEPS,
        "launches": sum(e.count for e in events if e.key == "cudaLaunchKernel") / _STEPS,
    }
    print(
        "a step of {photos} photos: {seconds:.4f} s, kernels {kernels:.4f} s, waiting "
        "{waiting:.4f} s in {waits:.0f} waits, {launches:.0f} launches".format(**row),
        flush=True,
    )
    return row


def _seconds_of_steps(bases: GolubKahanFactorization, on_card: bool) -> float:
    began = time.perf_counter()
    for _ in range(_STEPS):
        bases.expand()
    if on_card:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def time_decompositions(setting: Setting, size: int, count: int) -> dict[str, Any]:
    """Return the row of `count` projected problems: on the card, and by threads of the CPU."""
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(count, size, size, generator=generator, dtype=torch.float64).triu() + 10 * (
        torch.eye(size, dtype=torch.float64)
    )
    k, loss = max(1, size // 2), 1e-6
    card = torch.device(setting.device)
    there = time_least(lambda: leading_svd(B, k, loss, card), 2, setting.device)
    here = time_least(lambda: over_matrices(lambda part: leading_svd(B[part], k, loss), count), 2)
    print(
        f"{count} projected problems of {size}: {there / count:.4f} s each on {card}, "
        f"{here / count:.4f} s by threads of the CPU",
        flush=True,
    )
    return {
        "kind": "decompositions",
        "problem": f"decompositions/{size}/{count}",
        "rows": size,
        "photos": count,
        "on_device": there / count,
        "on_threads": here / count,
    }
