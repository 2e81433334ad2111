"""What an operator of a large model costs before and in its products; the part "large_models".

python -m benchmarks large_models [--problem NAME]

Each row is measured in a process of its own (`large_models_child.py`). Memory is what making the
operator added to the weights: resident, and the storages of all tensors that Python can reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.measure.children import run_child

_LIMIT = 1800.0

CASES: dict[str, dict[str, Any]] = {
    "gpt2, 16 tokens": {"model": "gpt2", "tokens": 16},
    "gpt2 to h.8, 256 tokens": {"model": "gpt2", "passed": 9, "tokens": 256},
    "gpt2 to h.8, 512 tokens": {"model": "gpt2", "passed": 9, "tokens": 512},
    "gpt2 to h.8, 1024 tokens": {"model": "gpt2", "passed": 9, "tokens": 1024},
    "gpt2 to h.8, 1024 tokens, recompute": {
        "model": "gpt2", "passed": 9, "tokens": 1024, "recompute": True,
    },
    "gpt2 to h.2, 2048 tokens": {"model": "gpt2", "blocks": 4, "passed": 3, "tokens": 2048},
    "gpt2-medium, 16 tokens": {"model": "gpt2-medium", "tokens": 16},
    "gpt2-medium, 128 tokens": {"model": "gpt2-medium", "tokens": 128},
    "llama-1b, 16 tokens": {"model": "llama-1b", "tokens": 16},
    "llama-1b bfloat16, 16 tokens": {"model": "llama-1b", "tokens": 16, "dtype": "bfloat16"},
    # The largest in float32 that 24 GiB hold: half of its blocks, and the top 20 triplets.
    "llama-3b, 16 tokens": {"model": "llama-3b", "tokens": 16, "triplets": 20},
}  # fmt: skip
QUICK = {
    "gpt2 of 2 blocks, 16 tokens": {"model": "gpt2", "blocks": 2, "tokens": 16, "triplets": 3},
    "gpt2 of 4 blocks, 64 tokens, recompute": {
        "model": "gpt2", "blocks": 4, "tokens": 64, "recompute": True,
    },
    "llama-1b of 1 block, bfloat16": {
        "model": "llama-1b", "blocks": 1, "tokens": 8, "dtype": "bfloat16",
    },
}  # fmt: skip


def measure(cases: dict[str, dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield a row for each case, and print it."""
    print(
        f"{'':32} {'parameters':>10} {'inference':>9} {'making':>8} {'':>12} "
        f"{'kept':>8} {'tensors':>8} {'peak':>8}  product"
    )
    for name, case in cases.items():
        ended = run_child("benchmarks.parts.large_models_child", case, limit=_LIMIT)
        if not ended.rows:
            yield {"problem": name, "note": ended.failure or "no answer"}
            print(f"{name:32} {ended.failure}", flush=True)
            continue
        (row,) = ended.rows
        print(_line(name, row), flush=True)
        if "triplets" in row:
            print(_solve_line(row), flush=True)
        yield {"problem": name, "note": "", **row}


def _line(name: str, row: dict[str, Any]) -> str:
    mib = {each: row[each] / 2**20 for each in ("kept_bytes", "tensor_bytes", "peak_bytes")}
    made = row["making_seconds"] / row["inference_seconds"]
    products = "/".join(
        f"{row[each] / row['inference_seconds']:.2f}" for each in ("jvp_seconds", "vjp_seconds")
    )
    return (
        f"{name:32} {row['parameters'] / 1e6:8.0f} M {row['inference_seconds']:7.2f} s "
        f"{row['making_seconds']:6.1f} s {made:5.1f} inf. {row['evaluations']:3d} "
        f"{mib['kept_bytes']:8.0f} {mib['tensor_bytes']:8.0f} {mib['peak_bytes']:8.0f}  {products}"
    )


def _solve_line(row: dict[str, Any]) -> str:
    return (
        f"{'':32} {row['certified']} of {row['triplets']} triplets certified, "
        f"σ1 = {row['s'][0]:.5g}, σ{row['triplets']} = {row['s'][-1]:.5g}, "
        f"{row['products']} products, {row['solve_seconds']:.0f} s"
    )
