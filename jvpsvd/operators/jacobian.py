"""The Jacobian of a function at a point, as a linear operator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from jvpsvd.errors import ArgumentError, NonFiniteError, TraceError
from jvpsvd.operators.base import LinearOperator
from jvpsvd.operators.batch import BatchedMap, batched, stack_values
from jvpsvd.operators.blocks import columns
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
# The blocks of a batch always fill a chunk, so it is taken from what was recorded: the largest
# tensor on the way should stay below this size.
_WIDEST_ELEMENTS = 1 << 19
_CHUNK_RANGE = (8, 512)


class JacobianOperator(LinearOperator):
    """J = ∂f/∂x at a point: m = f(x).numel() rows, n = x.numel() columns, never written down.

    ``J @ V`` is b Jacobian–vector products, ``J.T @ U`` b vector–Jacobian products. Rows follow
    f(x).flatten() and columns x.flatten(). (Mototake & Ikegami write the transpose, eq. 3.) The
    function is evaluated once at the point; each product afterwards only replays its linear part.

    With ``batch_dims=1`` it is the batch of the Jacobians at the points X[0], X[1], …: fn takes one
    of them, is recorded once, and is replayed at all of them together.

    Args:
        fn: tensor → tensor, or a module. Its output must be finite and of the dtype of x.
        x: The point, of any shape, of a real floating dtype; or B points along a first dimension.
        batch_dims: How many dimensions of x count points: 0 or 1.
        chunk: Vectors per call of automatic differentiation, over all points of a batch; chosen
            from the sizes when None. It bounds memory and is independent of the width of the blocks
            multiplied.
        derivatives: "trace" records the linear maps on the first product (see `Trace`);
            "transforms" uses vmap(jvp) and vmap(vjp), with no set-up and slower products; "auto"
            records, and falls back to the transforms with a line in the log.

    Raises:
        ArgumentError: If x or fn(x) is not a real floating tensor, their dtypes or devices
            differ, or (on the first product) fn gives another value than when it was first called.
        ModelError: If fn is a module in training mode (see `refuse_training_mode`).
        NonFiniteError: If fn(x) holds NaN or infinity; names the points of a batch where it does.
        TraceError: With derivatives="trace", if fn cannot be recorded, or takes another path at
            one of the points, which is named.

    >>> J = JacobianOperator(lambda x: x**2, torch.tensor([1.0, 2.0, 3.0]))
    >>> J
    <JacobianOperator 3 x 3, torch.float32, cpu>
    >>> J @ torch.ones(3)
    tensor([2., 4., 6.])
    >>> J = JacobianOperator(lambda x: x**2, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), batch_dims=1)
    >>> J
    <JacobianOperator 2 x 2 x 2, torch.float32, cpu>
    >>> J @ torch.ones(2)
    tensor([[2., 4.],
            [6., 8.]])
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        batch_dims: int = 0,
        chunk: int | None = None,
        derivatives: Derivatives = "auto",
    ) -> None:
        if batch_dims not in (0, 1):
            raise ArgumentError(
                f"batch_dims={batch_dims!r} must be 0, for one point, or 1, for points along the "
                "first dimension of x"
            )
        if derivatives not in ("auto", "trace", "transforms"):
            raise ArgumentError(
                f'derivatives={derivatives!r} is unknown; use "auto", "trace" or "transforms"'
            )
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
            raise ArgumentError(
                "the point x must be a non-empty tensor of a real floating dtype, got "
                + (f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__)
            )
        if x.ndim < batch_dims:
            raise ArgumentError("x has no dimension; batch_dims=1 takes points along its first one")
        if isinstance(fn, nn.Module):
            refuse_training_mode(fn)
        point = x.detach().clone()  # the caller may go on to change x
        evaluate = prepared(fn)
        with torch.no_grad():
            values = [check_output(evaluate(z)) for z in (point if batch_dims else [point])]
        value = stack_values(values) if batch_dims else values[0]
        self._fn: Callable[[Tensor], Tensor] | None = fn
        self._derivatives = derivatives
        self._map: LinearMap | BatchedMap | None = None
        self._adopt(point, value.detach(), chunk, batch_dims)

    @classmethod
    def from_linear_map(
        cls, linear_map: LinearMap | BatchedMap, *, chunk: int | None = None
    ) -> JacobianOperator:
        """Return the operator of a derivative taken elsewhere, such as one depth of a `Trace`.

        The map of many points gives a batch.

        Raises:
            NonFiniteError: If the value at a point holds NaN or infinity.

        >>> trace = Trace(torch.sin, torch.zeros(2))
        >>> J = JacobianOperator.from_linear_map(trace.at(torch.zeros(2))[0])
        >>> J @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
        """
        operator = cls.__new__(cls)
        operator._fn = None
        operator._map = linear_map
        dims = 1 if isinstance(linear_map, BatchedMap) else 0
        operator._adopt(linear_map.point, linear_map.value, chunk, dims)
        return operator

    def _adopt(self, point: Tensor, value: Tensor, chunk: int | None, dims: int) -> None:
        m, n = (z.shape[dims:].numel() for z in (value, point))
        super().__init__((*point.shape[:dims], m, n), point.dtype, point.device)
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
                f"the function's value at {_not_finite(value) if dims else 'the point'} holds NaN "
                "or infinity; check the input and the weights before taking derivatives"
            )
        if chunk is not None and chunk < 1:
            raise ArgumentError(f"chunk={chunk} must be at least 1")
        self._chunk = chunk
        self.point = point
        """The point x, or the points X of a batch."""
        self.value = value
        """f(x), as the function returned it; of a batch, f(X[0]), f(X[1]), … stacked."""

    @property
    def chunk(self) -> int:
        """Vectors per call of automatic differentiation, over all points of a batch.

        Chosen on the first product of a batch, or when asked for: it depends on what is recorded.
        """
        if self._chunk is None:
            J = self._linear_map() if self.batch else None
            if isinstance(J, BatchedMap) and J.widest is not None:
                fitting = _WIDEST_ELEMENTS // J.widest
            else:
                fitting = _CHUNK_ELEMENTS // (sum(self.shape[-2:]) * 8)
            low, high = _CHUNK_RANGE
            self._chunk = min(high, max(low, fitting))
        return self._chunk

    def _matmat(self, V: Tensor) -> Tensor:
        J = self._linear_map()
        if isinstance(J, BatchedMap):
            return self._at_points(J.push, V, self.point, self.value)
        return self._in_chunks(J.push, V, self.point, self.value)

    def _rmatmat(self, U: Tensor) -> Tensor:
        J = self._linear_map()
        if isinstance(J, BatchedMap):
            return self._at_points(J.pull, U, self.value, self.point)
        return self._in_chunks(J.pull, U, self.value, self.point)

    def _select(self, index: Tensor) -> LinearOperator:
        J = self._linear_map()
        if not isinstance(J, BatchedMap):
            raise TypeError("the map of a batch must be a BatchedMap")
        return JacobianOperator.from_linear_map(J.select(index), chunk=self._chunk)

    def _linear_map(self) -> LinearMap | BatchedMap:
        if self._map is None:
            fn = self._fn
            if fn is None:
                raise TypeError("a JacobianOperator without function must hold its linear map")
            self._map = self._differentiate(fn)
        return self._map

    def _differentiate(self, fn: Callable[[Tensor], Tensor]) -> LinearMap | BatchedMap:
        linear_map = self._record_or_transform(fn)
        ours, theirs = linear_map.value, self.value
        pairs = zip(ours, theirs, strict=True) if self.batch else [(ours, theirs)]
        if not all(agree(*pair) for pair in pairs):
            raise ArgumentError(
                "fn gave two different values at the same point; it is random, keeps state, or its "
                "weights have changed since the operator was made"
            )
        return linear_map

    def _record_or_transform(self, fn: Callable[[Tensor], Tensor]) -> LinearMap | BatchedMap:
        if self._derivatives != "transforms":
            try:
                if self.batch:
                    return Trace(fn, self.point[0]).at_many(self.point)[0]
                # Recorded at this very point, so there is no other path it could have taken.
                return Trace(fn, self.point).at(self.point, check=False)[0]
            except TraceError as error:
                if self._derivatives == "trace":
                    raise
                logger.warning("%s; using vmap(jvp) and vmap(vjp), with slower products", error)
        if self.batch:
            return batched([by_transforms(fn, x) for x in self.point])
        return by_transforms(fn, self.point)

    def _at_points(
        self, apply: Callable[[Tensor, int], Tensor], block: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        rows = block.mT
        images = apply(rows.reshape(*rows.shape[:2], *source.shape[1:]), self.chunk)
        return images.reshape(*rows.shape[:2], target.shape[1:].numel()).mT

    def _in_chunks(
        self, apply: Callable[[Tensor], Tensor], block: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        rows = columns(block).T
        out = torch.empty(rows.shape[0], target.numel(), dtype=self.dtype, device=self.device)
        for start in range(0, rows.shape[0], self.chunk):
            part = rows[start : start + self.chunk]
            images = apply(part.reshape(part.shape[0], *source.shape))
            out[start : start + part.shape[0]] = images.reshape(part.shape[0], -1)
        return out.T


def _not_finite(values: Tensor) -> str:
    """Return in words at which points of a batch there is NaN or infinity."""
    finite = torch.isfinite(values).flatten(1).all(1)
    bad = (~finite).nonzero().flatten().tolist()
    named = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
    return f"point{'s' if len(bad) > 1 else ''} {named} of the batch"
