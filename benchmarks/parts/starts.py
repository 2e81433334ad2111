"""Products of `svds` beside those of blocks of one vector, from random and from given starts.

    python -m benchmarks starts [--photos 16] [-k 50] [--layers _blocks.9,_blocks.15]
                                [--shards FOLDER]

At photo after photo, the Jacobians of EfficientNet-Lite0 up to a few depths are solved by
Golub–Kahan:
- random: as `svds` does by itself, with the width of blocks that it chooses;
- half as wide: the same in blocks of half that width;
- the previous photo: from its vectors of the same depth;
- the depth before: from J2 V Ω, where V are the right vectors of the depth before at this photo
  and Ω mixes them into one block. These forward products count.
The bound is what blocks of one vector take: as many columns as their residuals need, as many probe
columns and steps with them, and as many products of the certificate. Blocks of one vector never
show that a value is not repeated, so `svds` itself does not solve with them.

Products are counted, so a busy machine changes nothing; the seconds are those of the processor.
Photos are those of the demo, which has two of one class only, or the first ones of each class of a
folder of shards.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.publish.tables import table
from jvpsvd import JacobianOperator, LinearOperator, SVDResult, svds
from jvpsvd.data import decode_photo, demo_photos, find_shards, read_photos, walk
from jvpsvd.networks import Derivatives, load_model
from jvpsvd.operators import keep_freed_memory
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.methods.golub_kahan import GolubKahan

NETWORK = "efficientnet-lite0"
WAYS = ("random", "half as wide", "the previous photo", "the depth before")
PER_CLASS = 4
# The residual that the recurrence has to predict, in units of tol, as `BatchConvergence` asks for.
_SAFETY = 0.7
# Products besides those of the recurrence: four each for the adjoint test and the certificate.
_CHECKS = 8


@dataclass(frozen=True)
class Photo:
    """A photo and its class."""

    label: int | None
    content: bytes


def choose_photos(count: int, shards: str | None) -> list[Photo]:
    """Return photos of the demo, or the first of each class of a collection, class by class."""
    if shards is None:
        return [Photo(one.label, one.file.read_bytes()) for one in demo_photos()[:count]]
    classes: dict[int | None, list[Photo]] = collections.defaultdict(list)
    for shard in find_shards(shards):
        for sample, content in read_photos(shard, walk(shard)):
            if content is not None and len(classes[sample.label]) < PER_CLASS:
                classes[sample.label].append(Photo(sample.label, content))
    return [photo for members in classes.values() for photo in members][:count]


def bound(A: LinearOperator, k: int, tol: float, most: int) -> int | None:
    """Return the products that blocks of one vector take; None if `most` columns are too few.

    The recurrence is run once. Its leading parts are what it was before, so the number of columns
    is searched for by halving.
    """
    bases = GolubKahanFactorization(A, block_size=1, seed=0, capacity=most + 1, max_loss=tol)
    bases.initialize()
    while bases.expanded <= most:
        bases.expand()
    if _worst_residual(bases.B, k, most) > _SAFETY * tol:
        return None
    least, enough = k - 1, most
    while enough - least > 1:
        middle = (least + enough) // 2
        if _worst_residual(bases.B, k, middle) <= _SAFETY * tol:
            enough = middle
        else:
            least = middle
    solver = GolubKahan()
    return 2 * (enough + solver.probe_width * solver.probe_steps) + _CHECKS


def _worst_residual(B: Tensor, k: int, size: int) -> float:
    """Return the worst of k residuals, relative to s₁, after so many columns of one vector each."""
    left, s, _ = torch.linalg.svd(B[:size, :size])
    return float((B[size - 1, size] * left[-1, :k]).abs().max() / s[0])


def measure(
    photos: Sequence[Photo], layers: Sequence[str], k: int, tol: float
) -> list[dict[str, Any]]:
    """Return a row for each photo and depth, and print it."""
    model = load_model(NETWORK)
    derivatives = Derivatives(model.module, model.example(), layers, None, None)
    rows: list[dict[str, Any]] = []
    before: list[SVDResult] = []
    for number, photo in enumerate(photos):
        x = decode_photo(photo.content, model.photo_input)
        found: list[SVDResult] = []
        for depth, J in enumerate(map(JacobianOperator.from_linear_map, derivatives.at(x, ""))):
            starts: dict[str, SVDResult | Tensor | None] = {"random": None}
            if before:
                starts["the previous photo"] = before[depth]
            products, seconds = {}, {}
            for name, start in starts.items():
                result, products[name], seconds[name] = _solve(J, k, tol, start)
                if name == "random":
                    found.append(result)
                    half = max(1, result.plan.block_size // 2)
                    _, products["half as wide"], seconds["half as wide"] = _solve(
                        J, k, tol, None, half
                    )
            if depth:
                products["the depth before"], seconds["the depth before"] = _solve_after(
                    J, found[depth - 1], result.plan.block_size, k, tol
                )
            cold = found[depth]
            A = J.T if J.shape[0] < J.shape[1] else J
            row = {
                "photo": number,
                "label": photo.label,
                "same_class": bool(before) and photo.label == photos[number - 1].label,
                "depth": layers[depth],
                "k": k,
                "block": cold.plan.block_size,
                "bound": bound(A, k, tol, cold.products.forward),
                "products": products,
                "seconds": seconds,
            }
            rows.append(row)
            print(format_row(row), flush=True)
        before = found
    return rows


def _solve(
    J: LinearOperator,
    k: int,
    tol: float,
    start: SVDResult | Tensor | None,
    block_size: int | None = None,
) -> tuple[SVDResult, int, float]:
    began = time.process_time()
    result = svds(J, k, tol=tol, method="golub-kahan", start=start, block_size=block_size)
    return result, result.products.total, time.process_time() - began


def _solve_after(
    J: LinearOperator, before: SVDResult, width: int, k: int, tol: float
) -> tuple[int, float]:
    """Return the products and seconds from J2 V Ω, those of this start among them."""
    began, products = time.process_time(), J.products
    start = _image(J, before, width)
    spent = J.products.since(products).total
    _, solved, _ = _solve(J, k, tol, start)
    return spent + solved, time.process_time() - began


def _image(J: LinearOperator, result: SVDResult, width: int) -> Tensor:
    """Return vectors of the shorter side: images of `width` mixtures of right vectors."""
    mixing = torch.randn(len(result.s), width, generator=torch.Generator().manual_seed(1))
    mixed = result.Vh.mT @ mixing.to(result.Vh.dtype)
    return J @ mixed if J.shape[0] < J.shape[1] else mixed


def format_row(row: dict[str, Any]) -> str:
    """Return the line of a row."""
    multiples = ", ".join(
        f"{name} {count / (2 * row['k']):.2f}" for name, count in row["products"].items()
    )
    least = "–" if row["bound"] is None else f"{row['bound'] / (2 * row['k']):.2f}"
    same = ", the class of the one before" if row["same_class"] else ""
    return (
        f"photo {row['photo']:2} {row['depth']:11} blocks of {row['block']}, products / 2k: bound "
        f"{least}, {multiples}{same}"
    )


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each depth and way, means of products over 2k, over the bound and over random."""
    found = []
    for depth in dict.fromkeys(row["depth"] for row in rows):
        for way in WAYS:
            for same in (False, True) if way == "the previous photo" else (None,):
                chosen = [
                    row
                    for row in rows
                    if row["depth"] == depth
                    and way in row["products"]
                    and same in (None, row["same_class"])
                ]
                if chosen:
                    named = f"{way}, of the same class" if same else way
                    found.append({"depth": depth, "start": named, **_means(chosen, way)})
    return found


