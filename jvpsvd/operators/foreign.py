"""Operators whose products another library computes on NumPy blocks.

A library may get blocks wrong where vectors are right: without a `matmat` SciPy gives `matvec`
columns of shape (n, 1), which a function written for (n,) broadcasts to something else. So both are
compared once, and where they differ vectors are multiplied one by one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import AdjointError, ArgumentError, JvpsvdError
from jvpsvd.operators.blocks import by, check_real
from jvpsvd.operators.linear_operator import LinearOperator
from jvpsvd.scaling import row_norms

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
Block = Callable[[Array], Any]
"""A product of an (n, b) block, or of an (n,) vector, as the library returns it."""

# Products within a float64 operator may be float32 ones.
_COARSE = math.sqrt(np.finfo(np.float32).eps)


class ForeignOperator(LinearOperator):
    """An object with `shape`, `dtype` and products of vectors, of blocks, or of both.

    Making one takes four products in each direction, which are not counted: two vectors alone and
    as a block. Where these differ, vectors are multiplied one by one from then on.

    Args:
        foreign: The object. It gets copies of all blocks, so that it may write into them.

    Raises:
        ArgumentError: If its dtype is not real floating, it cannot multiply by its transpose, a
            product fails or has another shape, or the same vector has two products.
        AdjointError: If its products are not of one matrix and its transpose.

    >>> class Difference:
    ...     shape, dtype = (1, 2), np.dtype(np.float64)
    ...     def matvec(self, v): return v[:1] - v[1:]
    ...     def rmatvec(self, u): return np.concatenate([u, -u])
    >>> ForeignOperator(Difference()).rmatmat(torch.ones(1, 1).double()).T
    tensor([[ 1., -1.]], dtype=torch.float64)
    """

    def __init__(self, foreign: Any) -> None:
        super().__init__(*shape_and_dtype(foreign))
        m, n = self.shape
        self._product = _CheckedProduct(foreign, "matvec", "matmat", (m, n), self.dtype)
        self._transposed_product = _CheckedProduct(
            foreign, "rmatvec", "rmatmat", (n, m), self.dtype
        )
        with np.errstate(over="ignore", invalid="ignore"):
            V, images = self._product.compare()
            U, adjoint_products = self._transposed_product.compare()
        _refuse_another_transpose(foreign, V, images, U, adjoint_products, self.dtype)

    def _matmat(self, V: Tensor) -> Tensor:
        return _tensor(self._product(V.numpy())).to(self.dtype)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return _tensor(self._transposed_product(U.numpy())).to(self.dtype)


class _CheckedProduct:
    """The product with a matrix or its transpose, by blocks or by vectors."""

    def __init__(
        self,
        foreign: Any,
        vectors: Literal["matvec", "rmatvec"],
        blocks: Literal["matmat", "rmatmat"],
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self._foreign, self._shape = foreign, shape
        self._names = vectors, blocks
        self._dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._by_vectors = not hasattr(foreign, blocks)

    def __call__(self, block: Array) -> Array:
        if not self._by_vectors:
            return self._of_block(block)
        columns = [self._of_vector(column) for column in block.T]
        return np.stack(columns).T

    def compare(self) -> tuple[Array, Array]:
        """Return two vectors and their products, having chosen between vectors and blocks."""
        size = self._shape[1]
        block = _two_vectors(size, self._dtype)
        vectors, blocks = self._names
        if self._by_vectors:
            images = self(block)
            self._refuse_random(self._of_vector(block[:, 0]), images[:, 0], vectors)
            return block, images
        of_block = _try(lambda: self._of_block(block))
        one = self._of_vector if hasattr(self._foreign, vectors) else self._of_column
        of_vectors = _try(lambda: np.stack([one(column) for column in block.T]).T)
        if isinstance(of_vectors, JvpsvdError):
            raise of_vectors from of_vectors.__cause__
        if not isinstance(of_block, JvpsvdError) and (
            _close(of_block, of_vectors, self._fine) or not np.isfinite(of_vectors).all()
        ):  # what overflows, or holds NaN, is an error of its own later
            return block, of_block
        self._refuse_random(one(block[:, 0]), of_vectors[:, 0], vectors)
        name = type(self._foreign).__name__
        if one == self._of_column:
            raise ArgumentError(
                f"{blocks} of {name} gives two vectors other products together than one by one; "
                f"give products of blocks ({size}, b) that are those of their columns"
            )
        said = f"differs from {vectors}"
        if isinstance(of_block, JvpsvdError):
            said = f"fails ({of_block})"
        logger.warning(
            "%s of %s %s; its vectors are multiplied one by one, by %s of shape (%d,)",
            blocks, name, said, vectors, size,
        )  # fmt: skip
        self._by_vectors = True
        return block, of_vectors

    @property
    def _fine(self) -> float:
        return math.sqrt(np.finfo(self._dtype).eps)

    def _of_vector(self, vector: Array) -> Array:
        return self._call(self._names[0], vector).reshape(-1)

    def _of_column(self, vector: Array) -> Array:
        return self._of_block(vector[:, None])[:, 0]

    def _of_block(self, block: Array) -> Array:
        return self._call(self._names[1], block)

    def _call(self, name: str, block: Array) -> Array:
        def product(block: Array) -> Any:
            return getattr(self._foreign, name)(np.array(block, order="F"))

        image = _call(self._foreign, name, product, block)
        return _check_product(self._foreign, name, image, (self._shape[0], *block.shape[1:]))

    def _refuse_random(self, again: Array, image: Array, name: str) -> None:
        if not _close(again, image, max(_COARSE, self._fine)):
            raise ArgumentError(
                f"{name} of {type(self._foreign).__name__} gives the same vector two products; "
                "make it deterministic"
            )


def shape_and_dtype(foreign: Any) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the two sizes of a matrix of another library, and its dtype as one of torch.

    Raises:
        ArgumentError: If it has others.

    >>> shape_and_dtype(np.ones((3, 2)))
    ((3, 2), torch.float64)
    """
    name = type(foreign).__name__
    try:
        sizes = tuple(int(size) for size in foreign.shape)
        dtype = np.dtype(foreign.dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name} has shape {foreign.shape} and dtype {foreign.dtype}, not sizes and a NumPy "
            "dtype; give it both"
        ) from error
    if dtype.kind in "iub" and hasattr(foreign, "matvec"):
        raise ArgumentError(
            f"{name} has dtype {dtype}, not the real floating point of its products; make it with "
            "dtype=float, as scipy.sparse.linalg.LinearOperator(…, dtype=float)"
        )
    check_real(name, dtype)
    if len(sizes) != 2:
        raise ArgumentError(f"{name} has shape {by(sizes)}; an operator has two sides")
    return sizes, torch.from_numpy(np.empty(0, dtype=dtype.newbyteorder("="))).dtype


