"""Numbers of a result that its residuals and certificate bound."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.arguments import proper_fraction
from jvpsvd.errors import ArgumentError
from jvpsvd.svd.bounds import BoundedValues
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.showing import Shown


class Bounded(Shown):
    """A result, as far as numbers follow from its values with bounds."""

    def condition_number(self) -> Estimate:
        """Return σ₁ over the smallest singular value, with bounds.

        It is known only from below if k < min(m, n), or if the smallest value lies below its error.

        Raises:
            ArgumentError: If this is a batch, or σ₁ is not among the values.

        >>> import jvpsvd
        >>> A = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
        >>> print(jvpsvd.svds(A, "all").condition_number())
        4: all 3 values and their residuals
        >>> print(jvpsvd.svds(A, 1).condition_number())
        at least 1: 2 smaller values are unknown; k="all" finds them
        """
        return self._bounded("condition number").condition_number()

    def log_volume(self) -> Estimate:
        """Return Σ log σ over all min(m, n) values, log √det(J'J) or log √det(JJ'), with bounds.

        Raises:
            ArgumentError: If this is a batch, or not all values were computed.

        >>> import jvpsvd
        >>> print(jvpsvd.svds(torch.diag(torch.tensor([4.0, 0.5])), "all").log_volume())
        0.693147: all 2 values and their residuals
        """
        return self._bounded("volume").log_volume()

    def rank(self, tol: float | None = None) -> Estimate:
        """Return how many singular values exceed tol · σ₁, with bounds.

        Args:
            tol: Relative to σ₁; None: max(m, n) times the spacing of numbers of the dtype at 1, as
                `torch.linalg.matrix_rank` takes it, or of the lower `precision` of products.

        Raises:
            ArgumentError: If this is a batch, σ₁ is not among the values, or tol does not lie
                between 0 and 1.

        >>> import jvpsvd
        >>> print(jvpsvd.svds(torch.diag(torch.tensor([4.0, 2.0, 0.0])), "all").rank())
        2: values above 1.43e-06, by residuals
        """
        least = torch.finfo(self._precision()).eps * max(self.shape[-2:])
        relative = least if tol is None else proper_fraction("tol", tol)
        values = self._bounded("rank")
        return values.rank(relative * float(values.s[0]))

    def upper_bounds(self) -> Tensor:
        """Return (k,) √(s² + ε²) ≥ the true values, with the ε of the certificate.

        ε is estimated from below, by probe and Krylov columns, so the bounds are as good as that
        estimate. They are infinite where ε is unknown. The values less their residuals bound the
        true ones from below.
        """
        epsilon = torch.tensor(
            [c.epsilon if c.epsilon == c.epsilon else torch.inf for c in self.certificates],
            dtype=self.s.dtype,
            device=self.s.device,
        )
        # Squares may leave the range of the dtype.
        return torch.hypot(self.s, epsilon.reshape(*self.s.shape[:-1], 1))

    def _bounded(self, what: str) -> BoundedValues:
        if self.s.ndim > 1:
            raise ArgumentError(f"a batch has a {what} for each matrix; take result.of(i)")
        shorter = min(self.shape)
        if self.which == "smallest" and self.k < shorter:
            raise ArgumentError(f'the {what} needs σ1, which is not here; solve with k="all"')
        s, residuals, upper = (
            one.double().cpu() for one in (self.s, self.residuals, self.upper_bounds())
        )
        return BoundedValues(s, residuals, upper, shorter, self.certificate.sound)
