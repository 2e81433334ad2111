"""The left basis U, reorthogonalised only as far as it needs to be (Simon & Zha, 2000).

V is orthonormal to rounding, and U = A V B⁻¹. So U loses orthogonality by rounding times the norms
of the columns of B⁻¹. B⁻¹ grows with every block, and its last columns tell whether a new block of
A V must be orthogonalised against all of U, or only against the blocks that B couples it to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.orthogonalize import OrthogonalBlock, cpu_later, orthogonalize_block
from jvpsvd.svd.kernels.random_numbers import Generators, select_generators
from jvpsvd.svd.kernels.row_blocked import remainder_norms
from jvpsvd.svd.kernels.zeros import with_zeros
from jvpsvd.svd.krylov.retry import RetryWith


class LeftBasis:
    """The basis U (m, s), orthonormal up to an allowed loss, and an estimate of that loss.

    Args:
        like: The operator, for shape, batch, dtype and device.
        capacity: Columns to reserve.
        max_size: Largest number of columns.
        keep: Whether to keep U. If not, only the current block is stored, and a block that must be
            orthogonalised against all of U raises `RetryWith`.
        max_loss: Orthogonality that U may lose.
        generator: CPU generator of the columns that replace lost rank, or one for each matrix.
    """

    def __init__(
        self,
        like: LinearOperator,
        *,
        capacity: int,
        max_size: int,
        keep: bool,
        max_loss: float,
        generator: Generators,
    ) -> None:
        m = like.shape[-2]
        self._columns = GrowingColumns(m, capacity, max_size, like) if keep else None
        self._generator, self._max_loss = generator, max_loss
        self._current = torch.empty(*like.batch, m, 0, dtype=like.dtype, device=like.device)
        self._inverse = torch.zeros(*like.batch, 0, 0, dtype=torch.float64)
        self.coupling = 0
        """Coupling width: A F has more than rounding along this many trailing columns of U."""
        self.loss = 0.0
        """The largest estimated loss of orthogonality that was accepted."""
        self.reorthogonalized = 0
        """Blocks that were orthogonalised against all of U."""

    @property
    def U(self) -> Tensor | None:
        """(m, s), or None if it is not kept."""
        return None if self._columns is None else self._columns.block

    def append(self, W: Tensor, scale: Tensor) -> tuple[OrthogonalBlock, Tensor]:
        """Append the new directions of W = A F to U.

        Args:
            W: (m, w) product with the next block of V.
            scale: Largest norm of a product so far, for each matrix.

        Returns:
            The new block, and the norms of the columns of W − U · coefficients − Q R, which are
            there after the next wait for a GPU.

        Raises:
            RetryWith: If W must be orthogonalised against all of U, and U was not kept.
        """
        eps = torch.finfo(W.dtype).eps
        floor = eps * scale
        size, width = self._inverse.shape[-2], W.shape[-1]
        window = self._current[..., self._current.shape[-1] - self.coupling :]
        new = orthogonalize_block(window, W, floor=floor, generator=self._generator, full=False)
        defect = cpu_later(remainder_norms(W, [(new.Q, new.R), (window, new.coefficients)]))
        inverse = self._next_inverse(new)
        loss = floor * torch.linalg.vector_norm(inverse, dim=-2).amax(-1)
        if bool((loss <= self._max_loss).all()):
            coefficients = with_zeros(new.coefficients, above=size - self.coupling)
            new = OrthogonalBlock(new.Q, coefficients, new.R, new.rank)
            self.loss = max(self.loss, float(loss.max()))
        elif self._columns is None:
            raise RetryWith(keep_left=True)
        else:
            del new
            new = orthogonalize_block(
                self._columns.block,
                W,
                floor=floor,
                generator=self._generator,
                window=self.coupling,
            )
            inverse = _reset_inverse(size, width, scale)
            defect = defect + eps * torch.linalg.vector_norm(new.R, dim=-2)
            self.reorthogonalized += 1
        self._inverse = inverse
        self._current, self.coupling = new.Q, width
        if self._columns is not None:
            self._columns.append(new.Q)
        return new, defect

    def restart(self, coefficients: Tensor, s: Tensor, coupling: int) -> None:
        """Replace U by U X, for B = X S Y' of a restart; B⁻¹ becomes S⁻¹.

        Args:
            coefficients: X.
            s: The diagonal of S.
            coupling: Number of trailing columns of U that the next block is coupled to.
        """
        if self._columns is None:
            raise RetryWith(keep_left=True)
        self._columns.combine(coefficients)
        first = s.shape[-1] - coupling
        self.coupling = coupling
        self._current = self._columns.block[..., first:]
        self._inverse = torch.diag_embed(1 / s)[..., first:]

    def select(self, index: Tensor) -> None:
        """Keep only these matrices of the batch."""
        self._generator = select_generators(self._generator, index)
        if self._columns is not None:
            self._columns.select(index)
        self._inverse = self._inverse[index]
        self._current = self._current[index.to(self._current.device)]

    def _next_inverse(self, new: OrthogonalBlock) -> Tensor:
        """Return the columns of B⁻¹ that a new block adds; infinite if the block lost rank."""
        R, info = torch.linalg.inv_ex(new.R)
        singular = (info > 0) | (new.rank < new.R.shape[-1])
        above = -(self._inverse @ (new.coefficients @ R))
        grown = torch.cat([above, R], dim=-2)
        return torch.where(singular[..., None, None] | ~torch.isfinite(grown), math.inf, grown)


def _reset_inverse(size: int, width: int, scale: Tensor) -> Tensor:
    """Return the columns of B⁻¹ to go on with after a block was orthogonalised against all of U.

    A block of U inherits a loss only from the block before it, and adds the rounding of its own
    product, because A' u of older columns u has no share of the new columns of V. So after a full
    pass the loss is rounding again: eps · s₁ times 1 / s₁.
    """
    norm = scale[..., None, None]
    eye = torch.eye(width, dtype=torch.float64) / torch.where(norm > 0, norm, 1.0)
    return with_zeros(eye, above=size)
