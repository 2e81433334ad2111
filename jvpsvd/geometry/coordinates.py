"""Subspaces at several points compared by principal angles and overlaps, with chance.

Hypothesis 2 of Mototake & Ikegami says that a deep layer is a global coordinate system: its left
singular spaces agree from point to point, while the right ones, in the input, need not. This module
measures that agreement, and the agreement that random subspaces would have. All angles and overlaps
are computed in float64 from orthonormal bases, and do not depend on the bases chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from jvpsvd.arguments import generator_of, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import symmetric_matrix
from jvpsvd.geometry.labels import numbered
from jvpsvd.geometry.results import Array, Spaces, Vectors, spaces_of
from jvpsvd.geometry.tangents import orthonormal_basis
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two
from jvpsvd.svd.kernels.dense import dense_svd
from jvpsvd.svd.kernels.orthogonalize import random_columns

Alternative = Literal["greater", "less", "two-sided"]

# Two sums over pairs that differ by at most this share of the largest entry are equal.
_TIE = 1e-9


def random_space(n: int, d: int, seed: int = 0) -> Tensor:
    """Return an orthonormal basis (n, d) of a uniformly distributed d-dimensional subspace of Rⁿ.

    Raises:
        ArgumentError: Unless 1 ≤ d ≤ n.

    >>> random_space(5, 2).shape
    torch.Size([5, 2])
    """
    n = whole_number("n", n, 1)
    d = whole_number("d", d, 1, n, "n")
    generator = generator_of(seed)
    return random_columns(torch.empty(n, 0, dtype=torch.float64), d, generator)


def principal_angles(first: Vectors, second: Vectors, *, degrees: bool = False) -> Tensor:
    """Return the min(d₁, d₂) principal angles between two column spans, ascending, in radians.

    With orthonormal Q₁ (n, d₁) and Q₂ (n, d₂), cos θ are the singular values of Q₁'Q₂, and sin θ
    those of Q₂ − Q₁Q₁'Q₂. The cosine cannot resolve angles below √eps, so the sine is used below
    45°. The result is float64.

    Args:
        first: Columns (n, d₁), or a result, whose right vectors are taken; its U are directions at
            the depth.
        second: Likewise, (n, d₂).
        degrees: Return degrees.

    Å. Björck, G. H. Golub, "Numerical methods for computing angles between linear subspaces",
    Math. Comp. 27 (1973).

    Raises:
        ArgumentError: If a basis is dependent or the two do not lie in one space.

    >>> tilt = torch.tensor([[1.0], [1e-12]], dtype=torch.float64)
    >>> float(principal_angles(torch.eye(2)[:, :1], tilt))
    1e-12
    """
    angles = _angles(*_pair(first, second))
    return angles.rad2deg() if degrees else angles


def chordal_distance(angles: Tensor) -> Tensor:
    """Return √Σ sin²θ along the last dimension: ‖P₁ − P₂‖_F / √2 of the projectors, for d₁ = d₂.

    It lies between 0 and √d and is also called the projection distance. For d₁ ≠ d₂ it is no
    metric: 0 then means that one space contains the other. (Edelman, Arias & Smith 1998, section
    4.3.)

    >>> chordal_distance(torch.tensor([0.0, torch.pi / 2]))
    tensor(1.)
    """
    distance: Tensor = torch.linalg.vector_norm(angles.sin(), dim=-1)
    return distance


def geodesic_distance(angles: Tensor) -> Tensor:
    """Return √Σ θ² along the last dimension: the arc length between spaces on the Grassmannian.

    It lies between 0 and √d π/2. For d₁ ≠ d₂ it is no metric. (Edelman, Arias & Smith 1998, section
    4.3.)

    >>> geodesic_distance(torch.tensor([3.0, 4.0]))
    tensor(5.)
    """
    distance: Tensor = torch.linalg.vector_norm(angles, dim=-1)
    return distance


def mean_overlap(first: Vectors, second: Vectors) -> Tensor:
    """Return ‖Q₁'Q₂‖²_F / min(d₁, d₂), the mean cos²θ: 1 if one span contains the other, else less.

    Random spaces have the mean overlap max(d₁, d₂)/n, not 0: see `random_overlap`.

    Raises:
        ArgumentError: If a basis is dependent or the two do not lie in one space.

    >>> mean_overlap(torch.eye(3)[:, :2], torch.eye(3)[:, 1:])
    tensor(0.5000, dtype=torch.float64)
    """
    return _overlap(*_pair(first, second))


def random_overlap(n: int, first: int, second: int | None = None) -> tuple[float, float]:
    """Return mean and standard deviation of `mean_overlap` for independent random subspaces.

    With P₁, P₂ of ranks d₁, d₂, one of them uniformly distributed, E tr P₁P₂ = d₁d₂/n and
    Var tr P₁P₂ = 2 d₁d₂(n−d₁)(n−d₂) / (n²(n−1)(n+2)); for d₂ = 1, tr P₁P₂ follows the Beta
    distribution with parameters d₁/2 and (n−d₁)/2.

    Args:
        n: Dimension of the ambient space.
        first: d₁.
        second: d₂; None: d₁.

    Raises:
        ArgumentError: Unless both are from 1 to n.

    >>> random_overlap(100, 10)[0]
    0.1
    """
    n = whole_number("n", n, 1)
    a = whole_number("first", first, 1, n, "n")
    b = a if second is None else whole_number("second", second, 1, n, "n")
    if n == max(a, b):
        return 1.0, 0.0
    variance = 2 * a * b * (n - a) * (n - b) / (n**2 * (n - 1) * (n + 2))
    return max(a, b) / n, math.sqrt(variance) / min(a, b)


def pairwise_overlaps(spaces: Spaces) -> Tensor:
    """Return the symmetric (P, P) matrix of `mean_overlap` between P spaces, float64.

    Args:
        spaces: A result or a basis (n, d) of each point, the result of a batch, or one (P, n, d)
            tensor; d may differ from point to point, n may not. All of them are held in float64 at
            once.

    Raises:
        ArgumentError: If a basis is dependent or lies in another space than the first.

    >>> pairwise_overlaps(torch.eye(2)[:, :, None])
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    return _overlaps(_bases(spaces))


