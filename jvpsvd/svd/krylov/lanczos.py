"""The block Lanczos factorisation of A'A, A'A V = V B'B + F R B, without a basis of the long side.

V, B, F and R are those of Golub–Kahan, where A V = U B and A'U = V B' + F R, but U is not formed: B
comes from V'A'A V, as its Cholesky factor. A step takes as many products, and only V is stored,
orthogonalised and combined. And most steps read only the last columns of V, as
`OrthogonalityLoss` says. So a step costs much less where products cost little.

The price is accuracy. V'A'A V is known to eps s₁², and a value s therefore to eps s₁² / s, where
Golub–Kahan knows it to eps s₁. That suffices for leading values to a tolerance, not for small ones,
nor for all values of a matrix.

Source: Golub & Van Loan, Matrix Computations (4th ed.), §10.1, §10.3.5 and §10.4.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.norms import one_sided_residual_norms, residual_norms
from jvpsvd.svd.kernels.orthogonalize import (
    OrthogonalBlock,
    linear_combination,
    orthogonalize_block,
    orthonormal_images,
    restore_orthonormality,
)
from jvpsvd.svd.kernels.row_blocked import project, subtract_projection
from jvpsvd.svd.krylov.factorization import Factorization, Measured, Options, Ritz
from jvpsvd.svd.krylov.orthogonality_loss import OrthogonalityLoss
from jvpsvd.svd.krylov.retry import RetryWith

# Columns of B⁻¹, which bound the least value of B, are at most so long in units of 1 / s₁. Squares
# of B's values then stand out of the rounding of V'A'A V: a cautious guess.
_LONGEST_INVERSE = 1e6
_EPS = torch.finfo(torch.float64).eps
# Entries of V'F that may stay, at most: below √eps, by a guess.
_MOST_LOSS = 1e-9
# An estimate of them this many times below what is measured is none, nor is one that leaves
# vectors further than √eps from orthonormal.
_MISJUDGED = 100.0


class LanczosFactorization(Factorization):
    """A'A V = V B'B + F R B, for a single operator in float64.

    Args:
        A: The operator (m, n).
        max_loss: Orthogonality that V may lose; it changes residuals by about that times the value.
        options: Those of `Factorization`.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = torch.linspace(2, 1, 30).double().diag()
    >>> bases = LanczosFactorization(MatrixOperator(A), block_size=2, seed=0, capacity=8)
    >>> bases.initialize()
    >>> bases.expand()
    >>> V, B, F, R = bases.V, bases.B, bases.F, bases.R
    >>> torch.allclose(A.T @ A @ V, V @ B.T @ B + F @ R @ B)
    True
    """

    # Long bases cost little where few steps read all of them, and need fewer products.
    compact_blocks: ClassVar[int] = 40

    def __init__(
        self, A: LinearOperator, *, max_loss: float = 0.0, **options: Unpack[Options]
    ) -> None:
        super().__init__(A, **options)
        self._loss = OrthogonalityLoss(min(max_loss, _MOST_LOSS))
        self._inverse = torch.zeros(0, 0, dtype=torch.float64)
        """(s, j) last columns of B⁻¹: A F has more than rounding along as many columns of U."""

    def measure(self, ritz: Ritz, matrix: int | None = None) -> Measured:
        """Return Ritz triplets with measured residuals, by k products in each direction."""
        V = linear_combination(self.V, ritz.right)
        if not restore_orthonormality(V) <= math.sqrt(_EPS):
            raise RetryWith(forms_left=True)
        s = ritz.s.to(V)
        if not self._keep_left:
            residuals = one_sided_residual_norms(s, V, self._forward, self._reverse)
            return s, residuals, None, V
        images = self._forward(V)
        U = orthonormal_images(images, s, torch.Generator().manual_seed(0))
        residuals = residual_norms(
            s, U, V, lambda part: images[..., part], lambda part: self._reverse(U[..., part])
        )
        return s, residuals, U, V

    def retry_after_miss(self, tol: float) -> RetryWith | None:
        """Return how to begin again if residuals miss `tol`: with U."""
        return RetryWith(forms_left=True)

    def _append(self) -> tuple[Tensor, OrthogonalBlock, Tensor]:
        size, width = self.size, self.F.shape[-1]
        images = self._forward(self.F)
        self._V.append(self.F)
        # Columns of norm 1 at most, as those of U are, so that no square leaves the range.
        unit = float(self.scale) or 1.0
        following = self._next_block(self._reverse(images / unit), unit)
        if not following.Q.shape[-1]:  # all values are to be known, small ones too
            raise RetryWith(forms_left=True)
        gram = unit * following.coefficients[-width:]  # F'A'A F
        along = self.R.mT  # U'A F
        new, failed = torch.linalg.cholesky_ex((gram + gram.mT) / 2 - along.mT @ along, upper=True)
        eye = torch.eye(width, dtype=torch.float64)
        below = torch.linalg.solve_triangular(new, eye, upper=True)
        coupled = self._inverse.shape[-1]
        inverse = torch.cat([-(self._inverse @ (along[size - coupled :] @ below)), below])
        longest = float(self.scale) * float(torch.linalg.vector_norm(inverse, dim=0).max())
        if int(failed) or not longest <= _LONGEST_INVERSE:
            raise RetryWith(forms_left=True)
        self._inverse = inverse
        return torch.cat([along, new]), following, (unit * following.R) @ below

    def add_probe_columns(self, width: int) -> int:
        """Widen F by random columns, orthogonal to V and F; return how many were added."""
        self._loss.forget()
        return super().add_probe_columns(width)

    def _next_block(self, W: Tensor, unit: float) -> OrthogonalBlock:
        """Return W = A'A F / unit, orthogonalised against all columns of V, or only the last."""
        V, loss, width = self.V, self._loss, W.shape[-1]
        orthogonalize = partial(
            orthogonalize_block,
            V,
            W,
            floor=_EPS * self.scale,
            generator=self._generator,
            window=self._inverse.shape[-1] + width,
        )
        if not loss.must_renew:
            near = orthogonalize(full=False)
            if int(near.rank) == width:
                H, C = near.coefficients / unit, near.R / unit
                estimate = loss.estimate(self.B, H, C, unit)
                if loss.accept(estimate):
                    return near
                along = project(V, near.Q)
                largest = float(along.abs().max())
                if largest > _MISJUDGED * float(estimate.abs().max()):
                    raise RetryWith(forms_left=True)
                # Norms and inner products change by the square of what is subtracted.
                if largest <= _MOST_LOSS:
                    loss.renew(V.shape[-1], width)
                    return replace(near, Q=subtract_projection(near.Q, V, along))
        whole = orthogonalize()
        loss.renew(V.shape[-1], whole.Q.shape[-1])
        return whole

    def _combine_left(self, ritz: Ritz, coupling: int) -> None:
        self._loss.forget()
        self._inverse = torch.diag(1 / ritz.s)[:, ritz.s.shape[-1] - coupling :]

    def _forward(self, block: Tensor) -> Tensor:
        return self._multiply(block, "forward")

    def _reverse(self, block: Tensor) -> Tensor:
        return self._multiply(block, "reverse")
