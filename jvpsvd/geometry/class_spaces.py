"""Subspaces of classes: the main directions of a class's average Gram, and their distances.

The Gram of a photo's Jacobian, J'J = V S² V', is n × n and never formed. The top triplets give a
factor V S of it, and the factors of several photos side by side are a factor of their average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.coordinates import (
    chordal_distance,
    geodesic_distance,
    pairwise_angles,
)
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.results import Array, Spaces, right_vectors, spaces_of
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two, row_norms
from jvpsvd.svd.kernels.dense import dense_svd
from jvpsvd.svd.result import SVDResult

SpaceDistance = Literal["chordal", "geodesic"]

# Singular values of the factor below this many eps of their dtype are rounding.
_ROUNDING = 10.0


@dataclass(frozen=True, eq=False)
class AverageSpace(ComparedByFields):
    """The d main directions of an average of Grams."""

    basis: Tensor
    """(n, d) orthonormal, float64, the main direction first."""
    weights: Tensor
    """(d,) eigenvalues of the average Gram, descending."""
    share: float
    """Share of the average Gram's trace that the d weights hold."""
    gap: float
    """weights[d−1] over the next eigenvalue; inf if that is 0. If it is near 1, the space is not
    well determined: small errors rotate it."""


def average_space(
    bases: Spaces,
    s: Sequence[Array] | Tensor | None = None,
    d: int = 1,
    *,
    unit_trace: bool = False,
) -> AverageSpace:
    """Return the d main directions of (1/P) Σ V_p diag(s_p²) V_p', over P photos of a class.

    They are the left singular vectors of F = [V_1 S_1 … V_P S_P] / √P, computed by a QR of F and an
    SVD of the small R, so F is not squared. Triplets beyond k are missing here, and together they
    may matter if many photos share them; `share` refers to the given triplets only. About 3 n Σk
    float64 numbers are held in memory.

    Args:
        bases: A result of each photo, whose right vectors are taken, or singular vectors of each as
            columns (n, k), right ones for directions in the input, left ones in the layer; k may
            differ from photo to photo.
        s: Singular values (k,) of each photo; None: those of the results.
        d: Number of directions.
        unit_trace: Divide each photo's Gram by its trace, so that all photos have the same weight.
            If false, photos at which the network has a larger gain have more weight.

    Raises:
        ArgumentError: If shapes do not fit, a photo's values are all 0, or the average has fewer
            than d directions; if float64 cannot hold the weights, which are squares.

    >>> first, second = torch.eye(3)[:, :2], torch.eye(3)[:, 1:]
    >>> s = torch.tensor([1.0, 2.0])
    >>> found = average_space([first, second], [s, s], 1)
    >>> found.basis[:, 0].abs(), found.weights, round(found.gap, 6)
    (tensor([0., 1., 0.], dtype=torch.float64), tensor([2.5000], dtype=torch.float64), 1.25)
    """
    given, spectra = spaces_of(bases), _spectra(bases, s)
    if len(given) != len(spectra):
        raise ArgumentError(
            f"{len(given)} bases and {len(spectra)} spectra were given; give both of each photo"
        )
    columns: list[Tensor] = []
    scales: list[float] = []
    eps = 0.0
    for photo in range(len(given)):
        vectors = real_tensor(f"basis {photo}", right_vectors(given[photo]))
        values = real_tensor(f"s of photo {photo}", spectra[photo]).double()
        if vectors.ndim != 2 or values.shape != vectors.shape[1:]:
            raise ArgumentError(
                f"basis {photo} has shape {tuple(vectors.shape)} and s {tuple(values.shape)}; "
                "give vectors as columns (n, k) and their values (k,)"
            )
        if columns and len(vectors) != len(columns[0]):
            raise ArgumentError(
                f"basis {photo} lives in R^{len(vectors)}, the first in R^{len(columns[0])}; "
                "average photos at one layer"
            )
        length = float(row_norms(values))
        if length == 0:
            raise ArgumentError(f"all singular values of photo {photo} are 0; leave it out")
        eps = max(eps, torch.finfo(vectors.dtype).eps)
        # Squares of factors that are scaled to about 1 stay in the range of float64.
        scales.append(1.0 if unit_trace else power_of_two(values))
        factor = values / (length if unit_trace else scales[-1])
        scaled = vectors.double() * factor.to(vectors.device)
        columns.append(scaled.to(columns[0].device) if columns else scaled)
    scale = max(scales)
    each = zip(columns, scales, strict=True)
    F = torch.cat([part * (own / scale) for part, own in each], dim=1)
    Q, R = torch.linalg.qr(F / math.sqrt(len(columns)))
    if not bool(R.isfinite().all()):
        raise ArgumentError("vectors are too large; give singular vectors, of norm 1")
    turn, sigma, _ = dense_svd(R)
    rank = int((sigma > _ROUNDING * eps * sigma[0]).sum())
    d = whole_number("d", d, 1, rank, "the directions that the average has")
    shares = sigma**2
    weights = shares[:d] * scale * scale
    if not bool(((weights >= torch.finfo(weights.dtype).tiny) & weights.isfinite()).all()):
        raise ArgumentError(
            f"the squares of singular values of about {scale:.0e} are outside of float64; multiply "
            "all values by one number that brings them nearer 1"
        )
    follows = float(shares[d]) if d < rank else 0.0
    return AverageSpace(
        basis=Q @ turn[:, :d],
        weights=weights,
        share=float(shares[:d].sum() / shares.sum()),
        gap=float(shares[d - 1]) / follows if follows else math.inf,
    )


def _spectra(bases: Spaces, s: Sequence[Array] | Tensor | None) -> Sequence[Array] | Tensor:
    """Return the spectra that were given, or those of results."""
    if s is None and isinstance(bases, SVDResult):
        return bases.s
    if s is None and not isinstance(bases, SVDResult):
        spectra = [one.s for one in bases if isinstance(one, SVDResult)]
        if len(spectra) == len(bases):
            return spectra
    if not isinstance(s, Sequence | Tensor | np.ndarray):
        raise ArgumentError(f"s is {shown(s)}; give the values of each basis, and d by name")
    return s


def space_distances(spaces: Spaces, kind: SpaceDistance = "chordal") -> Tensor:
    """Return the symmetric (C, C) distances between C spaces of one dimension, float64.

    Args:
        spaces: Results or bases (n, d), such as those of `average_space`, or one (C, n, d) tensor.
        kind: `chordal_distance` or `geodesic_distance` of their principal angles.

    Raises:
        ArgumentError: If `pairwise_angles` raises it, or on another kind.

    >>> space_distances(torch.eye(2)[:, :, None])
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    if kind not in ("chordal", "geodesic"):
        raise ArgumentError(f"kind={kind!r} must be 'chordal' or 'geodesic'")
    angles = pairwise_angles(spaces)
    return chordal_distance(angles) if kind == "chordal" else geodesic_distance(angles)
