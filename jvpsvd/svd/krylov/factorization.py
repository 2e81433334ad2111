"""What both block factorisations have in common, A V = U B and A' U = V B' + F R.

V (n, s) is orthonormal, U (m, s) nearly so, B (s, s) is block upper triangular (bidiagonal up to
rounding), and F is the next block of V, orthogonal to V. R (w, s) is non-zero only in its last
columns, which belong to the columns of U that A F has a share of. Four verbs keep both equations:
initialize, expand, add_probe_columns and restart. Golub–Kahan forms U, Lanczos does not.

Source: thick restart: Baglama & Reichel (2005).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Required, TypedDict

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.norms import column_norms
from jvpsvd.svd.kernels.orthogonalize import (
    OrthogonalBlock,
    orthogonalize_block,
    random_columns,
)
from jvpsvd.svd.kernels.random_numbers import (
    Generators,
    Seeds,
    draw_normal,
    seeded_generators,
    select_generators,
)
from jvpsvd.svd.kernels.zeros import with_zeros
from jvpsvd.svd.krylov.retry import RetryWith
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import Direction, check_scale, largest_product_norm

# Share of random noise in a given start. Without noise, the solve would not find what the given
# vectors are orthogonal to.
_NOISE = 1e-2


@dataclass(frozen=True)
class Ritz:
    """Approximate singular triplets s, u = U left, v = V right, from the SVD of B."""

    s: Tensor
    """(j,) descending, float64."""
    left: Tensor
    """(s, j) coefficients of u in U, float64."""
    right: Tensor
    """(s, j) coefficients of v in V, float64."""
    estimates: Tensor
    """(j,) norms of A' u − s v from the recurrence, |R left|; A v − s u is 0 in the recurrence."""

    def select(self, index: Tensor | int) -> Ritz:
        """Return the triplets of some matrices of a batch, or of one."""
        return Ritz(self.s[index], self.left[index], self.right[index], self.estimates[index])

    def spread(self, matrices: Sequence[int], count: int) -> Ritz:
        """Return the triplets of `count` matrices, of which these are known; the others are 0."""
        parts = []
        for part in (self.s, self.left, self.right, self.estimates):
            whole = part.new_zeros(count, *part.shape[1:])
            whole[list(matrices)] = part
            parts.append(whole)
        return Ritz(*parts)


Measured = tuple[Tensor, Tensor, Tensor | None, Tensor]
"""(s, residuals, U, V), with measured residuals max(|A v − s u|, |A' u − s v|); U may be None."""


class Options(TypedDict, total=False):
    """What a factorisation is made with; see `Factorization`."""

    block_size: Required[int]
    seed: Required[Seeds]
    capacity: Required[int]
    max_size: int | None
    keep_left: bool
    monitor: Monitor | None


