"""The block Golub–Kahan factorisation: a state that can be expanded, widened, shrunk and checked.

Golub & Kahan (1965); in blocks: Golub, Luk & Overton (1981); reorthogonalising one side: Simon &
Zha (2000). The solver that drives it is in `golub_kahan`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError, LeftBasisError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.kernels.orthogonalize import Extension, combined, extend, random_columns
from jvpsvd.svd.memory import bytes_of_a_step
from jvpsvd.svd.product_checks import Direction, check_scale, longest_product
from jvpsvd.svd.triplets import column_lengths, rough_lengths

_COLUMNS_AT_ONCE = 64
# Of unit length, in a start that was given: without it, what the start lacks would not be found.
_NOISE = 1e-2
# What the projected problem may lose, in units of the rounding of the bases.
_UNSEEN = 1e-2
# Rows from which on the projected problem is worth the way to a GPU, and what it takes there, in
# matrices of its size.
_ROWS_WORTH_MOVING, _PROJECTED_COPIES = 256, 6


@dataclass(frozen=True)
class Ritz:
    """Approximate singular triplets s, u = U left, v = V right, drawn from a factorisation."""

    s: Tensor
    """(j,) descending, float64."""
    left: Tensor
    """(size, j) coefficients of u in U, float64."""
    right: Tensor
    """(size, j) coefficients of v in V, float64."""
    estimates: Tensor
    """(j,) lengths of A' u − s v that the recurrence predicts (A v − s u is 0 there)."""

    def select(self, index: Tensor | int) -> Ritz:
        """Return those of these matrices of a batch, or of one."""
        return Ritz(self.s[index], self.left[index], self.right[index], self.estimates[index])


