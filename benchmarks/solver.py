"""`svds` against its floor, against SciPy's ARPACK, and a batch against one solve after another.

    python -m benchmarks.solver [-k 500] [--tol 1e-4] [--depths output,_blocks.15] [--block N]
                                [--also-blocks 4] [--arpack-depth output] [--skip-arpack]
                                [--json FILE]

Everything runs in one process, on the Jacobian of EfficientNet-Lite0 with its ImageNet weights at
a photo, in float32, with glibc told to keep freed memory, for us and for our peers:

1. Depths. Each method against its floor: k batched JVPs and k batched VJPs at the best chunk, what
   k triplets would cost if their vectors were known. Products are counted as a multiple of these
   2k, the certificate's included. A derivative is recorded once for all solves; that is printed on
   its own and in no other figure. Dense algebra is all that is not a product.
2. ARPACK, through `scipy.sparse.linalg.svds` at the same k and tol, on our operator and on a
   torch.func operator as one would write it by hand, one vector at a time.
3. Batch: 16 small Jacobians in lock step against a loop, from the function to the result.
4. Warm starts: products with `start=` against those without.

The targets are for k = 500 and tol = 1e-4. What takes less than 5 s is the median of 3 runs.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import (
    ROUNDS,
    SHORT,
    Report,
    Watches,
    machine,
    median_seconds,
    operator,
    recorded,
    seconds,
    watched,
)
from benchmarks.peers import against_arpack, batches
from jvpsvd import JacobianOperator, SVDResult, svds
from jvpsvd.networks import OUTPUT
from jvpsvd.operators import LinearMap, keep_freed_memory

MOST_PRODUCTS = {OUTPUT: 1.2, "_blocks.15": 1.6}
CHUNKS, FLOOR_VECTORS = (4, 8, 16, 32), 32
WARM_K = 50


def floor(report: Report, linear_map: LinearMap, k: int) -> float:
    """Return the time of k JVPs and k VJPs, each at its best chunk."""
    best = {"JVP": (float("inf"), 0), "VJP": (float("inf"), 0)}
    for chunk in CHUNKS:
        J = operator(linear_map, chunk)
        V, U = (torch.randn(FLOOR_VECTORS, size).T for size in reversed(J.shape))
        for name, spent in (
            ("JVP", median_seconds(lambda J=J, V=V: J @ V)),
            ("VJP", median_seconds(lambda J=J, U=U: J.T @ U)),
        ):
            best[name] = min(best[name], (spent / FLOOR_VECTORS, chunk))
    report.of("floor")
    for name, (each, chunk) in best.items():
        report.figure(f"{name} at its best chunk", each, f"{1e3 * each:.1f} ms (chunk {chunk})")
    least = k * sum(each for each, _ in best.values())
    report.figure(f"{k} of each", least, f"{least:.2f} s")
    return least


def solve(
    J: JacobianOperator, k: int, tol: float, method: str, block: int | None
) -> tuple[SVDResult, Watches]:
    """Return the solve of median length, of one if it is long."""
    runs: list[tuple[SVDResult, Watches]] = []
    while len(runs) < (ROUNDS if not runs or runs[0][0].seconds < SHORT else 1):
        with watched(J) as watches:
            result = svds(J, k, tol=tol, method=method, block_size=block, on_unconverged="ignore")
        runs.append((result, watches))
    middle = statistics.median_low(result.seconds for result, _ in runs)
    return next(run for run in runs if run[0].seconds == middle)


def show(report: Report, k: int, run: tuple[SVDResult, Watches], least: float, most: float) -> None:
    result, watches = run
    spent, wall = result.products, result.seconds
    ratio, certificate = spent.total / (2 * k), result.certificate
    inside = watches.forward.seconds + watches.reverse.seconds
    share, looks = 1 - inside / wall, watches.projected.seconds / wall
    residual = float(result.residuals.max() / result.s[0])
    report.figure(
        "products / 2k",
        ratio,
        f"{ratio:.3f} ({spent.forward} forward, {spent.reverse} reverse)",
        at_most=most,
    )
    report.figure("wall", wall, f"{wall:.2f} s")
    report.figure("wall / floor", wall / least, f"{wall / least:.2f}", at_most=2.0)
    report.figure("inside products", inside, f"{inside:.2f} s")
    for name, watch, count in (
        ("JVP", watches.forward, spent.forward),
        ("VJP", watches.reverse, spent.reverse),
    ):
        each = watch.seconds / count
        report.figure(f"per {name}", each, f"{1e3 * each:.1f} ms")
    report.figure("share of dense algebra", share, f"{100 * share:.1f} %", at_most=0.2)
    report.figure("share of projected SVDs", looks, f"{100 * looks:.1f} %", at_most=0.05)
    report.figure("worst residual / s1", residual, f"{residual:.1e}", at_most=result.tol)
    done = int(result.converged.sum())
    report.figure("converged", done, f"{done} of {k}", at_least=k)
    for name, held in (("sound", certificate.sound), ("complete", certificate.complete)):
        report.figure(name, float(held), "yes" if held else "NO", at_least=1)


def depth(report: Report, name: str, options: argparse.Namespace) -> None:
    k, tol = options.k, options.tol
    maps: list[LinearMap] = []
    recording = seconds(lambda: maps.extend(recorded(name, 0)))
    J = operator(maps[0])
    m, n = J.shape
    report.section(f"{name}: {m} x {n}, k = {k}, tol = {tol:g}, chunk {J.chunk}")
    report.of("recording")
    report.figure("model, photo, recording", recording, f"{recording:.1f} s")
    least = floor(report, maps[0], k)
    methods = [("auto", None)] if name == OUTPUT else []
    methods += [("golub-kahan", b) for b in (options.block, *options.also_blocks)]
    exact: Tensor | None = None
    for method, block in methods:
        run = solve(J, k, tol, method, block)
        result = run[0]
        chosen = f" ({result.method})" if method == "auto" else ""
        report.of(f"{method}{chosen}, block {result.plan.block_size}")
        show(report, k, run, least, MOST_PRODUCTS.get(name, float("inf")))
        if result.method == "exact":
            exact = result.s
        elif name == OUTPUT:
            if exact is None:
                exact = svds(J, k, tol=tol, method="exact", on_unconverged="ignore").s
            off = float((result.s - exact).abs().max() / exact[0])
            report.figure("values off the exact ones", off, f"{off:.1e} s1", at_most=tol)
    floor(report, maps[0], k)  # again: whether the machine changed speed in between
    report.save()


def warm_starts(report: Report, tol: float) -> None:
    report.section(f"Warm starts, {OUTPUT}, k = {WARM_K}, method golub-kahan")
    J, other = (operator(linear_map) for linear_map in recorded(OUTPUT, 0, 1))

    def products(
        A: JacobianOperator, tol: float, start: SVDResult | None = None
    ) -> tuple[SVDResult, str]:
        result = svds(
            A, WARM_K, tol=tol, method="golub-kahan", start=start, on_unconverged="ignore"
        )
        done, worst = int(result.converged.sum()), float(result.residuals.max() / result.s[0])
        return result, f"{result.products.total} ({done} converged, residual {worst:.0e} s1)"

    cases = (
        ("the same photo, from 1e-2 to 1e-6", J, 1e-2, 1e-6),
        ("photo 2 from photo 1", other, tol, tol),
    )
    for name, A, early, late in cases:
        first, spent = products(J, early)
        cold, alone = products(A, late)
        warm, after = products(A, late, first)
        saved = 1 - warm.products.total / cold.products.total
        report.of(name)
        report.figure(f"the start, tol {early:g}", first.products.total, spent)
        report.figure(f"cold, tol {late:g}", cold.products.total, alone)
        report.figure(f"warm, tol {late:g}", warm.products.total, after)
        report.figure("saved", saved, f"{100 * saved:.0f} %")
    report.save()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--depths", default=",".join(MOST_PRODUCTS), help="with commas between")
    parser.add_argument("--block", type=int, help="vectors per step; the solver's own choice")
    parser.add_argument("--also-blocks", type=int, nargs="*", default=[4])
    parser.add_argument("--skip-arpack", action="store_true")
    parser.add_argument("--arpack-depth", default=OUTPUT)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kept = keep_freed_memory()
    report = Report({key: str(value) for key, value in vars(options).items()}, options.json)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"freed memory kept: {'yes' if kept else 'no, this C library is not glibc'}")
    if (options.k, options.tol) != (500, 1e-4):
        print("the targets are for k = 500 and tol = 1e-4")
    for name in filter(None, options.depths.split(",")):
        depth(report, name, options)
    batches(report)
    report.save()
    warm_starts(report, options.tol)
    if not options.skip_arpack:
        against_arpack(report, options.arpack_depth, options.k, options.tol)
    report.summary()
    report.save()


if __name__ == "__main__":
    main()
