"""Checks of the products that a solver takes: no NaN or infinity, and norms in range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.operators import JacobianOperator, LinearOperator, MatrixOperator
from jvpsvd.operators.linear_map_operator import LinearMapOperator
from jvpsvd.operators.linear_operator import TransposedOperator
from jvpsvd.svd.kernels.norms import rough_column_norms
from jvpsvd.svd.kernels.random_numbers import Generators, draw_normal

Direction = Literal["forward", "reverse"]


def largest_product_norm(
    A: LinearOperator, W: Tensor, direction: Direction, where: str, names: Sequence[str] = ()
) -> Tensor:
    """Return the largest column norm of a product W of A, float64, for each matrix.

    The norm serves as a scale and is right to a few digits only.

    Args:
        A: The operator. For a transposed one, the message names the original operator.
        W: A block that A returned.
        direction: Whether W is a forward or a reverse product.
        where: Which vectors were multiplied, in words.
        names: Names of the batch's matrices for the message; none: their indices.

    Raises:
        NonFiniteError: If W holds NaN or infinity.
    """
    largest = rough_column_norms(W).amax(-1).cpu()  # the only time that a GPU is waited for
    finite = all(math.isfinite(each) for each in largest.reshape(-1).tolist())
    if not finite and not torch.isfinite(W).all():
        if isinstance(A, TransposedOperator):
            A, direction = A.T, "reverse" if direction == "forward" else "forward"
        size = " x ".join(map(str, A.shape[-2:]))
        bad = (~torch.isfinite(W)).flatten(-2).any(-1)
        size += f" {_name_first(bad, names)}" if A.batch else " operator"
        index = int(bad.nonzero()[0]) if A.batch else 0
        raise NonFiniteError(
            f"a {direction} product of the {size} holds NaN or infinity ({where}); "
            f"{_what_to_do(A, index)}"
        )
    return largest


def _what_to_do(A: LinearOperator, index: int) -> str:
    """Return what may hold NaN, or numbers that overflow, and what to do about it."""
    if isinstance(A, MatrixOperator):
        return "check its entries"
    if not isinstance(A, LinearMapOperator):
        return "check what it is made of"
    made_by = A.find_nonfinite(index) if isinstance(A, JacobianOperator) else None
    if made_by is None:
        return "check the function at this point: roots and norms have no derivative at 0"
    return (
        f"{made_by} made it first: it has no derivative at this point, as roots have none at 0, or "
        "overflows; move the point, add a small number under a root, or take float64"
    )


def check_scale(norm: Tensor, W: Tensor, names: Sequence[str] = ()) -> None:
    """Refuse an operator whose rounding errors, or their squares, would under- or overflow.

    Residuals would then be computed as 0, and everything would appear to be converged.

    Args:
        norm: Largest norm of a product so far, for each matrix.
        W: One of its products.
        names: Names of the batch's matrices for the message; none: their indices.

    Raises:
        ArgumentError: If the norm is too small or too large, and not exactly 0.

    >>> check_scale(torch.tensor(1e-18).double(), torch.tensor([[1e-18]]))
    >>> check_scale(torch.zeros(1).double()[0], torch.full((1, 1), 1e-200, dtype=torch.float64))
    Traceback (most recent call last):
    ArgumentError: products of about 1e-200 ...
    """
    kind, wide = torch.finfo(W.dtype), torch.finfo(torch.float64)
    low = max(kind.tiny, math.sqrt(wide.tiny)) / kind.eps
    # The partial sums of W − V (V'W) are at most twice as large as the norm of W.
    high = min(kind.max / 4, math.sqrt(wide.max) * wide.eps)
    if all(low <= each <= high for each in norm.reshape(-1).tolist()):
        return
    largest = W.abs().amax(dim=(-2, -1)).cpu()
    bad = ((norm < low) | (norm > high)) & (largest > 0)
    if bool(bad.any()):
        raise ArgumentError(
            f"{_name_first(bad, names, after=': ')}products of about {float(largest[bad][0]):.0e} "
            f"are outside what residuals can be measured for in {W.dtype}; multiply the operator "
            "by a number that brings it nearer 1"
        )


def check_zero(A: LinearOperator, top: Tensor, generator: Generators) -> None:
    """Refuse an operator whose products are 0 only because they are too small for the dtype.

    Where the largest singular value was found to be 0, a random vector of large norm is multiplied:
    if that product is not 0, the value is not either. The gradients of a deep network vanish so.

    Args:
        A: The operator.
        top: The largest singular value found for each matrix.
        generator: CPU generator of the random vector, or one for each matrix.

    Raises:
        ArgumentError: If a value of 0 is wrong.

    >>> from jvpsvd import MatrixOperator
    >>> A = MatrixOperator(torch.full((1, 2), 1e-45))
    >>> check_zero(A, torch.tensor(0.0), torch.Generator().manual_seed(0))
    Traceback (most recent call last):
    ArgumentError: products with unit vectors are 0 ...
    """
    zero = top == 0
    if not bool(zero.any()):
        return
    norm = math.sqrt(torch.finfo(A.dtype).max)
    w = draw_normal(generator, A.shape[-1], 1, dtype=torch.float64)
    large = (w * (norm / torch.linalg.vector_norm(w, dim=-2, keepdim=True))).to(
        dtype=A.dtype, device=A.device
    )
    images = A.matmat(large).abs().amax(dim=(-2, -1))
    # Products that overflow within show nothing.
    bad = zero.to(images.device) & torch.isfinite(images) & (images > 0)
    if bool(bad.any()):
        wider = "" if A.dtype == torch.float64 else "use float64, or "
        raise ArgumentError(
            f"{_name_first(bad, after=': ')}products with unit vectors are 0, but one with a "
            f"vector of norm {norm:.0e} is not: singular values are below what {A.dtype} can hold; "
            f"{wider}multiply the operator by a number that brings it nearer 1"
        )


def check_values(s: Tensor) -> None:
    """Refuse singular values that the dtype cannot hold, although the entries of A fit it.

    Raises:
        ArgumentError: If one is infinite.

    >>> check_values(torch.tensor([1e38, 1.0]))
    >>> check_values(torch.tensor([torch.inf, 1.0]))
    Traceback (most recent call last):
    ArgumentError: singular values exceed what torch.float32 can hold ...
    """
    if not bool(torch.isfinite(s).all()):
        wider = "" if s.dtype == torch.float64 else ", or use float64"
        raise ArgumentError(
            f"singular values exceed what {s.dtype} can hold; multiply the operator by a number "
            f"that brings it nearer 1{wider}"
        )


def _name_first(bad: Tensor, names: Sequence[str] = (), after: str = "") -> str:
    """Return the name of the first matrix of a batch that is bad; nothing for a single matrix."""
    if not bad.ndim:
        return ""
    first = int(bad.nonzero()[0])
    return (names[first] if names else f"operator {first} of {len(bad)}") + after
