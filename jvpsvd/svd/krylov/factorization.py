"""The block Golub–Kahan factorisation, A V = U B and A' U = V B' + F R.

Here are V (n, s) orthonormal, U (m, s) nearly so, B (s, s) block upper triangular (bidiagonal up
to rounding) and F the next block of V, orthogonal to V. R is non-zero only in the last columns of
U, those that A F will have a share of. Four verbs keep both equations: initialize, expand,
add_probe_columns and restart.

Golub & Kahan (1965); in blocks: Golub, Luk & Overton (1981); reorthogonalising one side: Simon &
Zha (2000); thick restart: Baglama & Reichel (2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.norms import column_norms
from jvpsvd.svd.kernels.orthogonalize import orthogonalize_block, random_columns
from jvpsvd.svd.krylov.left_basis import LeftBasis
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import Direction, check_scale, largest_product_norm

# Share of random columns in a start that was given: without them, what the start lacks would not
# be found.
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
    """(j,) norms of A' u − s v by the recurrence, |R left| (A v − s u is 0 there)."""

    def select(self, index: Tensor | int) -> Ritz:
        """Return those of these matrices of a batch, or of one."""
        return Ritz(self.s[index], self.left[index], self.right[index], self.estimates[index])


class Factorization:
    """A V = U B and A' U = V B' + F R, for an operator or a batch of them in lock step.

    V is reorthogonalised fully, U as far as `LeftBasis` finds necessary. Every tensor of a batch
    has a leading dimension.

    Args:
        A: The operator; V lives on its column side, which should be the shorter one.
        block_size: Width b of the starting block and of those that follow.
        seed: Of the starting block and of all random columns.
        capacity: Columns to make room for at first; storage grows beyond it.
        max_size: Columns that the caller will not exceed; None: the shorter side.
        max_loss: Orthogonality that U may lose; residuals lose less than that times σ₁.
        keep_left: Whether to keep U. Without it there are values and right vectors only, and
            `expand` and `restart` raise `RetryWith` where U would be needed.
        monitor: Counts the seconds of products and of orthogonalisation.
    """

    def __init__(
        self,
        A: LinearOperator,
        *,
        block_size: int,
        seed: int,
        capacity: int,
        max_size: int | None = None,
        keep_left: bool = True,
        max_loss: float = 0.0,
        monitor: Monitor | None = None,
    ) -> None:
        n = A.shape[-1]
        max_size = min(n, max_size or n)
        capacity = min(max_size, capacity)
        generator = torch.Generator().manual_seed(seed)
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
        """(s,) measured norms of the columns of A V − U B; a restart adds rounding to them."""
        self.scale = torch.zeros(A.batch, dtype=torch.float64)
        """Norm of the longest product so far, one of each matrix."""
        self.steps = 0
        """Blocks that V and U were expanded by."""
        self.expanded = 0
        """Columns that V and U were expanded by, including those that restarts gave up."""
        self.refills = 0
        """Random columns that replaced lost rank in V, in all matrices of a batch together."""

    @property
    def V(self) -> Tensor:
        """(n, s) right basis."""
        return self._V.block

    @property
    def AtU(self) -> Tensor:
        """(n, s) products of U, as the operator returned them."""
        return self._AtU.block

    @property
    def size(self) -> int:
        """Columns s of V and U."""
        return self.B.shape[-1]

    @property
    def exhausted(self) -> bool:
        """Whether V spans the whole space, so that nothing can be missing."""
        return self.size == self.operator.shape[-1]

    def initialize(self, start: Tensor | None = None) -> None:
        """Start from a random block, uniformly distributed, or from given vectors.

        Args:
            start: (n, j) vectors near the wanted right singular vectors. If they span an invariant
                subspace, the powers of a random combination of them span it too, and little else.
                Some noise gives the block a share in every direction that the vectors lack.
        """
        if start is None:
            self.F = random_columns(self.V, self.block_size, self._generator)
        else:
            weights = torch.randn(start.shape[-1], self.block_size, generator=self._generator)
            largest = start.abs().amax(dim=(-2, -1), keepdim=True)
            scaled = start / torch.where(largest > 0, largest, 1.0)
            block = scaled @ weights.to(dtype=start.dtype, device=start.device)
            norms = column_norms(block).to(start.dtype)[..., None, :]
            noise = random_columns(self.V, self.block_size, self._generator)
            block = block / torch.where(norms > 0, norms, 1.0) + _NOISE * noise
            self.F = orthogonalize_block(self.V, block, floor=0.0, generator=self._generator).Q
        width = self.F.shape[-1]
        self.R = torch.zeros(*self.operator.batch, width, 0, dtype=torch.float64)
        self.expand()

    def expand(self) -> None:
        """Extend V by F and U by the new directions of A F: w forward and w adjoint products.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
            RetryWith: If U must be reorthogonalised and was not kept.
        """
        size, width = self.size, self.F.shape[-1]
        with self._monitor.phase("orthogonalization"):
            # A' of a new column of U has no share of older columns than those that B couples it to.
            window = self.left.coupling + width
            new, defect = self.left.append(self._multiply(self.F, "forward"), self.scale)
            self.defect = torch.cat([self.defect, defect], dim=-1)
            columns = torch.cat([new.coefficients, new.R], dim=-2)
            above = torch.nn.functional.pad(self.B, (0, 0, 0, width))
            self.B = torch.cat([above, columns], dim=-1)
            self._V.append(self.F)
            Z = self._multiply(new.Q, "reverse")
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
            self.R = torch.nn.functional.pad(following.R, (size, 0))
        self.steps += 1
        self.expanded += width

    def add_probe_columns(self, width: int) -> int:
        """Widen F by random columns, orthogonal to everything; return how many.

        They reach what no power of the operator reaches from the start: invariant subspaces that
        the starting block did not touch, and copies of a value repeated more often than b times.
        """
        width = min(width, self.operator.shape[-1] - self.size - self.F.shape[-1])
        if width > 0:
            with self._monitor.phase("orthogonalization"):
                probe = random_columns(self.V, width, self._generator, beside=self.F)
            self.F = torch.cat([self.F.mT, probe.mT], dim=-2).mT
            self.R = torch.nn.functional.pad(self.R, (0, 0, 0, width))
        return max(width, 0)

    def restart(self, ritz: Ritz) -> None:
        """Shrink V and U to these leading approximate singular vectors, without a product.

        With B = X S Y', V becomes V Y, U becomes U X, B becomes S and R becomes R X: both equations
        hold as before, and F goes on where it was. Vectors that R X couples to F by no more than
        rounding are locked: nothing that follows changes them.

        Raises:
            RetryWith: If U was not kept.
        """
        rounding = torch.finfo(self.V.dtype).eps * self.scale[..., None]
        locked = ritz.estimates <= rounding
        kept = ritz.s.shape[-1]
        leading = int(locked.reshape(-1, kept).all(0).cumprod(0).sum())
        with self._monitor.phase("orthogonalization"):
            self.left.restart(ritz.left, ritz.s, kept - leading)
            self._V.combine(ritz.right)
            self._AtU.combine(ritz.left)
        self.B = torch.diag_embed(ritz.s)
        self.R = torch.where(locked[..., None, :], 0.0, self.R @ ritz.left)
        # Rounding errors of different columns are independent, so their squares add. (The sum that
        # bounds them in any case, as in `measured_triplets`, would grow by √s at every restart.)
        squares = (self.defect[..., None, :] ** 2) @ ritz.right**2
        self.defect = (squares[..., 0, :] + rounding**2).sqrt()

    def select(self, index: Tensor) -> None:
        """Keep these matrices of the batch only."""
        self.operator = self.operator.select(index)
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
            check_scale(self.scale, W)
        return W
