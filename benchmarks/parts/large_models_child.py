"""The child of the part "large_models": one model, one operator.

python -m benchmarks.parts.large_models_child OPTIONS.json ANSWER.jsonl
"""

from __future__ import annotations

import ctypes
import gc
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.measure.children import serve
from benchmarks.measure.memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.measure.timing import time_least
from benchmarks.problems.language_models import language_model
from jvpsvd import JacobianOperator, svds
from jvpsvd.operators import keep_freed_memory

_VECTORS = 16


def measure_case(case: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one case."""
    dtype = case.get("dtype", "float32")
    net, width = language_model(
        case["model"], passed=case.get("passed"), blocks=case.get("blocks"), dtype=dtype
    )
    # As a surveyed network is held: nothing is learned.
    net.requires_grad_(case.get("requires_grad", False))
    x = torch.randn(case["tokens"], width, generator=torch.Generator().manual_seed(1))
    z = x.to(getattr(torch, dtype))
    with torch.no_grad():
        inference = time_least(lambda: net(z), 3)
    JacobianOperator(nn.Linear(2, 2), torch.ones(2), derivatives="trace")  # what torch loads once
    evaluations = _count_evaluations(net)
    _collect()
    resident, tensors = reset_peak(), tensor_bytes()
    began = time.perf_counter()
    converted = None if dtype == "float32" else torch.float32
    recompute = case.get("recompute", False)
    J = JacobianOperator(net, x, dtype=converted, derivatives="trace", recompute=recompute)
    making, peak, count = time.perf_counter() - began, peak_bytes(), len(evaluations)
    _collect()
    kept, held = resident_bytes() - resident, tensor_bytes() - tensors
    V, U = torch.randn(J.shape[1], _VECTORS), torch.randn(J.shape[0], _VECTORS)
    jvp = time_least(lambda: J @ V, 2) / _VECTORS
    vjp = time_least(lambda: J.T @ U, 2) / _VECTORS
    row = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "weight_bytes": sum(p.nbytes for p in net.parameters()),
        "inference_seconds": inference,
        "making_seconds": making,
        "evaluations": count,
        "kept_bytes": kept,
        "tensor_bytes": held,
        "peak_bytes": peak - resident,
        "jvp_seconds": jvp,
        "vjp_seconds": vjp,
    }
    return row | _solve(J, case["triplets"]) if "triplets" in case else row


def _solve(J: JacobianOperator, k: int) -> dict[str, Any]:
    """Return what the leading triplets of J are, and what they took."""
    result = svds(J, k)
    return {
        "triplets": k,
        "certified": int(result.converged.sum()),
        "s": [float(f"{value:.6g}") for value in result.s.tolist()],
        "products": result.products.total,
        "solve_seconds": result.seconds,
        "solve_peak_bytes": peak_bytes(),
    }


def _count_evaluations(net: nn.Module) -> list[None]:
    """Return a list that gets an entry whenever the network is evaluated."""
    seen: list[None] = []

    def note(module: nn.Module, args: object, output: object) -> None:
        seen.append(None)

    net.register_forward_hook(note)
    return seen


def tensor_bytes() -> int:
    """Return the bytes of the storages of all tensors that Python's collector can reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = (each for each in gc.get_objects() if isinstance(each, Tensor))
        tensors = [each for each in found if not isinstance(each, FakeTensor)]
    plain = [t for t in tensors if t.layout == torch.strided and t.device.type != "meta"]
    storages = {}
    for t in plain:
        try:
            storage = t.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        except (RuntimeError, NotImplementedError):  # one without memory, of a tracer
            continue
    return sum(storages.values())


def _collect() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    case, reply = serve()
    if case.get("threads"):
        torch.set_num_threads(case["threads"])
    keep_freed_memory()
    reply.write(measure_case(case))


if __name__ == "__main__":
    main()
