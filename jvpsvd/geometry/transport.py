"""Parallel transport of frames along a path of subspaces, and holonomy of loops.

Two singular spaces may overlap well although their vectors do not match, because the basis of a
space is arbitrary. Parallel transport carries a frame from one point to the next without rotating
it inside the space. In a global coordinate system, a frame returns unrotated from every loop (no
holonomy), and is constant in the ambient space.

Both methods start from the projection QQ'F of a frame F onto the next space. "polar" takes the
nearest orthonormal frame, Q times the polar factor of Q'F. It does not depend on the order or
choice of the vectors, the reversed path undoes it, and on a sphere it is the exact transport along
great circles. "project" reorthonormalises by Gram–Schmidt. It keeps the direction of the first
vector as well as possible, and differs from "polar" by O(h²) for a step of angle h, and by O(h) for
a path.

In the limit of fine steps, tangent spaces give the Levi-Civita transport (M. do Carmo,
"Differential geometry of curves and surfaces", section 4.4). Arbitrary spaces give the transport of
the Grassmannian's tautological bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.coordinates import mean_overlap
from jvpsvd.geometry.results import Spaces, Vectors, spaces_of
from jvpsvd.geometry.tangents import gram_schmidt, orthonormal_basis
from jvpsvd.records import ComparedByFields
from jvpsvd.svd.kernels.dense import dense_svd

Method = Literal["polar", "project"]

# A direction with a smaller cosine counts as orthogonal to the next space, and is lost.
_LOST = 1e-6


@dataclass(frozen=True, eq=False)
class Transport(ComparedByFields):
    """A frame of f orthonormal vectors, carried along P points of a path."""

    end: Tensor
    """(n, f) the frame at the last point, float64."""
    start: Tensor
    """(n, f) the frame at the first point."""
    step_cosines: Tensor
    """(P, f) cosines between the frame's span and the next space, descending: how much of the frame
    each projection kept. If they are small, the path is too coarse. Row 0 is for the given frame
    and the first space; it is all 1 if the frame lies inside."""
    start_cosines: Tensor
    """(P, f) cosine of each vector with its start at the first point; all 1 for a constant
    frame."""


@dataclass(frozen=True, eq=False)
class Holonomy(ComparedByFields):
    """What a loop does to the frame at its start."""

    matrix: Tensor
    """(d, d) orthogonal H: the basis Q₀ of the first space comes back as Q₀ H, float64."""
    angles: Tensor
    """(d,) rotation angles |arg| of the eigenvalues of H, radians, descending; all 0 for H = I."""
    reverses: bool
    """Whether det H = −1: the loop reverses orientation, as on a Möbius band."""
    least_cosine: float
    """Smallest cosine between a space and the next one; if it is far from 1, the path is too
    coarse."""


def transport(
    spaces: Spaces, frame: Vectors | None = None, *, method: Method = "polar"
) -> Transport:
    """Carry a frame along a path of spaces.

    Args:
        spaces: P results or bases (n, d) along the path, the result of a batch, or a (P, n, d)
            tensor; d may differ from point to point. They are orthonormalised one at a time.
        frame: f independent vectors as columns (n, f), f ≤ d, or a result, which are
            orthonormalised and projected onto the first space; None: the basis of the first space.
        method: "polar" or "project"; see the module.

    Raises:
        ArgumentError: If a basis is dependent or in another space, or if a direction of the frame
            is orthogonal to the next space, where transport is not defined.

    >>> e1, e2, e3 = torch.eye(3).split(1, dim=1)
    >>> plane = lambda t: torch.cat([e1 * (1 - t) + e3 * t, e2], dim=1)
    >>> transport([plane(t / 8) for t in range(9)]).end.round().abs()
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    _check_method(method)
    path = _along(spaces)
    first = next(path)
    given = first if frame is None else orthonormal_basis(frame, "frame").to(first.device)
    if len(given) != len(first):
        raise ArgumentError(f"the frame lives in R^{len(given)}, the spaces in R^{len(first)}")
    start, kept = _carry(given, first, method, 0)
    current = start
    kept_cosines, own_cosines = [kept], [_own_cosines(start, start)]
    for i, basis in enumerate(path, start=1):
        current, kept = _carry(current, basis, method, i)
        kept_cosines.append(kept)
        own_cosines.append(_own_cosines(start, current))
    return Transport(
        end=current,
        start=start,
        step_cosines=torch.stack(kept_cosines),
        start_cosines=torch.stack(own_cosines),
    )