class Factorization(ABC):
    """V, B, F and R of an operator, or of a batch of them in lock step.

    For a batch, every tensor has a leading dimension.

    Args:
        A: The operator (m, n). n, the length of V's columns, should be the shorter side.
        block_size: Width b of the starting block and of the following ones.
        seed: Seed of the starting block and of all random columns; one for each matrix of a batch,
            or one for all of them.
        capacity: Columns to reserve; storage grows beyond them if necessary.
        max_size: Largest number of columns; None: n.
        keep_left: Whether left vectors are wanted.
        monitor: Measures the seconds of products and of orthogonalisation.
    """

    compact_blocks: ClassVar[int] = 24
    """How many blocks bases hold beside k columns before they restart to save time."""

    def __init__(
        self,
        A: LinearOperator,
        *,
        block_size: int,
        seed: Seeds,
        capacity: int,
        max_size: int | None = None,
        keep_left: bool = True,
        monitor: Monitor | None = None,
    ) -> None:
        n = A.shape[-1]
        self._max_size = min(n, max_size or n)
        self._capacity, self._keep_left = min(self._max_size, capacity), keep_left
        self.operator, self.block_size = A, min(block_size, n)
        self._generator, self._monitor = seeded_generators(seed), monitor or Monitor()
        self._names = [f"operator {i} of {A.batch[0]}" for i in range(A.batch[0] if A.batch else 0)]
        self._V = GrowingColumns(n, self._capacity, self._max_size, A)
        self.B = torch.zeros(*A.batch, 0, 0, dtype=torch.float64)
        """(s, s) projected operator U' A V, float64."""
        self.F = self.V
        """(n, w) next block of V; w = 0 when V spans the whole space."""
        self.R = self.B
        """(w, s) coefficients of A' U along F, float64."""
        self.scale = torch.zeros(A.batch, dtype=torch.float64)
        """Largest norm of a product so far, for each matrix."""
        self.steps = 0
        """Number of blocks by which V and U were expanded."""
        self.expanded = 0
        """Number of columns by which V and U were expanded, including those that restarts
        dropped."""
        self.refills = 0
        """Number of random columns that replaced lost rank in V, summed over a batch."""

    @property
    def V(self) -> Tensor:
        """(n, s) right basis."""
        return self._V.block

    @property
    def size(self) -> int:
        """Number s of columns of V and U."""
        return self.B.shape[-1]

    @property
    def exhausted(self) -> bool:
        """Whether V spans the whole space, so that nothing can be missing."""
        return self.size == self.operator.shape[-1]

    def initialize(self, start: Tensor | None = None) -> None:
        """Start from a uniformly distributed random block, or from given vectors.

        Args:
            start: (n, j) vectors near the wanted right singular vectors. The starting block is a
                random combination of them. If the vectors span an invariant subspace, the Krylov
                space of that block is the same subspace. Added noise gives the block a share in
                every other direction.
        """
        if start is None:
            self.F = random_columns(self.V, self.block_size, self._generator)
        else:
            block = _combine(start, self.block_size, self._generator)
            block += _NOISE * random_columns(self.V, self.block_size, self._generator)
            self.F = orthogonalize_block(self.V, block, floor=0.0, generator=self._generator).Q
        width = self.F.shape[-1]
        self.R = torch.zeros(*self.operator.batch, width, 0, dtype=torch.float64)
        self.expand()

    def expand(self) -> None:
        """Append F to V and the new directions of A F to U, with w forward and w reverse products.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
            RetryWith: If this factorisation cannot go on.
        """
        size, width = self.size, self.F.shape[-1]
        with self._monitor.phase("orthogonalisation"):
            columns, following, R = self._append()
            self.B = torch.cat([with_zeros(self.B, below=width), columns], dim=-1)
            self.refills += int((following.Q.shape[-1] - following.rank).sum())
            self.F = following.Q
            self.R = with_zeros(R, left=size)
        self.steps += 1
        self.expanded += width

    @abstractmethod
    def _append(self) -> tuple[Tensor, OrthogonalBlock, Tensor]:
        """Append F to V, and what A F adds to U.

        Returns:
            The new columns of B (s + w, w); the next block, orthogonal to V; and the columns of R
            that belong to the new ones of U.
        """

    def add_probe_columns(self, width: int) -> int:
        """Widen F by random columns, orthogonal to V and F; return how many were added.

        They reach what the Krylov space of the starting block cannot contain: invariant subspaces
        that are orthogonal to that block, and values that are repeated more than b times.
        """
        width = min(width, self.operator.shape[-1] - self.size - self.F.shape[-1])
        if width > 0:
            with self._monitor.phase("orthogonalisation"):
                probe = random_columns(self.V, width, self._generator, block=self.F)
            self.F = torch.cat([self.F.mT, probe.mT], dim=-2).mT
            self.R = with_zeros(self.R, below=width)
        return max(width, 0)

    def random_column(self, V: Tensor) -> Tensor:
        """Return a random unit vector (n, 1), uniformly distributed in the complement of V."""
        with self._monitor.phase("orthogonalisation"):
            return random_columns(V, 1, self._generator)

    def restart(self, ritz: Ritz) -> None:
        """Replace V and U by these leading approximate singular vectors, without a product.

        With B = X S Y', V becomes V Y, U becomes U X, B becomes S and R becomes R X. Both equations
        still hold, and F stays. Vectors that R X couples to F by no more than rounding are locked:
        later steps do not change them.

        Raises:
            RetryWith: If U is needed and was not kept.
        """
        rounding = torch.finfo(self.V.dtype).eps * self.scale[..., None]
        locked = ritz.estimates <= rounding
        kept = ritz.s.shape[-1]
        leading = int(locked.reshape(-1, kept).all(0).cumprod(0).sum())
        with self._monitor.phase("orthogonalisation"):
            self._combine_left(ritz, kept - leading)
            self._V.combine(ritz.right)
        self.B = torch.diag_embed(ritz.s)
        self.R = torch.where(locked[..., None, :], 0.0, self.R @ ritz.left)

    @abstractmethod
    def _combine_left(self, ritz: Ritz, coupling: int) -> None:
        """Replace U by U X; A F has a share of its last `coupling` columns."""

    @abstractmethod
    def measure(self, ritz: Ritz, matrix: int | None = None) -> Measured:
        """Return Ritz triplets with measured residuals, for one matrix of a batch or for all."""

    @abstractmethod
    def retry_after_miss(self, tol: float) -> RetryWith | None:
        """Return how to begin again if residuals miss `tol` although the recurrence predicted it.

        None: rounding of this factorisation does not explain that.
        """

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        self.operator = self.operator.select(index)
        self._generator = select_generators(self._generator, index)
        self._names = [self._names[i] for i in index.tolist()]
        self._V.select(index)
        self.B, self.R = self.B[index], self.R[index]
        self.scale = self.scale[index]
        self.F = self.F[index.to(self.F.device)]

    def _multiply(self, block: Tensor, direction: Direction) -> Tensor:
        A = self.operator
        with self._monitor.phase("products"):
            W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
            where = f"block of {block.shape[-1]} vectors after {self.size}"
            norm = largest_product_norm(A, W, direction, where, self._names)
            self.scale = torch.maximum(self.scale, norm)
            check_scale(self.scale, W, self._names)
        return W


def _combine(start: Tensor, width: int, generator: Generators) -> Tensor:
    """Return random combinations of the columns, of norm 1 or 0."""
    weights = draw_normal(generator, start.shape[-1], width, dtype=torch.get_default_dtype())
    largest = start.abs().amax(dim=(-2, -1), keepdim=True)
    scaled = start / torch.where(largest > 0, largest, 1.0)
    block = scaled @ weights.to(dtype=start.dtype, device=start.device)
    norms = column_norms(block).to(start.dtype)[..., None, :]
    return block / torch.where(norms > 0, norms, 1.0)