def _call(foreign: Any, name: str, product: Block, block: Array) -> Any:
    """Return what a product gives; what it raises becomes one line."""
    try:
        return product(block)
    except (JvpsvdError, MemoryError):
        raise
    except Exception as error:  # another library, or the user's own code
        kind = type(foreign).__name__
        if isinstance(error, NotImplementedError) and name.startswith("r"):
            raise ArgumentError(
                f"{kind} has no {name}; give it one, the products with its transpose"
            ) from error
        said = " ".join(str(error).split())[:200]
        raise ArgumentError(
            f"{name} of {kind} raised {type(error).__name__} for an array of shape "
            f"{block.shape}: {said}"
        ) from error


def _check_product(foreign: Any, name: str, image: Any, shape: tuple[int, ...]) -> Array:
    """Return a copy of a product: it may be the argument itself, or the library's own buffer."""
    array: Array = np.array(image, order="F")
    vector = len(shape) == 1 and array.size == shape[0] == max(array.shape, default=0)
    if array.dtype.kind not in "fiub" or not (array.shape == shape or vector):
        raise ArgumentError(
            f"{name} of {type(foreign).__name__} gives {array.dtype} {array.shape}, not real "
            f"{shape}; check its matmat and rmatmat"
        )
    return array


def _tensor(array: Array) -> Tensor:
    shared = array.dtype.newbyteorder("=") in (np.float16, np.float32, np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=") if shared else np.float64))


def _try(product: Callable[[], Array]) -> Array | JvpsvdError:
    try:
        return product()
    except JvpsvdError as error:
        return error


def _two_vectors(size: int, dtype: Any) -> Array:
    """Return an (n, 2) block of no symmetry, the same at every call; no random state is touched."""
    angles = np.arange(1, 2 * size + 1, dtype=np.float64).reshape(2, size)
    block: Array = np.asfortranarray((np.cos(0.7 * angles) + 0.1).T.astype(dtype))
    return block


def _close(ours: Array, theirs: Array, tolerance: float) -> bool:
    wide = theirs.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(
        np.allclose(ours.astype(np.float64), wide, rtol=0, atol=tolerance * scale, equal_nan=True)
    )


def _refuse_another_transpose(
    foreign: Any, V: Array, images: Array, U: Array, adjoint_products: Array, dtype: torch.dtype
) -> None:
    """Check <A v, u> = <v, A' u> for two pairs; NaN passes, an error of its own later.

    U is taken in the other order: of a square matrix, <A v, v> would be that of its transpose.
    """
    U, adjoint_products = U[:, ::-1], adjoint_products[:, ::-1]
    wide = [array.astype(np.float64) for array in (V, images, U, adjoint_products)]
    v, image, u, preimage = wide
    with np.errstate(all="ignore"):
        by_matvec, by_rmatvec = (image * u).sum(0), (v * preimage).sum(0)
        norms = [row_norms(torch.from_numpy(array.T)).numpy() for array in wide]
        scale = np.maximum(norms[1] * norms[2], norms[0] * norms[3])
        apart = np.abs(by_matvec - by_rmatvec)
    coarse = max(_COARSE, torch.finfo(dtype).eps ** 0.5)
    # Products this small have lost digits, or all; the solver says that they are out of range.
    if max(norms[1].max(), norms[3].max()) < torch.finfo(dtype).tiny / coarse:
        return
    for left, right, size, gap in zip(by_matvec, by_rmatvec, scale, apart, strict=True):
        if gap > coarse * size:
            raise AdjointError(
                f"matvec and rmatvec of {type(foreign).__name__} are not of one matrix: <A v, u> = "
                f"{left:.6g}, <v, A' u> = {right:.6g}; make rmatvec multiply by the transpose"
            )
