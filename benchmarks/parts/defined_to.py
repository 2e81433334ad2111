"""How well a ReLU network's Jacobian is defined, compared with how far it really moves.

    python -m benchmarks defined_to --shards FOLDER [--photos 100] [-k 10] [--layers …]

At each photo and depth the certificate estimates how far rounding of the photo moves J. This script
measures how far J and its leading values move between one thread and two, and between float32 and
float64, which rounds 10⁹ times less. It prints the norms of the differences of J V, for the leading
right vectors V, and the differences of the values, all over σ₁. A difference above rounding and
above three times the estimate counts as missed. The network is EfficientNet-Lite0 with its real
weights.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from jvpsvd import JacobianOperator, svds
from jvpsvd.data import decode_photo, find_shards, read_photos, walk
from jvpsvd.networks import Model, layer_maps, load_model
from jvpsvd.operators import LinearMap, Trace, full_precision

_ROUNDING = 3e-6  # differences of smooth networks of this size in float32, over σ₁
_FACTOR = 3.0  # an estimate from two random combinations is right within about this factor


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks defined_to",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", required=True)
    parser.add_argument("--photos", type=int, default=100, help="spread over the collection")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="leave out the first N")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--layers", nargs="+", default=["_blocks.9", "output"])
    options = parser.parse_args(arguments)
    model = load_model("efficientnet-lite0")
    chosen = choose_photos(options.shards, options.photos)[options.first :]
    inputs = [decode_photo(photo, model.photo_input) for photo in chosen]
    rows = list(measure(model, inputs, options.layers, options.k))
    for layer in options.layers:
        of_layer = [row for row in rows if row["layer"] == layer]
        print(f"\n{layer}: {len(of_layer)} photos, k = {options.k}, all over σ1")
        said = [row["defined_to"] for row in of_layer]
        print(f"{'certificate says':24} {quantiles(said)}")
        for name in ("threads", "float64", "threads, values", "float64, values"):
            found = [row[name] for row in of_layer]
            missed = sum(d > max(_ROUNDING, _FACTOR * s) for d, s in zip(found, said, strict=True))
            moved = sum(d > _ROUNDING for d in found)
            print(f"{name:24} {quantiles(found)}; moved {moved}, missed {missed}")
    return 0


def choose_photos(shards: str, count: int) -> list[bytes]:
    """Return so many photos, spread over the collection."""
    found = [
        photo
        for shard in find_shards(shards)
        for _, photo in read_photos(shard, walk(shard))
        if photo is not None
    ]
    return found[:: max(1, len(found) // count)][:count]


def measure(
    model: Model, inputs: Sequence[Tensor], layers: Sequence[str], k: int
) -> Iterator[dict[str, float | str]]:
    """Yield a row for each photo and layer, and print it."""
    single = Trace(layer_maps(model.module, inputs[0], layers), inputs[0])
    wide = copy.deepcopy(model.module).double()
    double = Trace(layer_maps(wide, inputs[0].double(), layers), inputs[0].double())
    for number, x in enumerate(inputs):
        torch.set_num_threads(1)
        one, exact = map_at(single, x), map_at(double, x.double())
        results = [svds(JacobianOperator.from_linear_map(J), k) for J in one]
        torch.set_num_threads(2)
        two = map_at(single, x)
        others = [svds(JacobianOperator.from_linear_map(J), k).s for J in two]
        torch.set_num_threads(1)
        for depth, layer in enumerate(layers):
            result = results[depth]
            V, top = result.Vh.mT, float(result.s[0])
            images = products(one[depth], V)
            wider = svds(JacobianOperator.from_linear_map(exact[depth]), k, vectors=False).s
            row = {
                "layer": layer,
                "defined_to": result.certificate.defined_to,
                "threads": norm(products(two[depth], V) - images) / top,
                "float64": norm(products(exact[depth], V) - images) / top,
                "threads, values": float((others[depth] - result.s).abs().max()) / top,
                "float64, values": float((wider - result.s).abs().max()) / top,
            }
            text = ", ".join(f"{n} {v:.0e}" for n, v in row.items() if isinstance(v, float))
            print(f"photo {number:3} {layer:10} {text}", flush=True)
            yield row


def map_at(trace: Trace, x: Tensor) -> tuple[LinearMap, ...]:
    with full_precision():
        return trace.at(x)


def products(J: LinearMap, V: Tensor) -> Tensor:
    A = JacobianOperator.from_linear_map(J)
    return A.matmat(V.to(A.dtype)).double()


def norm(difference: Tensor) -> float:
    return float(torch.linalg.matrix_norm(difference, 2))


def quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    picked = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.9, 1.0))
    return "median {:.0e}, 9 of 10 below {:.0e}, most {:.0e}".format(*picked)
