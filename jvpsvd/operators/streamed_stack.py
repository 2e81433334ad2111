"""The Jacobians at many points as one operator, made one at a time and never all held."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown, whole_number
from jvpsvd.errors import ArgumentError, TraceError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import by
from jvpsvd.operators.derivatives.linear_map import WEIGHTS_CHANGED, Held, LinearMap
from jvpsvd.operators.differentiate import tell_difference, transformed
from jvpsvd.operators.environment.precision import full_precision
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.batch_of_one import function_of_one, refuse_other_function
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.failures import failures_named
from jvpsvd.operators.function.first_call import FirstCall
from jvpsvd.operators.function.lower_precision import eps_of_tests, find_lower_precision
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.operators.function.replaced_weights import list_weights, note_modules
from jvpsvd.operators.function.restoring import restored
from jvpsvd.operators.jacobian import JacobianOperator
from jvpsvd.operators.linear_operator import LinearOperator
from jvpsvd.operators.recording.constants import HeldWeights
from jvpsvd.operators.recording.sizes import AnotherSizeError
from jvpsvd.operators.recording.trace import Trace

logger = logging.getLogger(__name__)


class Points(Protocol):
    """Points that can be read again: a list, a tensor, or a data set that reads them by index."""

    def __len__(self) -> int:
        """The number of points."""

    def __getitem__(self, index: int, /) -> Any:
        """The point at this index."""


class StreamedStack(LinearOperator):
    """A₁, A₂, … of one shape (m, n) above each other, (N·m) × n, made again for every product.

    Only one of them exists at a time: memory holds that one and the blocks. The right singular
    vectors are the directions to which all points together respond most. A product of the stack is
    one product of each operator, and counts as one.

    Args:
        at: Takes an index 0 … count − 1 to an operator, always to the same one.
        count: N.

    Raises:
        ArgumentError: If count is less than 1, an operator is a batch, or one differs from the
            first in shape, dtype or device; it is named.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = StreamedStack(lambda i: MatrixOperator((i + 1) * torch.eye(2)), 3)
    >>> A
    <StreamedStack 6 x 2, torch.float32, cpu>
    >>> A @ torch.ones(2)
    tensor([1., 1., 2., 2., 3., 3.])
    """

    def __init__(self, at: Callable[[int], LinearOperator], count: int) -> None:
        whole_number("count", count, 1)
        if not callable(at):
            raise ArgumentError(f"at is {shown(at)}; give a function from an index to an operator")
        first = _make(at, 0)
        if first.batch:
            raise ArgumentError(f"operator 0 is a batch of {first.batch[0]}; give single operators")
        self._at, self._count, self._rows = at, count, first.shape[0]
        self._held_by_one = first._held()
        super().__init__((count * first.shape[0], first.shape[1]), first.dtype, first.device)
        self._precision = first.precision

    @classmethod
    def over(
        cls, fn: Callable[[Tensor], Tensor], points: Points, *, chunk: int | None = None
    ) -> StreamedStack:
        """Return the stacked Jacobians of fn at these points, all of one shape.

        fn is recorded once (see `Trace`) and evaluated at a point whenever that is multiplied. All
        products are of one matrix: points in a tensor, an array or a list are copied, and products
        are refused once weights have changed. (A data set is read again, and must stay as it is.)
        fn takes one point, without the dimension of a batch. One that takes batches only is given
        batches of one, and a module that computes something else of these is refused, both as with
        ``batch_dims=1`` of `JacobianOperator`.

        Raises:
            ArgumentError: If there is no point, fn(x) cannot be differentiated, or fn is a module
                that computes something else of x than of the batch x[None]; by products if weights
                have changed.
            NonFiniteError: If fn(x) holds NaN or infinity at a point that is multiplied.
            DerivativeError: If a part of fn in inference mode lacks its derivative at such a point.
            TraceError: If fn takes another path at a point than it did when recorded.

        >>> J = StreamedStack.over(torch.square, torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
        >>> J @ torch.ones(2)
        tensor([ 2.,  4.,  0., 10.])
        """
        if isinstance(points, Tensor):
            dense_tensor("points", points)
        if not hasattr(points, "__getitem__") or isinstance(points, Mapping | str | bytes):
            raise ArgumentError(f"points is {shown(points)}; give a list or a tensor of points")
        if getattr(points, "shape", None) == () or len(points) < 1:
            raise ArgumentError("there is no point; give at least one")
        points = _copied(points)
        first = _as_tensor(points[0])
        check_function(fn)
        of_user = fn
        first_call = FirstCall([fn]) if isinstance(first, Tensor) else None
        if isinstance(first, Tensor):
            fn = OfVector(function_of_one(fn, first), None)
        if first_call is not None:
            first_call.end()
        # Made as a check: a random function, or a module in training mode, is refused here.
        J = JacobianOperator(fn, first, derivatives="transforms")
        if first_call is not None:
            first_call.tell()
        lower_precision = find_lower_precision(prepare(fn), first)
        if isinstance(fn, OfVector):
            every = points if isinstance(points, Tensor) else first[None]
            with restored(of_user, first.device):
                eps = eps_of_tests(lower_precision, first.dtype)
                refuse_other_function(of_user, fn, every, J.value[None], eps)
        differentiate: Callable[[Tensor], LinearMap] = partial(transformed, fn)
        may_hide = True  # without a recording, another point may run other operations
        try:
            trace = Trace(fn, first)
            differentiate = partial(_replay, trace, fn)
            may_hide = _runs_inference(fn, first)
            trace.fix_weights()
            weights = HeldWeights({})  # the recording compares them itself
        except TraceError as error:
            logger.warning("%s; using vmap(jvp) and vmap(vjp), with slower products", error)
            weights = HeldWeights(list_weights(of_user))
        compared, are_the_same = {0}, note_modules(of_user)

        def at(index: int) -> LinearOperator:
            if not (are_the_same() and weights.are_unchanged()):
                raise ArgumentError(WEIGHTS_CHANGED)
            with full_precision():
                x = _as_tensor(points[index])
                J = replace(differentiate(x), lower_precision=lower_precision)
                # What inference mode hides may be flat at the first point.
                if may_hide and index not in compared:
                    if _runs_inference(fn, x):
                        tell_difference(fn, J, name=f"point {index}")
                    compared.add(index)
            return JacobianOperator.from_linear_map(J, chunk=chunk)

        return cls(at, len(points))

    def mean_gram(self) -> LinearOperator:
        """Return G = (1/N) Σ Aᵢ' Aᵢ, n × n: the average gradient outer product.

        Its singular values are the squares of those of this operator over N, but a product needs no
        block of N·m rows, and passes over the points once.

        >>> J = StreamedStack.over(torch.square, torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
        >>> J.mean_gram() @ torch.eye(2)
        tensor([[ 2.,  0.],
                [ 0., 58.]])
        """
        return _MeanGram(self)

    def operator(self, index: int) -> LinearOperator:
        """Return the operator at one index, made again.

        Raises:
            ArgumentError: If it differs from the first in shape, dtype or device.
        """
        if not isinstance(index, int | np.integer) or not 0 <= index < self._count:
            raise ArgumentError(f"there are operators 0 to {self._count - 1}, not {shown(index)}")
        A = _make(self._at, int(index))
        expected = (self._rows, self.shape[1])
        if (A.shape, A.dtype, A.device) != (expected, self.dtype, self.device):
            raise ArgumentError(
                f"operator {index} is {by(A.shape)} in {A.dtype} on {A.device}, operator 0 "
                f"{by(expected)} in {self.dtype} on {self.device}; all must be of one kind"
            )
        return A

    def __len__(self) -> int:
        return self._count

    def _perturbed(self, seed: int) -> StreamedStack | None:
        if self._at(0).perturbed_by_rounding(seed) is None:
            return None

        def at(index: int) -> LinearOperator:
            A = self._at(index)
            perturbed = A.perturbed_by_rounding(seed)
            return A if perturbed is None else perturbed

        return StreamedStack(at, self._count)

    def _held(self) -> frozenset[Held]:
        return self._held_by_one

    def _matmat(self, V: Tensor) -> Tensor:
        out = V.new_empty(V.shape[1], self.shape[0])
        for index, rows in enumerate(torch.split(out, self._rows, dim=1)):
            rows.copy_(self.operator(index).matmat(V).T)
        return out.T

    def _rmatmat(self, U: Tensor) -> Tensor:
        total = U.new_zeros(U.shape[1], self.shape[1])
        for index, block in enumerate(torch.split(U, self._rows)):
            total += self.operator(index).rmatmat(block).T
        return total.T


class _MeanGram(LinearOperator):
    """(1/N) Σ Aᵢ' Aᵢ of a stream."""

    def __init__(self, stream: StreamedStack) -> None:
        n = stream.shape[1]
        super().__init__((n, n), stream.dtype, stream.device)
        self._stream, self._precision = stream, stream.precision

    def _held(self) -> frozenset[Held]:
        return self._stream._held()

    def _matmat(self, V: Tensor) -> Tensor:
        total = V.new_zeros(V.shape[1], V.shape[0])
        for index in range(len(self._stream)):
            A = self._stream.operator(index)
            total += A.rmatmat(A.matmat(V)).T
            del A  # before the next one is made
        return total.div_(len(self._stream)).T

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._matmat(U)

    def _perturbed(self, seed: int) -> LinearOperator | None:
        stream = self._stream._perturbed(seed)
        return None if stream is None else _MeanGram(stream)


def _make(at: Callable[[int], LinearOperator], index: int) -> LinearOperator:
    with failures_named(f"at({index})", "give a function from an index to an operator"):
        made: object = at(index)
    if not isinstance(made, LinearOperator):
        raise ArgumentError(f"operator {index} is {shown(made)}; give operators")
    return made


def _copied(points: Points) -> Points:
    """Return points that lie in memory as copies, since the caller may go on to change them."""
    if isinstance(points, Tensor):
        return points.detach().clone()
    if isinstance(points, list | tuple):
        return [_copied(each) if _lies_in_memory(each) else each for each in points]
    return _as_tensor(points).clone() if is_array(points) else points


def _lies_in_memory(point: object) -> bool:
    return isinstance(point, Tensor) or is_array(point)


def _as_tensor(point: Any) -> Tensor:
    return tensor_of("a point", point) if is_array(point) else point


def _runs_inference(fn: Callable[[Tensor], Any], x: Tensor) -> bool:
    return "torch.inference_mode" in find_obstacles(prepare(fn), x)


def _replay(trace: Trace, fn: Callable[[Tensor], Tensor], x: Tensor) -> LinearMap:
    """Return the derivative as it was recorded, or by torch.func where masks have other sizes."""
    try:
        return trace.at(x, anew=False)[0]
    except AnotherSizeError as error:
        logger.info("%s; using vmap(jvp) and vmap(vjp) there", error.what)
        return transformed(fn, x)
