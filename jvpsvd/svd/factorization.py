"""The block Golub–Kahan factorisation: a state that can be expanded, widened and checked.

Golub & Kahan (1965); in blocks: Golub, Luk & Overton (1981). The solver that drives it is in
`golub_kahan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.basis import GrowingColumns
from jvpsvd.svd.dense import dense_svd
from jvpsvd.svd.orthonormal import Extension, extend, random_columns
from jvpsvd.svd.products import Direction, check_scale, longest_product
from jvpsvd.svd.triplets import column_lengths, residual_lengths


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


class Factorization:
    """Orthonormal bases V (n, s) and U (m, s) with A V = U B and A' U = V B' + F R.

    B is block upper triangular (bidiagonal up to rounding), F is the next block of V, orthogonal to
    V, and R its coefficients: non-zero only in the columns of the newest block of U. Both bases are
    reorthogonalised fully. The products A V and A' U are kept beside the bases, so that residuals
    of any combination of columns can be measured without a product.

    Args:
        A: The operator; V lives on its column side, which should be the shorter one.
        block_size: Width b of the starting block and of those that follow.
        seed: Of the starting block and of all random refill.
        capacity: Columns to make room for at first; storage grows beyond it.
        most: Columns that the caller will not exceed; None: the shorter side.
    """

    def __init__(
        self,
        A: LinearOperator,
        *,
        block_size: int,
        seed: int,
        capacity: int,
        most: int | None = None,
    ) -> None:
        m, n = A.shape
        self._operator = A
        self._width = min(block_size, n)
        self._generator = torch.Generator().manual_seed(seed)
        most = min(n, most or n)
        capacity = min(most, capacity)
        self._V = GrowingColumns(n, capacity, most, A)
        self._U = GrowingColumns(m, capacity, most, A)
        self._AV = GrowingColumns(m, capacity, most, A)
        self._AtU = GrowingColumns(n, capacity, most, A)
        self._B = torch.zeros(0, 0, dtype=torch.float64)
        self._next = self.V
        self._R = torch.zeros(0, 0, dtype=torch.float64)
        self._scale = 0.0
        self.refills = 0
        """Random columns that stood in for lost rank."""
        self.steps = 0
        """Blocks that V and U were expanded by."""
        self.expanded = 0
        """Columns that V and U were expanded by, those a restart gave up included."""

    @property
    def size(self) -> int:
        """Columns s of V and U."""
        return self._B.shape[0]

    @property
    def V(self) -> Tensor:
        """(n, s) right basis."""
        return self._V.block

    @property
    def U(self) -> Tensor:
        """(m, s) left basis."""
        return self._U.block

    @property
    def AV(self) -> Tensor:
        """(m, s) products of V, as the operator returned them."""
        return self._AV.block

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
    def exhausted(self) -> bool:
        """Whether V spans the whole space, so that nothing can be missing."""
        return self.size == self._operator.shape[1]

    def initialize(self) -> None:
        """Start from a random block, uniformly distributed."""
        self._next = random_columns(self.V, self._width, self._generator)
        self._R = torch.zeros(self._width, 0, dtype=torch.float64)
        self.expand()

    def expand(self) -> None:
        """Grow V and U by the next block: w forward and w reverse products.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        old, width = self.size, self._next.shape[1]
        W = self._product(self._next, "forward")
        new = self._extend(self.U, W)
        B = torch.zeros(old + width, old + width, dtype=torch.float64)
        B[:old, :old] = self._B
        B[:, old:] = torch.cat([new.inner, new.outer])
        self._B = B
        self._V.append(self._next)
        self._AV.append(W)
        self._U.append(new.block)

        Z = self._product(new.block, "reverse")
        self._AtU.append(Z)
        following = self._extend(self.V, Z)
        self._next = following.block
        self._R = torch.nn.functional.pad(following.outer, (old, 0))
        self.steps += 1
        self.expanded += width

    def restart(self, keep: int) -> None:
        """Shrink V and U to their `keep` leading approximate singular vectors, without a product.

        With B = X S Y', the bases become V Y and U X, B becomes S and R becomes R X, so that both
        invariants hold as before and the next block goes on where it was. (A thick restart: Baglama
        & Reichel, 2005.)
        """
        ritz = self.ritz(keep)
        for basis, coefficients in (
            (self._V, ritz.right),
            (self._AV, ritz.right),
            (self._U, ritz.left),
            (self._AtU, ritz.left),
        ):
            basis.combine(coefficients)
        self._B = torch.diag(ritz.s)
        self._R = self._R @ ritz.left

    def add_random(self, width: int) -> None:
        """Widen the next block by random columns, orthogonal to everything so far.

        They reach what no power of the operator reaches from the start: invariant subspaces that
        the starting block did not touch, and copies of a value repeated more often than b times.
        """
        n = self._operator.shape[1]
        width = min(width, n - self.size - self._next.shape[1])
        if width > 0:
            fresh = random_columns(self.V, width, self._generator, beside=self._next)
            self._next = torch.cat([self._next.T, fresh.T]).T
            self._R = torch.nn.functional.pad(self._R, (0, 0, 0, width))

    def ritz(self, k: int) -> Ritz:
        """Return the k leading approximate triplets, by the SVD of B in float64."""
        left, s, right = dense_svd(self._B)
        k = min(k, self.size)
        estimates = torch.linalg.vector_norm(self._R @ left[:, :k], dim=0)
        return Ritz(s[:k], left[:, :k], right[:k].T, estimates)

    def triplets(self, ritz: Ritz) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (s, residuals, U, V) of Ritz triplets, measured with the products kept."""

        def like(coefficients: Tensor) -> Tensor:
            return coefficients.to(dtype=self.V.dtype, device=self.V.device)

        s, left, right = like(ritz.s), like(ritz.left), like(ritz.right)
        U, V = self.U @ left, self.V @ right
        residuals = residual_lengths(
            s, U, V, lambda part: self.AV @ right[:, part], lambda part: self.AtU @ left[:, part]
        )
        return s, residuals, U, V

    def _product(self, block: Tensor, direction: Direction) -> Tensor:
        A = self._operator
        W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
        done = self.size if direction == "forward" else self.size - block.shape[1]
        where = f"block of {block.shape[1]} vectors after {done}"
        self._scale = max(self._scale, longest_product(A, W, direction, where))
        check_scale(self._scale, W)
        return W

    def _extend(self, basis: Tensor, W: Tensor) -> Extension:
        floor = torch.finfo(W.dtype).eps * self._scale
        new = extend(basis, W, floor=floor, generator=self._generator)
        self.refills += new.block.shape[1] - new.rank
        return new


def estimated_frobenius(state: Factorization) -> tuple[float, float]:
    """Estimate ‖A‖²_F, and its standard error, from the products of the starting block.

    For a uniformly random unit vector v of length n, E n |A v|² = ‖A‖²_F.
    """
    n, count = state.V.shape
    squares = n * column_lengths(state.AV) ** 2
    if count == n:
        return float(squares.mean()), 0.0
    spread = float(squares.std()) if count > 1 else math.inf
    return float(squares.mean()), spread / math.sqrt(count)