class Factorization:
    """Bases V (n, s), orthonormal, and U (m, s), nearly so, with A V = U B and A' U = V B' + F R.

    B is block upper triangular (bidiagonal up to rounding), F is the next block of V, orthogonal to
    V, and R its coefficients: non-zero only in the columns of the newest blocks of U, those that
    the next block of U is coupled to.

    V is reorthogonalised fully. Then what U loses is rounding times columns of B⁻¹, so a new block
    is orthogonalised only against those it is coupled to, unless the newest columns of B⁻¹ say that
    more than `loss` would be lost; and against all of U in that case, from which on the loss grows
    from rounding again.

    Of a batch of operators, every tensor has a leading dimension, and all take the same steps.

    Args:
        A: The operator; V lives on its column side, which should be the shorter one.
        block_size: Width b of the starting block and of those that follow.
        seed: Of the starting block and of all random refill.
        capacity: Columns to make room for at first; storage grows beyond it.
        most: Columns that the caller will not exceed; None: the shorter side.
        loss: Orthogonality of U that may be lost; residuals lose less than that times σ₁.
        keep_left: Whether to keep U. Without it there are values and right vectors only, no
            restart, and `expand` raises `LeftBasisError` when U must be reorthogonalised.
    """

    def __init__(
        self,
        A: LinearOperator,
        *,
        block_size: int,
        seed: int,
        capacity: int,
        most: int | None = None,
        keep_left: bool = True,
        loss: float = 0.0,
    ) -> None:
        m, n = A.shape[-2:]
        self._operator = A
        self._width = min(block_size, n)
        self._generator = torch.Generator().manual_seed(seed)
        most = min(n, most or n)
        capacity = min(most, capacity)
        self._V = GrowingColumns(n, capacity, most, A)
        self._AtU = GrowingColumns(n, capacity, most, A)
        self._U = GrowingColumns(m, capacity, most, A) if keep_left else None
        self._newest = torch.empty(*A.batch, m, 0, dtype=A.dtype, device=A.device)
        self._B = self._zeros(0, 0)
        self._R = self._zeros(0, 0)
        self._next = self.V
        self._names = (
            [f"operator {i} of {A.batch[0]}" for i in range(A.batch[0])] if A.batch else []
        )
        self._coupled = 0
        self._loss = loss
        self._inverse = self._zeros(0, 0)
        self._defect = torch.zeros(*A.batch, 0, dtype=torch.float64)
        self._scale = torch.zeros(A.batch, dtype=torch.float64)
        self.refills = 0
        """Random columns that stood in for lost rank, in all matrices of a batch together."""
        self.reorthogonalised = 0
        """Blocks of U that were orthogonalised against all of U."""
        self.lost = 0.0
        """Orthogonality that U was expected to lose at most, where that was let pass."""
        self.steps = 0
        """Blocks that V and U were expanded by."""
        self.expanded = 0
        """Columns that V and U were expanded by, those a restart gave up included."""
        self.multiplying = 0.0
        """Seconds spent in products."""

    @property
    def size(self) -> int:
        """Columns s of V and U."""
        return self._B.shape[-1]

    @property
    def V(self) -> Tensor:
        """(n, s) right basis."""
        return self._V.block

    @property
    def U(self) -> Tensor:
        """(m, s) left basis.

        Raises:
            ArgumentError: If it was not kept.
        """
        if self._U is None:
            raise ArgumentError("this factorisation keeps no U; make it with keep_left=True")
        return self._U.block

    @property
    def AtU(self) -> Tensor:
        """(n, s) products of U, as the operator returned them."""
        return self._AtU.block

    @property
    def B(self) -> Tensor:
        """(s, s) projected operator U' A V, float64."""
        return self._B

    @property
    def F(self) -> Tensor:
        """(n, w) next block of V; w = 0 when the space is exhausted."""
        return self._next

    @property
    def R(self) -> Tensor:
        """(w, s) coefficients of A' U along F, float64."""
        return self._R

    @property
    def defect(self) -> Tensor:
        """(s,) measured lengths of the columns of A V − U B; a restart adds rounding to them."""
        return self._defect

    @property
    def exhausted(self) -> bool:
        """Whether V spans the whole space, so that nothing can be missing."""
        return self.size == self._operator.shape[-1]

    def initialize(self, start: Tensor | None = None) -> None:
        """Start from a random block, uniformly distributed, or from a mixture of given vectors.

        Args:
            start: (n, j) vectors near the wanted right singular vectors. If they span an invariant
                subspace, the powers of a random mixture of them span it too, and little else. Some
                noise gives it a share in every direction, whatever is missing in the vectors.
        """
        if start is None:
            self._next = random_columns(self.V, self._width, self._generator)
        else:
            weights = torch.randn(start.shape[-1], self._width, generator=self._generator)
            scale = start.abs().amax(dim=(-2, -1), keepdim=True)
            near = start / torch.where(scale > 0, scale, 1.0)
            mixture = near @ weights.to(dtype=start.dtype, device=start.device)
            lengths = column_lengths(mixture).to(start.dtype)[..., None, :]
            noise = random_columns(self.V, self._width, self._generator)
            mixture = mixture / torch.where(lengths > 0, lengths, 1.0) + _NOISE * noise
            self._next = extend(self.V, mixture, floor=0.0, generator=self._generator).block
        self._R = self._zeros(self._width, 0)
        self.expand()

    def expand(self) -> None:
        """Grow V and U by the next block: w forward and w reverse products.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
            LeftBasisError: If U must be reorthogonalised and was not kept.
        """
        old, width = self.size, self._next.shape[-1]
        W = self._product(self._next, "forward")
        new = self._extend_left(W)
        B = self._zeros(old + width, old + width)
        B[..., :old, :old] = self._B
        B[..., old:] = torch.cat([new.inner, new.outer], dim=-2)
        self._B = B
        self._V.append(self._next)
        if self._U is not None:
            self._U.append(new.block)
        # A' of a new column has no share of older columns than those that B couples it to.
        near = self._coupled + width
        self._newest = new.block
        self._coupled = width

        Z = self._product(new.block, "reverse")
        self._AtU.append(Z)
        following = self._extended(self.V, Z, near)
        self._next = following.block
        self._R = torch.nn.functional.pad(following.outer, (old, 0))
        self.steps += 1
        self.expanded += width

    def restart(self, keep: int) -> None:
        """Shrink V and U to their `keep` leading approximate singular vectors, without a product.

        With B = X S Y', the bases become V Y and U X, B becomes S and R becomes R X, so that both
        invariants hold as before and the next block goes on where it was. (A thick restart: Baglama
        & Reichel, 2005.) Vectors that R X does not couple to F beyond rounding are locked: nothing
        that follows changes them.
        """
        if self._U is None:
            raise ArgumentError("a factorisation that keeps no U cannot restart")
        ritz = self.ritz(keep)
        self._V.combine(ritz.right)
        self._U.combine(ritz.left)
        self._AtU.combine(ritz.left)
        self._B = torch.diag_embed(ritz.s)
        rounding = torch.finfo(self.V.dtype).eps * self._scale[..., None]
        locked = ritz.estimates <= rounding
        self._R = torch.where(locked[..., None, :], 0.0, self._R @ ritz.left)
        # Rounding errors of different columns are independent: squares add. (The sum that bounds
        # them whatever they are, as in `triplets`, would grow by √s at every restart.)
        squares = (self._defect[..., None, :] ** 2) @ ritz.right**2
        self._defect = (squares[..., 0, :] + rounding**2).sqrt()
        everywhere = locked.reshape(-1, keep).all(0).cumprod(0)
        self._coupled = keep - int(everywhere.sum())
        self._newest = self.U[..., keep - self._coupled :]
        self._inverse = torch.diag_embed(1 / ritz.s)[..., keep - self._coupled :]

    def add_random(self, width: int) -> int:
        """Widen the next block by random columns, orthogonal to everything; return how many.

        They reach what no power of the operator reaches from the start: invariant subspaces that
        the starting block did not touch, and copies of a value repeated more often than b times.
        """
        n = self._operator.shape[-1]
        width = min(width, n - self.size - self._next.shape[-1])
        if width > 0:
            fresh = random_columns(self.V, width, self._generator, beside=self._next)
            self._next = torch.cat([self._next.mT, fresh.mT], dim=-2).mT
            self._R = torch.nn.functional.pad(self._R, (0, 0, 0, width))
        return max(width, 0)

    def ritz(self, k: int) -> Ritz:
        """Return the k leading approximate triplets, by the SVD of B in float64."""
        loss = _UNSEEN * torch.finfo(self.V.dtype).eps
        left, s, right = leading_svd(self._B, min(k, self.size), loss, self._home_of_projected())
        return Ritz(s, left, right.mT, torch.linalg.vector_norm(self._R @ left, dim=-2))

    def _home_of_projected(self) -> torch.device:
        """Return the GPU for a large projected problem that fits into what a step takes there."""
        m, n = self._operator.shape[-2:]
        both = (m + n) * self._operator.dtype.itemsize
        free = bytes_of_a_step(self._width, both) - 2 * self._width * both  # newest and next block
        fits = _PROJECTED_COPIES * 8 * self.size**2 <= free
        moves = fits and self.size >= _ROWS_WORTH_MOVING
        return self.V.device if moves else self._B.device

    def triplets(
        self, ritz: Ritz, matrix: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return (s, residuals, U, V) of Ritz triplets, of one matrix of a batch or of all.

        Measured with the products kept: A' U is there as it was multiplied; of A V only its
        measured distance from U B is.
        """
        U = None if self._U is None else self._U.block
        if matrix is None:
            return _measured(ritz, self.V, self.AtU, U, self._defect)
        i = matrix
        return _measured(
            ritz.select(i), self.V[i], self.AtU[i], None if U is None else U[i], self._defect[i]
        )

    def select(self, index: Tensor) -> None:
        """Keep these matrices of the batch only."""
        self._operator = self._operator.select(index)
        self._names = [self._names[i] for i in index.tolist()]
        for basis in (self._V, self._AtU, self._U):
            if basis is not None:
                basis.select(index)
        self._B, self._R, self._inverse = self._B[index], self._R[index], self._inverse[index]
        self._defect, self._scale = self._defect[index], self._scale[index]
        there = index.to(self._next.device)
        self._next, self._newest = self._next[there], self._newest[there]

    def _zeros(self, rows: int, cols: int) -> Tensor:
        return torch.zeros(*self._operator.batch, rows, cols, dtype=torch.float64)

    def _product(self, block: Tensor, direction: Direction) -> Tensor:
        A, began = self._operator, time.perf_counter()
        W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
        done = self.size if direction == "forward" else self.size - block.shape[-1]
        where = f"block of {block.shape[-1]} vectors after {done}"
        self._scale = torch.maximum(
            self._scale, longest_product(A, W, direction, where, self._names)
        )
        check_scale(self._scale, W)
        self.multiplying += time.perf_counter() - began
        return W

    def _extend_left(self, W: Tensor) -> Extension:
        """Extend U by W, against the coupled blocks if that will do, and note the defect."""
        old, coupled = self.size, self._coupled
        eps = torch.finfo(W.dtype).eps
        near = self._newest[..., self._newest.shape[-1] - coupled :]
        floor = eps * self._scale
        local = extend(near, W, floor=floor, generator=self._generator, everywhere=False)
        rest = W - combined(local.block, local.outer)
        defect = rough_lengths(rest.sub_(combined(near, local.inner))).cpu()
        del rest  # as long as a block; so is what a full pass makes
        inverse = self._grown_inverse(local)
        loss = eps * self._scale * torch.linalg.vector_norm(inverse, dim=-2).amax(-1)
        if bool((loss <= self._loss).all()):
            inner = self._zeros(old, W.shape[-1])
            inner[..., old - coupled :, :] = local.inner
            new = Extension(local.block, inner, local.outer, local.rank)
            self.lost = max(self.lost, float(loss.max()))
        elif self._U is None:
            raise LeftBasisError
        else:
            del local
            new = self._extended(self.U, W, coupled)
            self.reorthogonalised += 1
            inverse = self._forgotten(old, new.block.shape[-1])
            defect = defect + eps * torch.linalg.vector_norm(new.outer, dim=-2)
        self._inverse = inverse
        self._defect = torch.cat([self._defect, defect], dim=-1)
        return new

    def _grown_inverse(self, new: Extension) -> Tensor:
        """Return the columns of B⁻¹ that a block of U adds; infinite ones if it loses rank."""
        outer, info = torch.linalg.inv_ex(new.outer)
        singular = (info > 0) | (new.rank < new.outer.shape[-1])
        above = -(self._inverse @ (new.inner @ outer))
        grown = torch.cat([above, outer], dim=-2)
        return torch.where(singular[..., None, None] | ~torch.isfinite(grown), math.inf, grown)

    def _forgotten(self, old: int, width: int) -> Tensor:
        """Return the columns that stand for B⁻¹ once a block is orthogonal to all of U.

        What a block of U loses is rounding of its own product, and its share of what the block
        before had lost: A' u of older columns has no share of the new column of V. So after a full
        pass the loss is rounding again, whatever it was: eps · s₁ times 1 / s₁.
        """
        scale = self._scale[..., None, None]
        eye = torch.eye(width, dtype=torch.float64) / torch.where(scale > 0, scale, 1.0)
        return torch.nn.functional.pad(eye, (0, 0, old, 0))

    def _extended(self, basis: Tensor, W: Tensor, near: int) -> Extension:
        floor = torch.finfo(W.dtype).eps * self._scale
        new = extend(basis, W, floor=floor, generator=self._generator, near=near)
        self.refills += int((new.block.shape[-1] - new.rank).sum())
        return new


def _measured(
    ritz: Ritz, V: Tensor, AtU: Tensor, U: Tensor | None, defect: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return (s, residuals, U left, V right); the bases may be large, so part by part."""

    def like(coefficients: Tensor) -> Tensor:
        return coefficients.to(dtype=V.dtype, device=V.device)

    s, left = like(ritz.s), like(ritz.left)
    v = combined(V, ritz.right)
    u = None if U is None else combined(U, ritz.left)
    residuals = torch.empty_like(s)
    rounding = defect[..., None, :] @ ritz.right.abs()
    for start in range(0, s.shape[-1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        length_v = column_lengths(v[..., part])
        length_u = torch.ones_like(length_v) if u is None else column_lengths(u[..., part])
        back = combined(AtU, left[..., part])
        back.div_(length_u.to(s.dtype)[..., None, :])
        back.sub_(v[..., part] * (s[..., part] / length_v.to(s.dtype))[..., None, :])
        # A v = U B y + D y; beside |D y|, vectors of other lengths than 1 leave s u behind.
        ahead = rounding[..., 0, part].to(s.device) / length_v
        ahead += s[..., part].double() * (length_u - length_v).abs() / length_v
        residuals[..., part] = torch.maximum(ahead, column_lengths(back)).to(s.dtype)
    return s, residuals, u, v
