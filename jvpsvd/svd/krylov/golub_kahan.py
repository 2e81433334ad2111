"""The block Golub–Kahan factorisation, A V = U B and A' U = V B' + F R, with both bases stored.

Sources: Golub & Kahan (1965); block form: Golub, Luk & Overton (1981); one-sided
reorthogonalisation: Simon & Zha (2000).
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.norms import COLUMNS_AT_ONCE, column_norms
from jvpsvd.svd.kernels.orthogonalize import (
    OrthogonalBlock,
    linear_combination,
    orthogonalize_block,
)
from jvpsvd.svd.kernels.zeros import convert_coefficients
from jvpsvd.svd.krylov.factorization import Factorization, Measured, Options, Ritz
from jvpsvd.svd.krylov.left_basis import LeftBasis
from jvpsvd.svd.krylov.retry import RetryWith

# As a rule residuals grow by a sixth of the orthogonality that U loses, seldom by all of it or
# more. A loss above the first number, in units of tol, may explain a residual that misses it; one
# of less than the second, in units of eps, does not: the products themselves are no better.
_SUSPECT, _ROUNDING = 0.15, 5.0


class GolubKahanFactorization(Factorization):
    """A V = U B and A' U = V B' + F R, for an operator or a batch of them in lock step.

    V is reorthogonalised fully, U only as far as `LeftBasis` finds necessary. A'U is stored too, as
    the operator returned it, so that residuals are measured without further products.

    Without `keep_left` there are values and right vectors only, and `expand` and `restart` raise
    `RetryWith` if they need U.

    Args:
        A: The operator (m, n).
        max_loss: Orthogonality that U may lose; it changes residuals by less than that times σ₁.
        options: Those of `Factorization`.
    """

    def __init__(
        self, A: LinearOperator, *, max_loss: float = 0.0, **options: Unpack[Options]
    ) -> None:
        super().__init__(A, **options)
        self._AtU = GrowingColumns(A.shape[-1], self._capacity, self._max_size, A)
        self.left = LeftBasis(
            A,
            capacity=self._capacity,
            max_size=self._max_size,
            keep=self._keep_left,
            max_loss=max_loss,
            generator=self._generator,
        )
        self.defect = torch.zeros(*A.batch, 0, dtype=torch.float64)
        """(s,) measured column norms of A V − U B; a restart combines them and adds rounding."""

    @property
    def AtU(self) -> Tensor:
        """(n, s) products A' U, as the operator returned them."""
        return self._AtU.block

    def measure(self, ritz: Ritz, matrix: int | None = None) -> Measured:
        """Return Ritz triplets with measured residuals, for one matrix of a batch or for all.

        Residuals come from the products taken: A' U was kept, and for A V its measured distance
        from U B.
        """
        V, AtU, U, defect = self.V, self.AtU, self.left.U, self.defect
        if matrix is not None:
            ritz = ritz.select(matrix)
            V, AtU, defect = V[matrix], AtU[matrix], defect[matrix]
            U = None if U is None else U[matrix]
        dtype, device = V.dtype, V.device
        s = ritz.s.to(dtype=dtype, device=device)
        left = convert_coefficients(ritz.left, V)
        v = linear_combination(V, ritz.right)
        u = None if U is None else linear_combination(U, left)
        residuals = torch.empty_like(s)
        rounding = defect[..., None, :] @ ritz.right.abs()
        for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
            part = slice(start, start + COLUMNS_AT_ONCE)
            norm_v = column_norms(v[..., part])
            norm_u = torch.ones_like(norm_v) if u is None else column_norms(u[..., part])
            adjoint = linear_combination(AtU, left[..., part])
            adjoint.div_(norm_u.to(dtype)[..., None, :])
            adjoint.sub_(v[..., part] * (s[..., part] / norm_v.to(dtype))[..., None, :])
            # A v = U B y + D y. Besides |D y|, a norm of u or v that is not 1 leaves a part of s u.
            forward = rounding[..., 0, part].to(device) / norm_v
            forward += s[..., part].double() * (norm_u - norm_v).abs() / norm_v
            residuals[..., part] = torch.maximum(forward, column_norms(adjoint)).to(dtype)
        return s, residuals, u, v

    def retry_after_miss(self, tol: float) -> RetryWith | None:
        """Return how to begin again if residuals miss `tol`: with full reorthogonalisation."""
        rounding = _ROUNDING * torch.finfo(self.V.dtype).eps
        return RetryWith(loss=0.0) if self.left.loss > _SUSPECT * tol > rounding else None

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        super().select(index)
        self._AtU.select(index)
        self.left.select(index)
        self.defect = self.defect[index]

    def _append(self) -> tuple[Tensor, OrthogonalBlock, Tensor]:
        # A' u of a new column u is orthogonal to all columns of V but those that B couples to u.
        window = self.left.coupling + self.F.shape[-1]
        new, defect = self.left.append(self._multiply(self.F, "forward"), self.scale)
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
        return torch.cat([new.coefficients, new.R], dim=-2), following, following.R

    def _combine_left(self, ritz: Ritz, coupling: int) -> None:
        self.left.restart(ritz.left, ritz.s, coupling)
        self._AtU.combine(ritz.left)
        rounding = torch.finfo(self.V.dtype).eps * self.scale[..., None]
        # Rounding errors of different columns are independent, so their squares add up. (The
        # worst-case bound, which `measure` uses, would grow by √s at every restart.)
        squares = (self.defect[..., None, :] ** 2) @ ritz.right**2
        self.defect = (squares[..., 0, :] + rounding**2).sqrt()