def _means(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any]:
    bounded = [row for row in rows if row["bound"] is not None]
    return {
        "photos": len(rows),
        "block": rows[0]["block"],
        "multiple": statistics.mean(row["products"][way] / (2 * row["k"]) for row in rows),
        "over_bound": statistics.mean(row["products"][way] / row["bound"] for row in bounded)
        if bounded
        else None,
        "over_random": statistics.mean(
            row["products"][way] / row["products"]["random"] for row in rows
        ),
        "seconds": statistics.mean(row["seconds"][way] for row in rows),
    }


def print_table(means: Sequence[dict[str, Any]], k: int) -> None:
    head = ["depth", "start", "photos", "blocks of", "products / 2k", "over the bound"]
    body = [
        [
            f"`{one['depth']}`",
            one["start"],
            str(one["photos"]),
            str(one["block"]),
            f"{one['multiple']:.2f}",
            "–" if one["over_bound"] is None else f"{one['over_bound']:.2f}",
            f"{one['over_random']:.2f}",
            f"{one['seconds']:.1f} s",
        ]
        for one in means
    ]
    print(f"\nk = {k}")
    print("\n".join(table([*head, "over random", "seconds of the processor"], body)))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks starts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--layers", default="_blocks.9,_blocks.15", help="in order of depth")
    parser.add_argument("--shards", metavar="FOLDER", help="photos of these, class by class")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    photos = choose_photos(options.photos, options.shards)
    rows = measure(photos, options.layers.split(","), options.k, options.tol)
    means = summarize(rows)
    print_table(means, options.k)
    return {"k": options.k, "tol": options.tol, "rows": rows, "means": means}
