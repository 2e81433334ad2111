"""`svds` against its floor and ARPACK, a batch against one solve after another, and its blocks.

    python -m benchmarks.solver [-k 500] [--tol 1e-4] [--skip-arpack] [--json FILE]

All sides run in one process on the Jacobian of EfficientNet-Lite0 at an ImageNet photo. The floor
is the time of k batched JVPs and k batched VJPs at the best chunk: what k triplets would cost if
their vectors were known. Products are given as a multiple of these 2k.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor, nn

from jvpsvd import JacobianOperator, SVDResult, as_scipy, layer_map, svds
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import load_model
from jvpsvd.operators import keep_freed_memory
from jvpsvd.svd.krylov import factorization

TARGETS = {"output": 1.2, "_blocks.15": 1.6}
CHUNKS = (4, 8, 16, 32)


class Stopwatch:
    """Seconds spent in a function that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work`, its time added to the watch."""

        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Return the least time of a few rounds."""
    least = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - began)
    return least


def jacobian(depth: str, photo: int = 0, chunk: int | None = None) -> JacobianOperator:
    model, shown = load_model("efficientnet-lite0"), demo_photos()[photo]
    x = decode_photo(shown.file.read_bytes(), model.photo_input)
    f, z = (model.module, x) if depth == "output" else layer_map(model.module, x, to=depth)
    J = JacobianOperator(f, z, chunk=chunk)
    J.matvec(torch.zeros(J.shape[1]))
    J.rmatvec(torch.zeros(J.shape[0]))
    return J


def floor(depth: str, k: int) -> float:
    """Return the time of k JVPs and k VJPs, each at its best chunk."""
    best = [float("inf")] * 2
    for chunk in CHUNKS:
        J = jacobian(depth, chunk=chunk)
        V, U = (torch.randn(32, size).T for size in reversed(J.shape))
        for side, work in enumerate((lambda J=J, V=V: J @ V, lambda J=J, U=U: J.T @ U)):
            best[side] = min(best[side], seconds(work) / 32)
    print(f"  floor: {1e3 * best[0]:.1f} ms a JVP, {1e3 * best[1]:.1f} ms a VJP, best of {CHUNKS}")
    return k * sum(best)


def verdict(value: float, target: float) -> str:
    return f"{value:.3g} (target {target:g}, {'met' if value <= target else 'missed'})"


def solve_timed(
    J: JacobianOperator, k: int, tol: float, method: str, block: int | None
) -> tuple[SVDResult, dict[str, float]]:
    inside, projected = Stopwatch(), Stopwatch()
    for name in ("_matmat", "_rmatmat"):
        setattr(J, name, inside.timing(getattr(type(J), name).__get__(J)))
    plain = factorization.leading_svd
    factorization.leading_svd = projected.timing(plain)
    try:
        result = svds(J, k, tol=tol, method=method, block_size=block, on_unconverged="ignore")
    finally:
        factorization.leading_svd = plain
    wall = result.seconds
    return result, {
        "products": result.products.total / (2 * k),
        "seconds": wall,
        "dense": 1 - inside.seconds / wall,
        "looks": projected.seconds / wall,
        "residual": float(result.residuals.max() / result.s[0]),
        "converged": int(result.converged.sum()),
    }


def depths(k: int, tol: float, report: dict[str, Any]) -> None:
    for depth, target in TARGETS.items():
        J = jacobian(depth)
        print(f"\n{depth}: {J.shape[0]} x {J.shape[1]}, k = {k}, tol = {tol:g}, chunk {J.chunk}")
        least = floor(depth, k)
        exact: Tensor | None = None
        for method, block in (("auto", None), ("golub-kahan", None), ("golub-kahan", 4)):
            result, row = solve_timed(J, k, tol, method, block)
            name = f"{method} ({result.method}, block {result.plan.block_size})"
            print(
                f"  {name:34} {row['seconds']:6.1f} s, products / 2k "
                f"{verdict(row['products'], target)}\n"
                f"      wall / floor {verdict(row['seconds'] / least, 2.0)}, dense algebra "
                f"{verdict(row['dense'], 0.2)}, looks {verdict(row['looks'], 0.05)}\n"
                f"      {row['converged']} converged, residual {row['residual']:.0e} s1, "
                f"{'sound and complete' if result.certificate.complete else 'NOT COMPLETE'}"
            )
            if result.method == "exact":
                exact = result.s
            elif exact is not None:
                off = float((result.s - exact).abs().max() / exact[0])
                print(f"      values differ from the exact ones by {off:.0e} s1")
            report[f"{depth}, {name}"] = {**row, "floor": least}
            if method == "auto" and result.method != "exact":
                report[f"{depth}, auto"] = report.pop(f"{depth}, {name}")


def arpack(k: int, tol: float, report: dict[str, Any]) -> None:
    print(f"\nARPACK, output, k = {k}, tol = {tol:g}")
    J = jacobian("output")
    ours = min(
        (svds(J, k, tol=tol, method=method) for method in ("auto", "golub-kahan")),
        key=lambda result: result.seconds,
    )
    model = load_model("efficientnet-lite0").module
    x, shape = J.point, J.value.shape
    pull = torch.func.vjp(model, x)[1]
    calls = [0]

    def forward(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        direction = torch.from_numpy(np.ascontiguousarray(v)).reshape(x.shape)
        return torch.func.jvp(model, (x,), (direction,))[1].flatten().numpy()

    def reverse(u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        direction = torch.from_numpy(np.ascontiguousarray(u)).reshape(shape)
        return pull(direction)[0].flatten().numpy()

    by_hand = sla.LinearOperator(J.shape, matvec=forward, rmatvec=reverse, dtype=np.float32)
    for name, operator, target in (
        ("on our operator", as_scipy(J), 5.0),
        ("on torch.func by hand", by_hand, 10.0),
    ):
        before, calls[0] = J.products.total, 0
        began = time.perf_counter()
        values = sla.svds(operator, k=k, tol=tol, solver="arpack")[1]
        wall = time.perf_counter() - began
        spent = calls[0] or J.products.total - before
        off = np.abs(np.sort(values)[::-1] - ours.s.numpy()).max() / float(ours.s[0])
        ratio = wall / ours.seconds
        met = "met" if ratio >= target else "missed"
        print(
            f"  {name:22} {wall:6.1f} s, {spent / (2 * k):.2f} x 2k products; ours ({ours.method}) "
            f"{ours.seconds:.1f} s: {ratio:.1f} times faster (target {target:g}, {met}); values "
            f"differ by {off:.0e} s1"
        )
        report[f"arpack {name}"] = {"seconds": wall, "ours": ours.seconds, "ratio": ratio}


def perceptron(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 64)).eval()


def convolutions(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(0, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(0),
        nn.Linear(576, 32),
    ).eval()


def batches(tol: float, report: dict[str, Any]) -> None:
    print("\n16 small Jacobians at once, k = 20, operators and their recording included")
    X = torch.randn(16, 784, generator=torch.Generator().manual_seed(0))
    for make in (perceptron, convolutions):
        for method in ("auto", "golub-kahan"):
            for seed in (0, 1):  # the first is a warm-up: imports of torch's own
                f = make(seed)
                began = time.perf_counter()
                batch = JacobianOperator(f, X, batch_dims=1)
                together = svds(batch, 20, tol=tol, method=method)
                half = time.perf_counter()
                alone = [svds(JacobianOperator(f, x), 20, tol=tol, method=method) for x in X]
                end = time.perf_counter()
            ratio = (end - half) / (half - began)
            off = max(float((one.s - together.s[i]).abs().max()) for i, one in enumerate(alone))
            singles = [JacobianOperator(f, x) for x in X]
            for J in singles:
                J.rmatvec(torch.zeros(J.shape[0]))
            one = seconds(lambda b=batch, m=method: svds(b, 20, tol=tol, method=m))
            many = seconds(lambda s=singles, m=method: [svds(J, 20, tol=tol, method=m) for J in s])
            met = "met" if ratio >= 5 else "missed"
            print(
                f"  {make.__name__:12} {together.method:12} {1e3 * (half - began):6.0f} ms against "
                f"{1e3 * (end - half):6.0f} ms: {ratio:.1f} times faster (target 5, {met}), "
                f"recorded before {many / one:.1f} times; values differ by {off:.0e}"
            )
            report[f"batch {make.__name__} {together.method}"] = {
                "ratio": ratio,
                "recorded before": many / one,
            }


def warm_starts(report: dict[str, Any]) -> None:
    print("\nWarm starts, output, k = 50, method golub-kahan")
    J, other = jacobian("output"), jacobian("output", photo=1)
    near = svds(J, 50, tol=1e-2, method="golub-kahan")
    for name, operator, tol in (
        ("same photo, tol 1e-2 to 1e-5", J, 1e-5),
        ("another photo, tol 1e-4", other, 1e-4),
    ):
        cold, warm = (
            svds(operator, 50, tol=tol, method="golub-kahan", start=start) for start in (None, near)
        )
        spent = cold.products.total, warm.products.total
        print(f"  {name:30} {spent[0]} products cold, {spent[1]} warm")
        report[f"warm start, {name}"] = {"cold": spent[0], "warm": spent[1]}


def blocks(tol: float, report: dict[str, Any]) -> None:
    print(f"\nBlocks, products and seconds, tol = {tol:g}, method golub-kahan")
    for depth in TARGETS:
        J = jacobian(depth)
        for k in (1, 5, 20, 50, 128):
            told = []
            for block in (2, 4, 8, 16):
                result = svds(
                    J, k, tol=tol, method="golub-kahan", block_size=block, on_unconverged="ignore"
                )
                told.append((result.products.total, result.seconds))
            chosen = svds(J, k, tol=tol, method="golub-kahan", on_unconverged="ignore").plan
            text = ", ".join(
                f"{block}: {count} {spent:.1f} s"
                for block, (count, spent) in zip((2, 4, 8, 16), told, strict=True)
            )
            print(
                f"  {depth:10} k = {k:3}  {text}; planned {chosen.block_size}, "
                f"{chosen.predicted_products} products"
            )
            report[f"blocks, {depth}, k = {k}"] = told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--skip-arpack", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    report: dict[str, Any] = {}
    batches(arguments.tol, report)
    warm_starts(report)
    blocks(arguments.tol, report)
    depths(arguments.k, arguments.tol, report)
    if not arguments.skip_arpack:
        arpack(arguments.k, arguments.tol, report)
    if arguments.json:
        report["machine"] = {
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
