"""Tangent spaces from singular vectors, compared with tangents of known families.

Mototake & Ikegami recognise rotations and translations of a digit in right singular vectors. This
module computes the tangent t of such a family, and the share of its energy inside the space of the
top d right singular vectors, ‖V_d' t‖² / ‖t‖², for every d. It compares this with the share of a
random direction, and with the share inside another basis, such as the PCA of the photos.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.arguments import positive_number, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.results import Array, Vectors, right_vectors
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two, row_norms
from jvpsvd.svd.kernels.dense import dense_svd

# If a Gram matrix deviates from I by less than this, one Cholesky step orthonormalises fully.
_NEARLY_ORTHONORMAL = 0.1
# Singular values of normalised columns below this many eps of their dtype are rounding.
_ROUNDING = 10.0


def orthonormal_basis(vectors: Vectors, name: str = "basis") -> Tensor:
    """Return float64 Q (n, d) that spans the columns of `vectors` (n, d), in Gram–Schmidt order.

    For every j, the first j columns of Q span the first j given ones, and column j of Q has a
    positive inner product with the given column j. So an orthonormal basis is returned unchanged,
    apart from rounding.

    Args:
        vectors: (n, d), n ≥ d, of any norms and dtype; or a result, whose right vectors are taken.
        name: Name for error messages.

    Raises:
        ArgumentError: If this is no (n, d) matrix with n ≥ d, or its columns are dependent.

    >>> orthonormal_basis(torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]])).abs()
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]], dtype=torch.float64)
    """
    given = real_tensor(name, right_vectors(vectors))
    if given.ndim != 2 or given.shape[0] < given.shape[1]:
        raise ArgumentError(
            f"{name} has shape {tuple(given.shape)}; give d basis vectors as columns, (n, d), n ≥ d"
        )
    wide = given.double()
    # Columns are divided by their largest entry first, so that squares stay in the range of
    # float64.
    largest = wide.abs().amax(dim=0)
    wide = wide / torch.where(largest > 0, largest, 1.0)
    wide = wide / torch.linalg.vector_norm(wide, dim=0).clamp_min(1.0)
    gram = wide.mT @ wide
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if torch.linalg.matrix_norm(gram - eye) < _NEARLY_ORTHONORMAL:
        lower = torch.linalg.cholesky(gram)
        Q: Tensor = torch.linalg.solve_triangular(lower.mT, wide, upper=True, left=False)
        return Q
    Q, R = gram_schmidt(wide)
    least = float(dense_svd(R)[1][-1])
    if least <= _ROUNDING * torch.finfo(given.dtype).eps:
        raise ArgumentError(
            f"the {given.shape[1]} columns of {name} are linearly dependent; give fewer vectors"
        )
    return Q


def gram_schmidt(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return (Q, R) with matrix = Q R, R upper triangular with a diagonal ≥ 0.

    >>> gram_schmidt(torch.diag(torch.tensor([-2.0, 3.0])))[0].diagonal()
    tensor([-1.,  1.])
    """
    Q, R = torch.linalg.qr(matrix)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(R.dtype)
    return Q * signs, R * signs[:, None]


def pca_basis(points: Array, d: int | None = None) -> Tensor:
    """Return the d leading principal directions (n, d) of points (P, n), float64.

    They are right singular vectors of the centred points. d = None: all directions with variance,
    at most min(P − 1, n).

    Raises:
        ArgumentError: If points are no (P, n) matrix, or vary in fewer than d directions.

    >>> pca_basis(torch.tensor([[0.0, 5.0], [2.0, 5.0]])).abs()
    tensor([[1.],
            [0.]], dtype=torch.float64)
    """
    given = real_tensor("points", points)
    if given.ndim != 2:
        raise ArgumentError(
            f"points have shape {tuple(given.shape)}; give one row each, (P, n), as X.flatten(1)"
        )
    wide = given.double()
    wide = wide / power_of_two(wide)  # so that sums and squares stay in the range of float64
    _, s, Vh = dense_svd(wide - wide.mean(dim=0))
    # Subtracting the mean from numbers this large leaves rounding of this size.
    noise = torch.finfo(given.dtype).eps * float(torch.linalg.matrix_norm(wide))
    rank = int((s > noise).sum())
    if d is None and rank == 0:
        raise ArgumentError("all points are the same; they have no principal directions")
    d = rank if d is None else whole_number("d", d, 1, rank, "the directions that points vary in")
    return Vh[:d].mT


