"""Vectors and values of results of `svds`, wherever a function takes bases or spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jvpsvd.arguments import shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.svd.result import SVDResult

Array = Tensor | npt.NDArray[Any]
Vectors = SVDResult | Array
"""A result, whose right vectors are taken, or vectors as columns (n, k)."""
Spaces = SVDResult | Sequence[Vectors] | Tensor
"""A result or a basis (n, d) of each point; or one result of a batch, or one (P, n, d) tensor."""
Spectra = SVDResult | Array | Sequence[Any]
"""Values (k,) or (photos, k), a result, or a result of each photo."""
Side = Literal["left", "right"]


def singular_space(result: SVDResult, d: int, side: Side = "right") -> Tensor:
    """Return the d leading left (m, d) or right (n, d) singular vectors as columns.

    For a batch they have a leading dimension. If s[d-1] and s[d] are close, the space is not well
    determined: an error r of the triplets rotates it by about r / (s[d-1] − s[d]) (Wedin 1972).
    Check `result.converged[:d]` too.

    Raises:
        ArgumentError: If it is no result, has no vectors, or fewer than d.

    >>> from jvpsvd.svd import svds
    >>> singular_space(svds(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2), 1).abs()
    tensor([[0.],
            [1.],
            [0.]])
    """
    if not isinstance(result, SVDResult):
        raise ArgumentError(f"result is {shown(result)}; give what svds returns")
    d = whole_number("d", d, 1, result.k, "the triplets there are")
    if side not in ("left", "right"):
        raise ArgumentError(f"side={side!r} must be 'left' or 'right'")
    if result.U is None or result.Vh is None:
        raise ArgumentError("this result has no vectors; solve with vectors=True")
    return result.U[..., :d] if side == "left" else result.Vh[..., :d, :].mT


def right_vectors(vectors: Vectors) -> Array:
    """Return the right vectors of a result as columns (n, k); an array is returned as it is.

    Raises:
        ArgumentError: If the result is of a batch, or has no vectors.
    """
    if not isinstance(vectors, SVDResult):
        return vectors
    if vectors.s.ndim > 1:
        raise ArgumentError("a batch has vectors for each matrix; take result.of(i)")
    return singular_space(vectors, vectors.k)


def spaces_of(spaces: Spaces) -> Sequence[Vectors] | Tensor:
    """Return the spaces one by one, or as one (P, n, d) tensor; those of a batch are its matrices'.

    Raises:
        ArgumentError: If they are one result that is of no batch, or none.
    """
    if isinstance(spaces, SVDResult):
        if spaces.s.ndim == 1:
            raise ArgumentError("one result is one space; give a list of results, or a batch's")
        return singular_space(spaces, spaces.k)
    if isinstance(spaces, Tensor | np.ndarray) and spaces.ndim != 3:
        raise ArgumentError(f"spaces have shape {tuple(spaces.shape)}; give P bases, (P, n, d)")
    if not isinstance(spaces, Sequence | Tensor | np.ndarray):
        raise ArgumentError(f"spaces is {shown(spaces)}; give a list of results or bases (n, d)")
    if len(spaces) == 0:
        raise ArgumentError("no spaces were given; give a result or a basis (n, d) of each point")
    return spaces


def values_of(s: Spectra) -> Array | Sequence[Any]:
    """Return the singular values of a result, or of one of each photo, (k,) or (photos, k).

    Arrays are returned as they are.

    Raises:
        ArgumentError: If results have different k, or lack the largest values.

    >>> from jvpsvd.svd import svds
    >>> values_of([svds(torch.eye(3), 2), svds(2 * torch.eye(3), 2)])
    tensor([[1., 1.],
            [2., 2.]])
    """
    if isinstance(s, SVDResult):
        if s.which == "smallest" and s.k < min(s.shape[-2:]):
            raise ArgumentError('the largest values are not here; solve with which="largest"')
        return s.s
    if isinstance(depths := getattr(s, "depths", None), tuple):  # of jvpsvd.spectra
        first = depths[0].layer
        raise ArgumentError(f"these are spectra of {len(depths)} depths; give one, as S[{first!r}]")
    if isinstance(s, Tensor) or not all_results(s):
        return s
    rows = [torch.as_tensor(values_of(one)) for one in s]
    if len({tuple(row.shape) for row in rows}) > 1:
        sizes = sorted({one.k for one in s})
        raise ArgumentError(f"results have k of {sizes}; give one k, or take result.s[:{sizes[0]}]")
    return torch.stack([row.to(rows[0]) for row in rows])


def all_results(s: Any) -> bool:
    """Whether a list holds results of `svds`."""
    return isinstance(s, list | tuple) and bool(s) and all(isinstance(o, SVDResult) for o in s)
