"""What `jvpsvd layers` foretells beside what solves take, in one process.

    python -m benchmarks forecast [-k K] [--tol TOL] [--layers NAME,NAME] [--photos N]

Forecast and solves are of EfficientNet-Lite0 on photos of foolbox. A ratio is seconds taken over
seconds foretold. The one by the clock of the processor leaves out what other programs took of it;
on one thread it is that of an idle machine. The forecast is made before and after the solves, and
the mean of the two counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import Derivatives, load_model
from jvpsvd.operators import JacobianOperator, LinearMap, keep_freed_memory
from jvpsvd.survey import depth_costs
from jvpsvd.svd import svds

_LAYERS = "_blocks.2,_blocks.5,_blocks.10,_blocks.15,output"


def main(arguments: list[str]) -> list[dict[str, Any]]:
    """Print a line for each depth; return them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks forecast", description=__doc__)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--layers", default=_LAYERS)
    parser.add_argument("--photos", type=int, default=1)
    asked = parser.parse_args(arguments)
    keep_freed_memory()
    names = asked.layers.split(",")
    model = load_model("efficientnet-lite0")
    found = demo_photos()[: asked.photos]
    photos = [decode_photo(one.file.read_bytes(), model.photo_input) for one in found]
    derivatives = Derivatives(model.module, model.example(), names)
    rows: list[dict[str, Any]] = [{"depth": name, "k": asked.k} for name in names]

    def foretell() -> None:
        costs = {cost.name: cost for cost in depth_costs(model, asked.k, tol=asked.tol)}
        for row in rows:
            cost = costs[row["depth"]]
            row["method"], row["planned_products"] = cost.method, cost.products
            row.setdefault("foretold", []).append(cost.seconds)

    foretell()
    for photo in photos:
        for row, J in zip(rows, derivatives.at(photo, "photo"), strict=True):
            if not isinstance(J, LinearMap):
                raise J
            A = JacobianOperator.from_linear_map(J)
            wall, cpu = time.perf_counter(), time.process_time()
            result = svds(
                A, min(asked.k, *A.shape), tol=asked.tol, vectors=False, on_unconverged="ignore"
            )
            row["seconds"] = row.get("seconds", 0) + time.perf_counter() - wall
            row["cpu_seconds"] = row.get("cpu_seconds", 0) + time.process_time() - cpu
            row["products"] = row.get("products", 0) + sum(result.products)
    foretell()
    print(f"{'':12} {'products':>17} {'foretold':>9} {'took':>8} {'ratio':>6} {'of CPU':>7}")
    for row in rows:
        row["foretold"] = sum(row["foretold"]) / len(row["foretold"])
        for name in ("seconds", "cpu_seconds", "products"):
            row[name] /= len(photos)
        row["ratio"] = row["seconds"] / row["foretold"]
        row["cpu_ratio"] = row["cpu_seconds"] / row["foretold"]
        print(
            f"{row['depth']:12} {row['products']:8.0f} of {row['planned_products']:5d} "
            f"{row['foretold']:7.2f} s {row['seconds']:6.2f} s {row['ratio']:6.2f} "
            f"{row['cpu_ratio']:7.2f}",
            flush=True,
        )
    return rows
