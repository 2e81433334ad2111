"""The Jacobian of a function at a point, as a linear operator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from jvpsvd.errors import ArgumentError, NonFiniteError, TraceError
from jvpsvd.operators.base import LinearOperator, columns
from jvpsvd.operators.derivatives import (
    LinearMap,
    agree,
    by_transforms,
    check_output,
    prepared,
)
from jvpsvd.operators.modes import refuse_training_mode
from jvpsvd.operators.trace import Trace

Derivatives = Literal["auto", "trace", "transforms"]

logger = logging.getLogger(__name__)

# A chunk of tangents should stay near the last-level cache: wider blocks only fault more pages in.
_CHUNK_ELEMENTS = 1 << 23
_CHUNK_RANGE = (8, 512)


class JacobianOperator(LinearOperator):
    """J = ∂f/∂x at one point: m = f(x).numel() rows, n = x.numel() columns, never written down.

    ``J @ V`` is b Jacobian–vector products, ``J.T @ U`` b vector–Jacobian products. Rows follow
    f(x).flatten() and columns x.flatten(). (Mototake & Ikegami write the transpose, eq. 3.) The
    function is evaluated once at the point; each product afterwards only replays its linear part.

    Args:
        fn: tensor → tensor, or a module. Its output must be finite and of the dtype of x.
        x: The point, of any shape, of a real floating dtype.
        chunk: Vectors per call of automatic differentiation; chosen from the sizes when None.
            It bounds memory and is independent of the width of the blocks multiplied.
        derivatives: "trace" records the linear maps on the first product (see `Trace`);
            "transforms" uses vmap(jvp) and vmap(vjp), with no set-up and slower products; "auto"
            records, and falls back to the transforms with a line in the log.

    Raises:
        ArgumentError: If x or fn(x) is not a real floating tensor, their dtypes or devices
            differ, or (on the first product) fn gives another value than when it was first called.
        ModelError: If fn is a module in training mode (see `refuse_training_mode`).
        NonFiniteError: If fn(x) holds NaN or infinity.
        TraceError: With derivatives="trace", if fn cannot be recorded.

    >>> J = JacobianOperator(lambda x: x**2, torch.tensor([1.0, 2.0, 3.0]))
    >>> J
    <JacobianOperator 3 x 3, torch.float32, cpu>
    >>> J @ torch.ones(3)
    tensor([2., 4., 6.])
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        chunk: int | None = None,
        derivatives: Derivatives = "auto",
    ) -> None:
        if derivatives not in ("auto", "trace", "transforms"):
            raise ArgumentError(
                f'derivatives={derivatives!r} is unknown; use "auto", "trace" or "transforms"'
            )
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
            raise ArgumentError(
                "the point x must be a non-empty tensor of a real floating dtype, got "
                + (f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__)
            )
        if isinstance(fn, nn.Module):
            refuse_training_mode(fn)
        point = x.detach().clone()  # the caller may go on to change x
        with torch.no_grad():
            value = check_output(prepared(fn)(point))
        self._fn: Callable[[Tensor], Tensor] | None = fn
        self._derivatives = derivatives
        self._map: LinearMap | None = None
        self._adopt(point, value.detach(), chunk)

    @classmethod
    def from_linear_map(
        cls, linear_map: LinearMap, *, chunk: int | None = None
    ) -> JacobianOperator:
        """Return the operator of a derivative taken elsewhere, such as one depth of a `Trace`.

        Raises:
            NonFiniteError: If the value at the point holds NaN or infinity.

        >>> trace = Trace(torch.sin, torch.zeros(2))
        >>> J = JacobianOperator.from_linear_map(trace.at(torch.zeros(2))[0])
        >>> J @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
        """
        operator = cls.__new__(cls)
        operator._fn = None
        operator._map = linear_map
        operator._adopt(linear_map.point, linear_map.value, chunk)
        return operator

    def _adopt(self, point: Tensor, value: Tensor, chunk: int | None) -> None:
        super().__init__((value.numel(), point.numel()), point.dtype, point.device)
        if value.dtype != point.dtype:
            raise ArgumentError(
                f"fn maps {point.dtype} to {value.dtype}; give x in the dtype that fn computes in"
            )
        if value.device != point.device:
            raise ArgumentError(
                f"fn takes x on {point.device} to {value.device}; keep its output where x is"
            )
        if not torch.isfinite(value).all():
            raise NonFiniteError(
                "the function's value at the point holds NaN or infinity; check the input and the "
                "weights before taking derivatives"
            )
        if chunk is not None and chunk < 1:
            raise ArgumentError(f"chunk={chunk} must be at least 1")
        low, high = _CHUNK_RANGE
        self._chunk = chunk or min(high, max(low, _CHUNK_ELEMENTS // (sum(self.shape) * 8)))
        self.point = point
        """The point x."""
        self.value = value
        """f(x), as the function returned it."""

    @property
    def chunk(self) -> int:
        """Vectors per call of automatic differentiation."""
        return self._chunk

    def _matmat(self, V: Tensor) -> Tensor:
        return self._in_chunks(self._linear_map().push, V, self.point, self.value)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._in_chunks(self._linear_map().pull, U, self.value, self.point)

    def _linear_map(self) -> LinearMap:
        if self._map is None:
            fn = self._fn
            if fn is None:
                raise TypeError("a JacobianOperator without function must hold its linear map")
            self._map = self._differentiate(fn)
        return self._map

    def _differentiate(self, fn: Callable[[Tensor], Tensor]) -> LinearMap:
        linear_map = self._record_or_transform(fn)
        if not agree(linear_map.value, self.value):
            raise ArgumentError(
                "fn gave two different values at the same point; it is random, keeps state, or its "
                "weights have changed since the operator was made"
            )
        return linear_map

    def _record_or_transform(self, fn: Callable[[Tensor], Tensor]) -> LinearMap:
        if self._derivatives != "transforms":
            try:
                # Recorded at this very point, so there is no other path it could have taken.
                return Trace(fn, self.point).at(self.point, check=False)[0]
            except TraceError as error:
                if self._derivatives == "trace":
                    raise
                logger.warning("%s; using vmap(jvp) and vmap(vjp), with slower products", error)
        return by_transforms(fn, self.point)

    def _in_chunks(
        self, apply: Callable[[Tensor], Tensor], block: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        rows = columns(block).T
        out = torch.empty(rows.shape[0], target.numel(), dtype=self.dtype, device=self.device)
        for start in range(0, rows.shape[0], self._chunk):
            part = rows[start : start + self._chunk]
            images = apply(part.reshape(part.shape[0], *source.shape))
            out[start : start + part.shape[0]] = images.reshape(part.shape[0], -1)
        return out.T