def holonomy(spaces: Spaces, *, method: Method = "polar") -> Holonomy:
    """Carry the basis of the first space along a closed path, back to that space.

    The path closes from the last space to the first, which need not be repeated. On a sphere,
    "polar" is exact for the polygon of great circles through the points, so the angle is the area
    of the polygon divided by the squared radius.

    Another starting point, or another basis, gives a similar matrix and the same angles.

    Args:
        spaces: P results or bases (n, d) along the loop, the result of a batch, or a (P, n, d)
            tensor; the first space must have the smallest d.
        method: "polar" or "project"; see the module.

    Raises:
        ArgumentError: If `transport` raises it.

    >>> holonomy([torch.eye(4)[:, :2]] * 3).angles
    tensor([0., 0.], dtype=torch.float64)
    """
    path = spaces_of(spaces)
    carried = transport([*path, path[0]], method=method)
    matrix = carried.start.mT @ carried.end
    angles = torch.linalg.eigvals(matrix).angle().abs().sort(descending=True)[0]
    return Holonomy(
        matrix=matrix,
        angles=angles,
        reverses=bool(torch.linalg.det(matrix) < 0),
        least_cosine=float(carried.step_cosines.min()),
    )


def overlap_decay(spaces: Spaces) -> Tensor:
    """Return (P,) `mean_overlap` of the first space with the space at each point, float64.

    Raises:
        ArgumentError: If a basis is dependent or in another space than the first.

    >>> overlap_decay(torch.eye(2)[:, :, None])
    tensor([1., 0.], dtype=torch.float64)
    """
    path = _along(spaces)
    first = next(path)
    others = [mean_overlap(first, basis).to(first.device) for basis in path]
    return torch.stack([first.new_ones(()), *others])


def _along(spaces: Spaces) -> Iterator[Tensor]:
    """Yield an orthonormal basis of each space in turn, on the device of the first."""
    spaces = spaces_of(spaces)
    first = orthonormal_basis(spaces[0], "space 0")
    yield first
    for i in range(1, len(spaces)):
        basis = orthonormal_basis(spaces[i], f"space {i}")
        if len(basis) != len(first):
            raise ArgumentError(
                f"space {i} lives in R^{len(basis)}, the first in R^{len(first)}; "
                "take a path through one layer"
            )
        yield basis.to(first.device)


def _carry(frame: Tensor, basis: Tensor, method: Method, index: int) -> tuple[Tensor, Tensor]:
    """Return the frame carried into the span of the basis, and the cosines between both spans."""
    if frame.shape[1] > basis.shape[1]:
        raise ArgumentError(
            f"a frame of {frame.shape[1]} vectors does not fit into space {index}, of dimension "
            f"{basis.shape[1]}; carry fewer vectors"
        )
    product = basis.mT @ frame
    X, cosines, Yh = dense_svd(product)
    if cosines[-1] < _LOST:
        raise ArgumentError(
            f"a direction of the frame is orthogonal to space {index}; take a finer path"
        )
    turned = X @ Yh if method == "polar" else gram_schmidt(product)[0]
    return basis @ turned, cosines.clamp_max(1.0)


def _own_cosines(start: Tensor, frame: Tensor) -> Tensor:
    return (start * frame).sum(dim=0).clamp(-1.0, 1.0)


def _check_method(method: Method) -> None:
    if method not in ("polar", "project"):
        raise ArgumentError(f"method={method!r} must be 'polar' or 'project'")