def energy_shares(tangents: Vectors, basis: Vectors) -> Tensor:
    """Return ‖Q_d' t‖² / ‖t‖² for d = 1 … k: the share of t inside the first d directions.

    The shares are cumulative in d, from 0 to 1, float64. 1 − share is the squared sine of the angle
    between t and the space.

    Args:
        tangents: One (n,) or T as columns (n, T), none of them 0; or another result.
        basis: A result of `svds`, whose right vectors are used, or k independent columns (n, k),
            whose first d columns span the spaces.

    Returns:
        (k,) for one tangent; (k, T) for many.

    Raises:
        ArgumentError: If a tangent is 0, a basis dependent, or their sizes differ.

    >>> energy_shares(torch.tensor([3.0, 4.0, 0.0]), torch.eye(3)[:, :2])
    tensor([0.3600, 1.0000], dtype=torch.float64)
    """
    Q = orthonormal_basis(basis)
    unit = _unit(tangents)
    if len(unit) != len(Q):
        raise ArgumentError(f"tangents have length {len(unit)} and the basis {len(Q)}; match them")
    return ((Q.mT @ unit.to(Q.device)) ** 2).cumsum(dim=0).clamp_max(1.0)


def random_shares(n: int, k: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (k,) of `energy_shares` of a random direction in Rⁿ.

    The share inside d given directions follows the Beta distribution with parameters d/2 and
    (n−d)/2: mean d/n, variance 2d(n−d) / (n²(n+2)).

    Raises:
        ArgumentError: Unless 1 ≤ k ≤ n.

    >>> random_shares(4, 2)[0]
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    n = whole_number("n", n, 1)
    k = whole_number("k", k, 1, n, "n")
    d = torch.arange(1, k + 1, dtype=torch.float64)
    return d / n, (2 * d * (n - d) / (n + 2)).sqrt() / n


@dataclass(frozen=True, eq=False)
class Alignment(ComparedByFields):
    """Shares of tangents inside a basis, with those of chance and of another basis."""

    shares: Tensor
    """(k,) or (k, T): see `energy_shares`."""
    random_mean: Tensor
    """(k,) mean share of a random direction, d/n."""
    random_std: Tensor
    """(k,) standard deviation of a random direction's share."""
    other: Tensor | None
    """Shares inside the other basis; None without one."""


def tangent_alignment(
    tangents: Vectors, basis: Vectors, *, against: Vectors | None = None
) -> Alignment:
    """Return the shares of tangents inside a basis, and the shares to compare them with.

    Args:
        tangents: One (n,) or T as columns (n, T).
        basis: A result of `svds` or (n, k), as in `energy_shares`.
        against: Another basis, such as `pca_basis` of the class; its number of columns may differ.

    Raises:
        ArgumentError: If `energy_shares` raises it.

    >>> axes = torch.eye(2)
    >>> found = tangent_alignment(axes[0], axes, against=axes.flip(1))
    >>> found.shares.tolist(), found.other.tolist(), found.random_mean.tolist()
    ([1.0, 1.0], [0.0, 1.0], [0.5, 1.0])
    """
    shares = energy_shares(tangents, basis)
    mean, std = random_shares(len(right_vectors(tangents)), len(shares))
    return Alignment(
        shares=shares,
        random_mean=mean.to(shares.device),
        random_std=std.to(shares.device),
        other=None if against is None else energy_shares(tangents, against),
    )


@dataclass(frozen=True, eq=False)
class FamilyTangent(ComparedByFields):
    """The tangent of a one-parameter family at a point, by central differences."""

    direction: Tensor
    """The derivative divided by its norm, float64, in the shape of the family's values."""
    speed: float
    """Norm of the derivative."""
    error: float
    """Norm of the difference between steps h and 2h, divided by the speed. It is three times the
    error if the family is smooth, and large if the family has kinks or h is too small for its
    dtype."""


def family_tangent(
    family: Callable[[float], Array], *, at: float = 0.0, step: float | None = None
) -> FamilyTangent:
    """Return the unit tangent of family(τ) at τ = at: (f(τ+h) − f(τ−h)) / 2h, normalised.

    The formula has the error h² |f'''| / 6, and rounding adds eps |f| / h. A family that
    interpolates pixels linearly has kinks where a sample crosses a pixel. Use a smooth
    interpolation then, or a step as large as the details that move.

    Args:
        family: Function of a number that returns arrays or tensors of one shape, such as a photo
            rotated by τ.
        at: The point τ.
        step: h; None: eps^(1/3) of the values' dtype, times max(1, |τ|).

    Raises:
        ArgumentError: If the step is not positive; if values are not finite, change shape, do not
            move at all, or move by more than float64 can hold.

    >>> tangent = family_tangent(lambda a: torch.tensor([3 * a, 4 * a, 1.0]).double())
    >>> [round(x, 6) for x in tangent.direction.tolist()], round(tangent.speed, 6)
    ([0.6, 0.8, 0.0], 5.0)
    """
    centre = _family_value(family, at)
    if step is None:
        step = torch.finfo(centre.dtype).eps ** (1 / 3) * max(1.0, abs(at))
    step = positive_number("step", step)
    fine, coarse = (_difference(family, at, h, centre.shape) for h in (step, 2 * step))
    speed = float(row_norms(fine.flatten()))
    if speed == 0:
        raise ArgumentError(f"the family does not move at {at} with step {step}; widen the step")
    change = float(row_norms((fine - coarse).flatten()))
    if not math.isfinite(speed + change):
        raise ArgumentError(
            f"the family moves at {at} with step {step} by more than float64 can hold; widen the "
            "step, or divide its values"
        )
    scale = power_of_two(fine)  # a speed below 1e-308 has too few digits to divide by
    unit = fine / scale
    return FamilyTangent(unit / torch.linalg.vector_norm(unit), speed, change / speed)


def _difference(
    family: Callable[[float], Array], at: float, step: float, shape: torch.Size
) -> Tensor:
    after, before = (_family_value(family, at + h).double() for h in (step, -step))
    if after.shape != shape or before.shape != shape:
        raise ArgumentError(
            f"the family has shapes {tuple(shape)}, {tuple(after.shape)}, {tuple(before.shape)} "
            "at neighbouring points; keep one"
        )
    return (after - before) / (2 * step)


def _family_value(family: Callable[[float], Array], at: float) -> Tensor:
    with torch.no_grad():
        return real_tensor(f"family({at})", family(at))


def _unit(tangents: Vectors) -> Tensor:
    """Return tangents as float64 columns of norm 1."""
    wide = real_tensor("tangents", right_vectors(tangents)).double()
    if wide.ndim not in (1, 2):
        raise ArgumentError(
            f"tangents have shape {tuple(wide.shape)}; give one (n,), as t.flatten() of an image, "
            "or several as columns (n, T)"
        )
    largest = wide.abs().amax(dim=0)
    if (largest == 0).any():
        which = f" {int((largest == 0).nonzero()[0])}" if wide.ndim == 2 else ""
        raise ArgumentError(f"tangent{which} is 0 and has no direction; leave it out")
    wide = wide / largest  # so that squares of tiny entries do not underflow
    norms: Tensor = torch.linalg.vector_norm(wide, dim=0)
    return wide / norms
