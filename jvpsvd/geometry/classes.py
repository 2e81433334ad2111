"""Classes compared by the spectra of their photos: means, variances, distances, separation.

Mototake & Ikegami (section 7) claim that spectra, which describe local geometry only, reflect the
hierarchy of meanings when they are compared class by class. This module has the parts of a test of
that claim: a row of log singular values for each photo, the mean row of each class, distances
between the means, and whether a photo's own class is the nearest. `correlation` compares the
distances with others.

Rows may be other features of each photo, such as colours; these serve as controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from jvpsvd.arguments import generator_of, proper_fraction, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.labels import Labels, numbered
from jvpsvd.geometry.results import Spectra, values_of
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two, powers_of_two, scaled_back

RowDistance = Literal["l2", "wasserstein"]

# Two values that differ by at most this share are equal: sums in another order round differently.
_TIE = 1e-9
_AT_ONCE = 1 << 21  # distances and entries that are held at a time


def log_spectra(s: Spectra, *, floor: float | None = None, shape: bool = False) -> Tensor:
    """Return log s of each photo, float64.

    Args:
        s: Singular values (photos, k), descending, or a result of each photo; the same k for all.
        floor: Values below floor · s₁ of their photo are set to it, so that rounding does not
            decide. None: eps of the dtype. Give the relative accuracy of the values.
        shape: Subtract each photo's mean log, so that c·J has the same row as J. What remains is
            the shape of the spectrum, without the network's gain at the photo.

    Raises:
        ArgumentError: If s is not (photos, k), is negative or rises, or a photo's values are all 0.

    >>> log_spectra(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), floor=0.5)
    tensor([[ 0.0000,  0.0000],
            [ 0.0000, -0.6931]], dtype=torch.float64)
    """
    given = real_tensor("s", values_of(s))
    if given.ndim != 2:
        raise ArgumentError(f"s has shape {tuple(given.shape)}; give spectra as rows, (photos, k)")
    least = torch.finfo(given.dtype).eps if floor is None else proper_fraction("floor", floor)
    values = given.double()
    wrong = (values < 0).any(1) | (values[:, 1:] > values[:, :-1]).any(1) | (values[:, 0] == 0)
    if wrong.any():
        raise ArgumentError(
            f"s[{int(wrong.nonzero()[0])}] is no spectrum; give descending values, not all 0"
        )
    top = values[:, :1]
    logs = (values / top).clamp_min(least).log() + top.log()  # least * top may underflow
    return logs - logs.mean(1, keepdim=True) if shape else logs


@dataclass(frozen=True, eq=False)
class ClassMeans(ComparedByFields):
    """Mean row of each class, with deviations and counts."""

    classes: tuple[Any, ...]
    """C labels, in the order in which they first come."""
    means: Tensor
    """(C, k) means over the photos of each class, float64."""
    deviations: Tensor
    """(C, k) standard deviations within each class, with n − 1; NaN for a class of one photo."""
    counts: Tensor
    """(C,) numbers of photos of each class."""


def class_means(rows: Spectra, labels: Labels) -> ClassMeans:
    """Return the mean row of each class.

    If spectra are taken as distributions of log values, the mean of log spectra is the mean of
    their quantiles, and so the class's barycentre in the Wasserstein metric.

    Args:
        rows: (photos, k), such as `log_spectra`, or a result of each photo.
        labels: One for each photo, of any kind that can be hashed.

    Raises:
        ArgumentError: If rows are not (photos, k), labels do not fit, or float64 cannot hold a
            deviation.

    >>> found = class_means(torch.tensor([[1.0], [2.0], [3.0]]), ["cat", "dog", "cat"])
    >>> found.classes, found.means[:, 0].tolist(), found.counts.tolist()
    (('cat', 'dog'), [2.0, 2.0], [2, 1])
    """
    values = _rows(rows)
    index, classes = numbered(labels, len(values))
    counts = index.bincount()
    scales = powers_of_two(values)  # so that sums and squares stay in the range of float64
    values = values / scales
    means = _sums(values, index, len(classes)) / counts[:, None]
    squares = _sums((values - means[index]) ** 2, index, len(classes))
    deviations = (squares / (counts[:, None] - 1)).sqrt()  # 0 / 0 of a single photo: NaN
    deviations = scaled_back("deviations within classes", deviations, scales)
    return ClassMeans(classes, means * scales, deviations, counts)


def row_distances(rows: Spectra, kind: RowDistance = "l2") -> Tensor:
    """Return the symmetric (C, C) distances between rows, such as class means, in float64.

    "l2" is the root mean square of the entrywise differences; for log spectra it is in nats.
    "wasserstein" takes the k entries of a row as a distribution, each with weight 1/k, and returns
    W₁, the mean absolute difference of the sorted rows. Descending spectra are sorted already, and
    W₁ ≤ l2. A factor that all spectra share changes neither distance.

    Args:
        rows: (C, k).
        kind: Which distance.

    Raises:
        ArgumentError: If rows are not (C, k), or on another kind; if float64 cannot hold a
            distance.

    >>> row_distances(torch.tensor([[3.0, 0.0], [0.0, 3.0], [4.0, 1.0]]), "wasserstein")
    tensor([[0., 0., 1.],
            [0., 0., 1.],
            [1., 1., 0.]], dtype=torch.float64)
    """
    values = _rows(rows)
    scale = power_of_two(values)
    compared, distances = _rows_and_distance(values / scale, kind)
    return scaled_back("distances between rows", distances(compared, compared), scale)


@dataclass(frozen=True, eq=False)
class VarianceRatio(ComparedByFields):
    """Variance between classes compared with variance within, and with permuted labels."""

    f: float
    """(between / (C − 1)) / (within / (P − C)), with sums of squares over all entries; inf if all
    photos of a class are the same. It is near 1 if labels mean nothing."""
    p_value: float
    """(1 + permutations with at least this f) / (1 + permutations)."""
    share: float
    """between / (between + within), η². By chance it is (C − 1) / (P − 1), not 0."""
    chance_share: float
    """(C − 1) / (P − 1), the mean of `share` by chance."""
    entry_shares: Tensor
    """(k,) η² of each entry, such as each log singular value; NaN where it never varies."""
    permutations: int
    """Random relabellings of the photos that were tried."""


def variance_ratio(
    rows: Spectra, labels: Labels, *, permutations: int = 9999, seed: int = 0
) -> VarianceRatio:
    """Compare variance between and within classes: PERMANOVA with Euclidean distances.

    The test assumes that photos are exchangeable if labels mean nothing. Entries of a row may
    depend on each other, and need not be normally distributed. If classes differ in spread and in
    size, f can be large although their means agree. Shifting all rows, or scaling all by one
    factor, changes nothing.

    M. J. Anderson, "A new method for non-parametric multivariate analysis of variance", Austral
    Ecology 26 (2001).

    Args:
        rows: (P, k).
        labels: One for each photo.
        permutations: Number of random relabellings.
        seed: Seed of the random draws.

    Raises:
        ArgumentError: If rows or labels do not fit, all rows are the same, there is one class, or
            no class has two photos.

    >>> test = variance_ratio(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), "aabb", permutations=99)
    >>> round(test.f), round(test.share, 2), test.chance_share == 1 / 3
    (50, 0.96, True)
    """
    permutations = whole_number("permutations", permutations, 1)
    values = _scaled_rows(rows)
    index, classes = numbered(labels, len(values))
    counts, photos = index.bincount()[:, None], len(values)
    if not 2 <= len(classes) < photos:
        raise ArgumentError(
            f"{len(classes)} classes of {photos} photos; give two classes, one of two photos"
        )
    centred = values - values.mean(0)
    # Rounding of the mean is not variance.
    varies = (centred**2).sum(0) > _TIE**2 * (values**2).sum(0)
    centred = centred.where(varies, 0.0)
    total = (centred**2).sum(0)
    if not varies.any():
        raise ArgumentError("all rows are the same; there is no variance to compare")

    def between(order: Tensor) -> Tensor:
        return (_sums(centred[order], index, len(classes)) ** 2 / counts).sum(0)

    found = between(torch.arange(photos))
    share = min(1.0, float(found.sum() / total.sum()))
    generator = generator_of(seed)
    least = float(found.sum()) * (1 - _TIE)
    extreme = sum(
        float(between(torch.randperm(photos, generator=generator)).sum()) >= least
        for _ in range(permutations)
    )
    within = (1 - share) / (photos - len(classes))
    return VarianceRatio(
        f=share / (len(classes) - 1) / within if 1 - share > _TIE else math.inf,
        p_value=(1 + extreme) / (1 + permutations),
        share=share,
        chance_share=(len(classes) - 1) / (photos - 1),
        entry_shares=(found / total).clamp_max(1.0),
        permutations=permutations,
    )


@dataclass(frozen=True, eq=False)
class NearestClass(ComparedByFields):
    """How often a photo is nearest to the mean of its own class, computed without the photo."""

    precision: float
    """Share of photos whose own class is nearest; each of T equally near classes counts 1/T."""
    chance: float
    """1 / C."""
    null_mean: float
    """Mean precision over permuted labels; it equals `chance` if all classes have one size."""
    null_deviation: float
    """Standard deviation of the precision over permuted labels."""
    p_value: float
    """(1 + permutations of at least this precision) / (1 + permutations)."""
    classes: tuple[Any, ...]
    """C labels, in the order of the rows and columns of `confusion`."""
    confusion: Tensor
    """(C, C): share of the photos of each class (row) that are nearest to each class (column)."""
    permutations: int
    """Random relabellings of the photos that were tried."""


def nearest_class(
    rows: Spectra,
    labels: Labels,
    *,
    kind: RowDistance = "l2",
    permutations: int = 999,
    seed: int = 0,
) -> NearestClass:
    """Assign each photo to the nearest class mean, computed without the photo.

    A mean that includes the photo is nearer only because it does. But if the photo were left out of
    its own class alone, that mean would be taken over fewer photos than the others and lie farther
    from everything; in many dimensions, precision then falls far below chance. So one photo of
    every class is left out at a time, in groups drawn by the seed. If all classes have one size,
    noise then has the expected precision 1/C. If sizes differ, larger classes attract more photos,
    and permuted labels, which keep the sizes, show by how much.

    The test assumes that photos are exchangeable if labels mean nothing.

    Args:
        rows: (P, k), such as `log_spectra`.
        labels: One for each photo; each class needs two or more photos.
        kind: See `row_distances`.
        permutations: Number of random relabellings.
        seed: Seed of the random draws.

    Raises:
        ArgumentError: If rows or labels do not fit, there is one class, or one has one photo.

    >>> rows = torch.tensor([[0.0], [1.0], [0.5], [9.0], [8.0], [1.5]])
    >>> found = nearest_class(rows, "aaabbb", permutations=99)
    >>> round(found.precision, 2), found.confusion[1]
    (0.83, tensor([0.3333, 0.6667], dtype=torch.float64))
    """
    permutations = whole_number("permutations", permutations, 1)
    values, distances = _rows_and_distance(_scaled_rows(rows), kind)
    index, classes = numbered(labels, len(values))
    counts = index.bincount()
    if len(classes) < 2:
        raise ArgumentError("one class has no other to be nearer to; give two or more")
    if int(counts.min()) < 2:
        raise ArgumentError(
            f"class {classes[int(counts.argmin())]!r} has one photo; leaving it out leaves nothing"
        )
    generator = generator_of(seed)
    confusion = _confusion(values, index, distances, generator)
    precision = float(confusion.trace()) / len(values)
    drawn = []
    for _ in range(permutations):
        shuffled = index[torch.randperm(len(index), generator=generator)]
        drawn.append(float(_confusion(values, shuffled, distances, generator).trace()))
    null = torch.tensor(drawn, dtype=torch.float64) / len(values)
    return NearestClass(
        precision=precision,
        chance=1 / len(classes),
        null_mean=float(null.mean()),
        null_deviation=float(null.std(correction=0)),
        p_value=(1 + int((null >= precision - _TIE).sum())) / (1 + permutations),
        classes=classes,
        confusion=confusion / counts[:, None],
        permutations=permutations,
    )


def _confusion(
    values: Tensor,
    index: Tensor,
    distances: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return how many photos of each class are nearest to each class mean."""
    counts = index.bincount()
    members = [
        mine[torch.randperm(len(mine), generator=generator)]
        for mine in torch.split(index.argsort(stable=True), counts.tolist())
    ]
    turns, classes = int(counts.max()), len(counts)
    # A small class leaves out one of its photos again, so that its mean stays one over n − 1.
    left_out = torch.stack([mine[torch.arange(turns) % len(mine)] for mine in members], dim=1)
    used = torch.arange(turns)[:, None] < counts
    sums = _sums(values, index, classes)
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    together = max(1, _AT_ONCE // (classes * max(classes, values.shape[1])))
    pieces = (torch.split(one, together) for one in (left_out, used))
    for out, counted in zip(*pieces, strict=True):
        photos = values[out]
        found = distances(photos, (sums - photos) / (counts[:, None] - 1))
        nearest = (found <= found.amin(-1, keepdim=True) * (1 + _TIE)).double()
        nearest /= nearest.sum(-1, keepdim=True)
        confusion += (nearest * counted[:, :, None]).sum(0)
    return confusion


def _rows_and_distance(
    values: Tensor, kind: RowDistance
) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Return the rows to compare, and the distance function for them."""
    if kind == "l2":
        # cdist's other mode uses inner products, and small distances would be rounding.
        exact = "donot_use_mm_for_euclid_dist"
        root = math.sqrt(values.shape[1])
        return values, lambda a, b: torch.cdist(a, b, compute_mode=exact) / root
    if kind == "wasserstein":
        return values.sort(1)[0], lambda a, b: torch.cdist(a, b, p=1) / values.shape[1]
    raise ArgumentError(f"kind={kind!r} must be 'l2' or 'wasserstein'")


def _rows(rows: Spectra) -> Tensor:
    values = real_tensor("rows", values_of(rows)).double().cpu()
    if values.ndim != 2:
        raise ArgumentError(
            f"rows have shape {tuple(values.shape)}; give one for each, (photos, k)"
        )
    return values


def _scaled_rows(rows: Spectra) -> Tensor:
    """Return rows divided by one power of two, so that squares stay in the range of float64."""
    values = _rows(rows)
    return values / power_of_two(values)


def _sums(values: Tensor, index: Tensor, classes: int) -> Tensor:
    return torch.zeros(classes, values.shape[1], dtype=values.dtype).index_add_(0, index, values)