def pairwise_angles(spaces: Spaces) -> Tensor:
    """Return the (P, P, d) principal angles between P spaces of one dimension d, radians, float64.

    `chordal_distance` and `geodesic_distance` turn them into (P, P) matrices.

    Raises:
        ArgumentError: If `pairwise_overlaps` raises it, or if dimensions differ.

    >>> chordal_distance(pairwise_angles(torch.eye(2)[:, :, None]))
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    bases = _bases(spaces)
    sizes = sorted({basis.shape[1] for basis in bases})
    if len(sizes) > 1:
        raise ArgumentError(f"spaces have dimensions {sizes}; angles need one, overlaps do not")
    shape = (len(bases), len(bases), sizes[0])
    angles = torch.zeros(shape, dtype=torch.float64, device=bases[0].device)
    for i, j in _pairs(len(bases)):
        angles[i, j] = angles[j, i] = _angles(bases[i], bases[j])
    return angles


@dataclass(frozen=True)
class ClassContrast:
    """Pairs within classes compared with pairs across classes, for a matrix over points."""

    within: float
    """Mean over pairs of different points of one class."""
    across: float
    """Mean over pairs of points of two classes."""
    p_value: float
    """(1 + permutations at least as extreme) / (1 + permutations)."""
    alternative: Alternative
    """Which differences within − across count as extreme: greater, less, or both."""
    permutations: int
    """Random relabellings of the points that were tried."""

    @property
    def difference(self) -> float:
        """`within` − `across`."""
        return self.within - self.across


def class_contrast(
    matrix: Array,
    labels: Sequence[Any] | Array,
    *,
    alternative: Alternative = "greater",
    permutations: int = 9999,
    seed: int = 0,
) -> ClassContrast:
    """Compare within-class and across-class means of a (P, P) matrix, by permuting labels.

    Entries of one row are not independent, so labels of whole points are permuted, which moves rows
    and columns together (Mantel 1967; Anderson 2001). Class sizes stay the same. The test assumes
    that points are exchangeable if labels mean nothing. The diagonal is not read. With few points
    there are few different relabellings, and the p-value cannot be small.

    Args:
        matrix: Symmetric (P, P): overlaps, or distances with alternative="less".
        labels: P labels of any kind that can be hashed and compare by ==.
        alternative: "greater": within exceeds across; "less"; or "two-sided".
        permutations: Number of random relabellings.
        seed: Seed of the random draws.

    Raises:
        ArgumentError: If the matrix is not symmetric, labels do not fit, or there are no pairs
            within a class or none across classes.

    >>> overlaps = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    >>> test = class_contrast(overlaps, "aaabbb")  # 1 relabelling in 10 keeps the classes
    >>> test.within, test.across, round(test.p_value, 1)
    (1.0, 0.0, 0.1)
    """
    if alternative not in ("greater", "less", "two-sided"):
        raise ArgumentError(f"alternative={alternative!r} must be 'greater', 'less' or 'two-sided'")
    permutations = whole_number("permutations", permutations, 1)
    values = symmetric_matrix("matrix", matrix, "points")
    scale = power_of_two(values)  # so that sums stay in the range of float64
    values = values / scale
    rows, cols = torch.triu_indices(len(values), len(values), 1)
    classes, _ = numbered(labels, len(values), "point")
    same = classes[rows] == classes[cols]
    inside, outside = int(same.sum()), int((~same).sum())
    if not inside or not outside:
        missing = "within a class" if not inside else "across classes"
        raise ArgumentError(f"labels leave no pair {missing}; give two classes, one of two points")
    upper = values[rows, cols]
    total, observed = float(upper.sum()), float(upper[same].sum())
    rows, cols = rows[same], cols[same]
    # The sum over all pairs is constant, so the sum within classes alone orders the relabellings.
    expected = total * inside / (inside + outside)
    tie = _TIE * inside * float(upper.abs().max())
    sign = {"greater": 1.0, "less": -1.0, "two-sided": 0.0}[alternative]
    generator = generator_of(seed)
    extreme = 0
    for _ in range(permutations):
        order = torch.randperm(len(values), generator=generator)
        drawn = float(values[order[rows], order[cols]].sum()) - expected
        here, there = (sign * x if sign else abs(x) for x in (observed - expected, drawn))
        extreme += there >= here - tie
    return ClassContrast(
        within=observed / inside * scale,
        across=(total - observed) / outside * scale,
        p_value=(1 + extreme) / (1 + permutations),
        alternative=alternative,
        permutations=permutations,
    )


@dataclass(frozen=True, eq=False)
class SpaceComparison(ComparedByFields):
    """How closely spaces at P points agree, compared with random spaces of the same dimensions."""

    overlaps: Tensor
    """(P, P) mean cos² of the principal angles, 1 on the diagonal."""
    mean: float
    """Mean over pairs of different points."""
    random_mean: float
    """Mean overlap of independent random spaces, d/n."""
    random_deviation: float
    """Standard deviation of the mean over pairs, for independent random spaces."""
    contrast: ClassContrast | None
    """Pairs within classes compared with pairs across; None without labels."""

    @property
    def excess(self) -> float:
        """(mean − random) / (1 − random): 0 by chance, 1 for one shared space; NaN if d = n.

        It can be compared between depths, and between left and right spaces, although n differs.
        """
        largest = 1 - self.random_mean
        return (self.mean - self.random_mean) / largest if largest else math.nan


def compare_spaces(
    spaces: Spaces,
    labels: Sequence[Any] | Array | None = None,
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> SpaceComparison:
    """Compare spaces at several points by pairs, with chance, and by class if there are labels.

    The overlap of two independent random spaces does not depend on where either of them lies. So
    overlaps of different pairs are uncorrelated, and the mean over N pairs has 1/√N of the standard
    deviation of one pair.

    Args:
        spaces: P results or bases (n, d), the result of a batch, or a (P, n, d) tensor; P ≥ 2.
        labels: P classes, for `class_contrast`.
        permutations: See `class_contrast`.
        seed: See `class_contrast`.

    Raises:
        ArgumentError: If there are fewer than two spaces, or a part of the comparison raises it.

    >>> same = compare_spaces([torch.eye(8)[:, :2]] * 3)
    >>> same.mean, same.random_mean, same.excess
    (1.0, 0.25, 1.0)
    """
    bases = _bases(spaces)
    pairs = _pairs(len(bases))
    if not pairs:
        raise ArgumentError("one space has nothing to be compared with; give two or more")
    overlaps = _overlaps(bases)
    n, sizes = len(bases[0]), [basis.shape[1] for basis in bases]
    chance = [random_overlap(n, sizes[i], sizes[j]) for i, j in pairs]
    rows, cols = torch.triu_indices(len(bases), len(bases), 1)
    contrast = None
    if labels is not None:
        contrast = class_contrast(overlaps, labels, permutations=permutations, seed=seed)
    return SpaceComparison(
        overlaps=overlaps,
        mean=float(overlaps[rows, cols].mean()),
        random_mean=sum(mean for mean, _ in chance) / len(pairs),
        random_deviation=math.sqrt(sum(std**2 for _, std in chance)) / len(pairs),
        contrast=contrast,
    )


def _pair(first: Vectors, second: Vectors) -> tuple[Tensor, Tensor]:
    bases = _bases([first, second], names=("the first basis", "the second basis"))
    return bases[0], bases[1]


def _bases(spaces: Spaces, names: Sequence[str] = ()) -> list[Tensor]:
    """Return orthonormal bases of spaces in one Rⁿ, on one device."""
    spaces = spaces_of(spaces)
    bases: list[Tensor] = []
    for i in range(len(spaces)):
        name = names[i] if names else f"space {i}"
        basis = orthonormal_basis(spaces[i], name)
        if bases and len(basis) != len(bases[0]):
            raise ArgumentError(
                f"{name} lives in R^{len(basis)}, the first in R^{len(bases[0])}; "
                "compare spaces of one layer"
            )
        bases.append(basis.to(bases[0].device) if bases else basis)
    return bases


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _overlaps(bases: list[Tensor]) -> Tensor:
    overlaps = torch.eye(len(bases), dtype=torch.float64, device=bases[0].device)
    for i, j in _pairs(len(bases)):
        overlaps[i, j] = overlaps[j, i] = _overlap(bases[i], bases[j])
    return overlaps


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean overlap of orthonormal bases; rounding above 1 is cut off."""
    squares: Tensor = torch.linalg.matrix_norm(first.mT @ second) ** 2
    return (squares / min(first.shape[1], second.shape[1])).clamp_max(1.0)


def _angles(first: Tensor, second: Tensor) -> Tensor:
    """Return the principal angles between orthonormal bases."""
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    product = first.mT @ second
    cosines = dense_svd(product)[1].clamp_max(1.0)
    small = cosines**2 >= 0.5
    if not small.any():
        return cosines.acos()
    # R has the same singular values as the long matrix. A Gram matrix would lose small ones.
    outside = torch.linalg.qr(second - first @ product)[1]
    sines = dense_svd(outside)[1].flip(0).clamp_max(1.0)
    return torch.where(small, sines.asin(), cosines.acos())
