"""How well a ReLU network's Jacobian is defined, held against what really moves it.

    python -m benchmarks.defined_to --shards FOLDER [--photos 100] [-k 10] [--layers …]

At each photo and depth the certificate says how far rounding of the photo moves J. Beside that
stand the same J by two threads and by one, and J in float64, which rounds 10⁹ times less: the norms
of the differences, restricted to the leading right vectors V, and how far the leading values moved,
all over σ₁. A difference that is above rounding and above three times what the certificate said is
counted as missed. The network is EfficientNet-Lite0 with its real weights.
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

_ROUNDING = 3e-6  # what smooth networks of this size show in float32, over σ₁
_FACTOR = 3.0  # an estimate by two random combinations is right within about so much


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--layers", nargs="+", default=["_blocks.9", "output"])
    asked = parser.parse_args()
    model = load_model("efficientnet-lite0")
    rows = list(measured(model, asked.shards, asked.photos, asked.layers, asked.k))
    for layer in asked.layers:
        of_layer = [row for row in rows if row["layer"] == layer]
        print(f"\n{layer}: {len(of_layer)} photos, k = {asked.k}, all over σ1")
        said = [row["defined_to"] for row in of_layer]
        print(f"{'certificate says':24} {quantiles(said)}")
        for name in ("threads", "float64", "threads, values", "float64, values"):
            found = [row[name] for row in of_layer]
            missed = sum(d > max(_ROUNDING, _FACTOR * s) for d, s in zip(found, said, strict=True))
            moved = sum(d > _ROUNDING for d in found)
            print(f"{name:24} {quantiles(found)}; moved {moved}, missed {missed}")


def measured(
    model: Model, shards: str, photos: int, layers: Sequence[str], k: int
) -> Iterator[dict[str, float | str]]:
    found = [
        photo
        for shard in find_shards(shards)
        for _, photo in read_photos(shard, walk(shard))
        if photo is not None
    ]
    chosen = found[:: max(1, len(found) // photos)][:photos]
    inputs = [decode_photo(photo, model.photo_input) for photo in chosen]
    single = Trace(layer_maps(model.module, inputs[0], layers), inputs[0])
    wide = copy.deepcopy(model.module).double()
    double = Trace(layer_maps(wide, inputs[0].double(), layers), inputs[0].double())
    for number, x in enumerate(inputs):
        torch.set_num_threads(1)
        one, exact = at(single, x), at(double, x.double())
        results = [svds(JacobianOperator.from_linear_map(J), k) for J in one]
        torch.set_num_threads(2)
        two = at(single, x)
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
            told = ", ".join(f"{n} {v:.0e}" for n, v in row.items() if isinstance(v, float))
            print(f"photo {number:3} {layer:10} {told}", flush=True)
            yield row


def at(trace: Trace, x: Tensor) -> tuple[LinearMap, ...]:
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


if __name__ == "__main__":
    main()
