"""The child of the growth part: one point of one axis.

python -m benchmarks.parts.growth_child OPTIONS.json ANSWER.jsonl
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.children import serve
from benchmarks.measure.memory import peak_bytes, reset_peak
from benchmarks.problems.catalogue import find_problem
from benchmarks.problems.networks import UnavailableError, digits
from benchmarks.problems.problem import JacobianProblem
from benchmarks.problems.spectra import spectral
from jvpsvd import JacobianOperator, LinearOperator, svds
from jvpsvd.operators import keep_freed_memory

_TOL = 1e-4


def solve(A: LinearOperator, k: int) -> dict[str, Any]:
    """Return what one solve cost; the operator is recorded before."""
    before = reset_peak()
    result = svds(A, k, tol=_TOL, on_unconverged="ignore")
    return {
        "seconds": result.seconds,
        "peak_bytes": max(1, peak_bytes() - before),
        "products": result.products.total,
    }


def by_workers(count: int, k: int, photos: int) -> dict[str, Any]:
    """Return the seconds of a photo in a survey by Ray workers, and the memory of all of Ray."""
    from benchmarks.measure.descendants import watch_memory
    from benchmarks.parts.survey import DEPTH, photo_shard, timed_run
    from jvpsvd.survey import Spec

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = Spec(
            shards=[photo_shard(folder, photos)],
            layers=[DEPTH],
            k=k,
            tol=_TOL,
            engine="ray",
            workers=count,
            out=folder / "run",
        )
        with watch_memory() as peak:
            seconds, done, _ = timed_run(spec)
    return {"seconds": seconds / done, "peak_bytes": peak(), "products": 0}


def by_ranks(count: int, name: str, k: int) -> dict[str, Any]:
    """Return the seconds of one solve whose columns are divided among processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (count, name, k, folder), nprocs=count)
        rows = [torch.load(Path(folder, f"{r}.pt"), weights_only=True) for r in range(count)]
    return {
        "seconds": max(row["seconds"] for row in rows),
        "peak_bytes": sum(row["peak_bytes"] for row in rows),
        "products": rows[0]["products"],
    }


def _rank(rank: int, count: int, name: str, k: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    keep_freed_memory()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
    )
    problem = find_problem(name).build()
    if not isinstance(problem, JacobianProblem):
        raise TypeError(f"{name} is no Jacobian, and has no ranks")
    J = JacobianOperator(problem.function, problem.point, group=dist.group.WORLD)
    dist.barrier()  # others may still be recording
    began = time.perf_counter()
    row = solve(J, k)
    row["seconds"] = time.perf_counter() - began
    torch.save(row, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def measure_point(options: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one point of an axis."""
    axis, x = options["axis"], options["x"]
    if axis == "k":
        A = find_problem(options["problem"]).build().operator()
        return solve(A, min(x, *A.shape))
    if axis == "n":
        return solve(spectral(options["spectrum"], x), options["k"])
    if axis == "images":
        return solve(digits(x).operator(), options["k"])
    if axis == "workers":
        return by_workers(x, options["k"], options["photos"])
    if axis == "ranks":
        return by_ranks(x, options["problem"], options["k"])
    raise ValueError(f"there is no axis {axis}")


def main() -> None:
    options, reply = serve()
    keep_freed_memory()
    try:
        reply.write(measure_point(options))
    except (UnavailableError, ImportError) as error:
        reply.write({"unavailable": str(error)})


if __name__ == "__main__":
    main()
