"""The block Golub–Kahan factorisation, A V = U B and A' U = V B' + F R.

V (n, s) is orthonormal, U (m, s) nearly so, B (s, s) is block upper triangular (bidiagonal up to
rounding), and F is the next block of V, orthogonal to V. R (w, s) is non-zero only in its last
columns, which belong to the columns of U that A F has a share of. Four verbs keep both equations:
initialize, expand, add_probe_columns and restart.

Sources: Golub & Kahan (1965); block form: Golub, Luk & Overton (1981); one-sided
reorthogonalisation: Simon & Zha (2000); thick restart: Baglama & Reichel (2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.norms import column_norms
from jvpsvd.svd.kernels.orthogonalize import orthogonalize_block, random_columns
from jvpsvd.svd.kernels.random_numbers import (
    Generators,
    Seeds,
    draw_normal,
    seeded_generators,
    select_generators,
)
from jvpsvd.svd.kernels.zeros import with_zeros
from jvpsvd.svd.krylov.left_basis import LeftBasis
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


class Factorization:
    """A V = U B and A' U = V B' + F R, for an operator or a batch of them in lock step.

    V is reorthogonalised fully, U only as far as `LeftBasis` finds necessary. For a batch, every
    tensor has a leading dimension.

    Args:
        A: The operator (m, n). n, the length of V's columns, should be the shorter side.
        block_size: Width b of the starting block and of the following ones.
        seed: Seed of the starting block and of all random columns; one for each matrix of a batch,
            or one for all of them.
        capacity: Columns to reserve; storage grows beyond them if necessary.
        max_size: Largest number of columns; None: n.
        max_loss: Orthogonality that U may lose; it changes residuals by less than that times σ₁.
        keep_left: Whether to keep U. Without U there are values and right vectors only, and
            `expand` and `restart` raise `RetryWith` if they need U.
        monitor: Measures the seconds of products and of orthogonalisation.
    """

    def __init__(
        self,
        A: LinearOperator,
        *,
        block_size: int,
        seed: Seeds,
        capacity: int,
        max_size: int | None = None,
        keep_left: bool = True,
        max_loss: float = 0.0,
        monitor: Monitor | None = None,
    ) -> None:
        n = A.shape[-1]
        max_size = min(n, max_size or n)
        capacity = min(max_size, capacity)
        generator = seeded_generators(seed)
        self.operator, self.block_size = A, min(block_size, n)
        self._generator, self._monitor = generator, monitor or Monitor()
        self._names = [f"operator {i} of {A.batch[0]}" for i in range(A.batch[0] if A.batch else 0)]
        self._V = GrowingColumns(n, capacity, max_size, A)
        self._AtU = GrowingColumns(n, capacity, max_size, A)
        self.left = LeftBasis(
            A,
            capacity=capacity,
            max_size=max_size,
            keep=keep_left,
            max_loss=max_loss,
            generator=generator,
        )
        self.B = torch.zeros(*A.batch, 0, 0, dtype=torch.float64)
        """(s, s) projected operator U' A V, float64."""
        self.F = self.V
        """(n, w) next block of V; w = 0 when V spans the whole space."""
        self.R = self.B
        """(w, s) coefficients of A' U along F, float64."""
        self.defect = torch.zeros(*A.batch, 0, dtype=torch.float64)
        """(s,) measured column norms of A V − U B; a restart combines them and adds rounding."""
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
    def AtU(self) -> Tensor:
        """(n, s) products A' U, as the operator returned them."""
        return self._AtU.block

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
            RetryWith: If U must be reorthogonalised and was not kept.
        """
        size, width = self.size, self.F.shape[-1]
        with self._monitor.phase("orthogonalisation"):
            # A' u of a new column u is orthogonal to all columns of V but those that B couples to
            # u.
            window = self.left.coupling + width
            new, defect = self.left.append(self._multiply(self.F, "forward"), self.scale)
            columns = torch.cat([new.coefficients, new.R], dim=-2)
            above = with_zeros(self.B, below=width)
            self.B = torch.cat([above, columns], dim=-1)
            self._V.append(self.F)
            Z = self._multiply(new.Q, "reverse")
            self.defect = torch.cat([self.defect, defect], dim=-1)
            self._AtU.append(Z)
            following = orthogonalize_block(
                self.V,
                Z,
                floor=torch.finfo(Z.dtype).eps * self.scale,
                generator=self._generator,
                window=window,
            )
            self.refills += int((following.Q.shape[-1] - following.rank).sum())
            self.F = following.Q
            self.R = with_zeros(following.R, left=size)
        self.steps += 1
        self.expanded += width

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
            RetryWith: If U was not kept.
        """
        rounding = torch.finfo(self.V.dtype).eps * self.scale[..., None]
        locked = ritz.estimates <= rounding
        kept = ritz.s.shape[-1]
        leading = int(locked.reshape(-1, kept).all(0).cumprod(0).sum())
        with self._monitor.phase("orthogonalisation"):
            self.left.restart(ritz.left, ritz.s, kept - leading)
            self._V.combine(ritz.right)
            self._AtU.combine(ritz.left)
        self.B = torch.diag_embed(ritz.s)
        self.R = torch.where(locked[..., None, :], 0.0, self.R @ ritz.left)
        # Rounding errors of different columns are independent, so their squares add up. (The
        # worst-case bound, which `measured_triplets` uses, would grow by √s at every restart.)
        squares = (self.defect[..., None, :] ** 2) @ ritz.right**2
        self.defect = (squares[..., 0, :] + rounding**2).sqrt()

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        self.operator = self.operator.select(index)
        self._generator = select_generators(self._generator, index)
        self._names = [self._names[i] for i in index.tolist()]
        self._V.select(index)
        self._AtU.select(index)
        self.left.select(index)
        self.B, self.R = self.B[index], self.R[index]
        self.defect, self.scale = self.defect[index], self.scale[index]
        self.F = self.F[index.to(self.F.device)]

    def _multiply(self, block: Tensor, direction: Direction) -> Tensor:
        A = self.operator
        with self._monitor.phase("products"):
            W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
            done = self.size if direction == "forward" else self.size - block.shape[-1]
            where = f"block of {block.shape[-1]} vectors after {done}"
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
