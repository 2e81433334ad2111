"""`svds` beside its floor and ARPACK, from cold and warm starts, with blocks of several widths.

    python -m benchmarks solver [-k 500] [--tol 1e-4] [--skip-arpack]

All run in one process, on the Jacobian of EfficientNet-Lite0 at an ImageNet photo. The floor is the
time of k batched JVPs and k batched VJPs at the best chunk: what k triplets would cost if their
vectors were known. Products are given as a multiple of these 2k.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

from benchmarks.measure.timing import time_least
from jvpsvd import JacobianOperator, SVDResult, as_scipy, layer_map, svds
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import load_model
from jvpsvd.operators import keep_freed_memory

TARGETS = {"output": 1.2, "_blocks.15": 1.6}
CHUNKS = (4, 8, 16, 32)


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
            best[side] = min(best[side], time_least(work) / 32)
    print(f"  floor: {1e3 * best[0]:.1f} ms a JVP, {1e3 * best[1]:.1f} ms a VJP, best of {CHUNKS}")
    return k * sum(best)


def against(value: float, target: float) -> str:
    return f"{value:.3g} (target {target:g}, {'met' if value <= target else 'missed'})"


def solve_timed(
    J: JacobianOperator, k: int, tol: float, method: str, block: int | None
) -> tuple[SVDResult, dict[str, float]]:
    result = svds(J, k, tol=tol, method=method, block_size=block, on_unconverged="ignore")
    wall, phases = result.seconds, result.seconds_by_phase
    return result, {
        "products": result.products.total / (2 * k),
        "seconds": wall,
        "dense": 1 - phases["products"] / wall,
        "projected": phases.get("projected problem", 0.0) / wall,
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
                f"{against(row['products'], target)}\n"
                f"      wall / floor {against(row['seconds'] / least, 2.0)}, dense algebra "
                f"{against(row['dense'], 0.2)}, projected problem "
                f"{against(row['projected'], 0.05)}\n"
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
    vjp = torch.func.vjp(model, x)[1]
    calls = [0]

    def forward(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        direction = torch.from_numpy(np.ascontiguousarray(v)).reshape(x.shape)
        return torch.func.jvp(model, (x,), (direction,))[1].flatten().numpy()

    def reverse(u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        direction = torch.from_numpy(np.ascontiguousarray(u)).reshape(shape)
        return vjp(direction)[0].flatten().numpy()

    by_hand = sla.LinearOperator(J.shape, matvec=forward, rmatvec=reverse, dtype=np.float32)
    for name, operator, target in (
        ("on our operator", as_scipy(J), 5.0),
        ("on torch.func by hand", by_hand, 10.0),
    ):
        before, calls[0] = J.products.total, 0
        began = time.perf_counter()
        values = sla.svds(operator, k=k, tol=tol, solver="arpack")[1]
        wall = time.perf_counter() - began
        products = calls[0] or J.products.total - before
        off = np.abs(np.sort(values)[::-1] - ours.s.numpy()).max() / float(ours.s[0])
        ratio = wall / ours.seconds
        met = "met" if ratio >= target else "missed"
        print(
            f"  {name:22} {wall:6.1f} s, {products / (2 * k):.2f} x 2k products; ours "
            f"({ours.method}) {ours.seconds:.1f} s: {ratio:.1f} times faster "
            f"(target {target:g}, {met}); values differ by {off:.0e} s1"
        )
        report[f"arpack {name}"] = {"seconds": wall, "ours": ours.seconds, "ratio": ratio}


def warm_starts(report: dict[str, Any]) -> None:
    print("\nWarm starts, output, k = 50, method golub-kahan")
    J, other = jacobian("output"), jacobian("output", photo=1)
    first = svds(J, 50, tol=1e-2, method="golub-kahan")
    for name, operator, tol in (
        ("same photo, tol 1e-2 to 1e-5", J, 1e-5),
        ("another photo, tol 1e-4", other, 1e-4),
    ):
        cold, warm = (
            svds(operator, 50, tol=tol, method="golub-kahan", start=start)
            for start in (None, first)
        )
        products = cold.products.total, warm.products.total
        print(f"  {name:30} {products[0]} products cold, {products[1]} warm")
        report[f"warm start, {name}"] = {"cold": products[0], "warm": products[1]}


def blocks(tol: float, report: dict[str, Any]) -> None:
    print(f"\nBlocks, products and seconds, tol = {tol:g}, method golub-kahan")
    for depth in TARGETS:
        J = jacobian(depth)
        for k in (1, 5, 20, 50, 128):
            costs = []
            for block in (2, 4, 8, 16):
                result = svds(
                    J, k, tol=tol, method="golub-kahan", block_size=block, on_unconverged="ignore"
                )
                costs.append((result.products.total, result.seconds))
            chosen = svds(J, k, tol=tol, method="golub-kahan", on_unconverged="ignore").plan
            text = ", ".join(
                f"{block}: {count} {seconds:.1f} s"
                for block, (count, seconds) in zip((2, 4, 8, 16), costs, strict=True)
            )
            print(
                f"  {depth:10} k = {k:3}  {text}; planned {chosen.block_size}, "
                f"{chosen.predicted_products} products"
            )
            report[f"blocks, {depth}, k = {k}"] = costs


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks solver", description=__doc__.splitlines()[0]
    )
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--skip-arpack", action="store_true")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    report: dict[str, Any] = {}
    warm_starts(report)
    blocks(options.tol, report)
    depths(options.k, options.tol, report)
    if not options.skip_arpack:
        arpack(options.k, options.tol, report)
    return report
