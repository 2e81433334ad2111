"""Linearize a function at a point: evaluate it, differentiate it, and check both."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves_with_path, tree_unflatten

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import ArgumentError, JvpsvdError, TraceError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import COMPLEX_FUNCTION
from jvpsvd.operators.derivatives.batched_map import BatchedMap
from jvpsvd.operators.derivatives.block_diagonal import tell_block_diagonal
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.differentiate import (
    DerivativeMethod,
    Elsewhere,
    differentiate,
    tell_difference,
)
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.environment.repeated_lines import say_once
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.batch_of_one import function_of_one, refuse_other_function
from jvpsvd.operators.function.conversion import convert_weights
from jvpsvd.operators.function.dependencies import FunctionState
from jvpsvd.operators.function.evaluate import (
    close,
    evaluate_at,
    fix_arguments,
    largest,
    prepare,
    refuse_nondeterministic,
)
from jvpsvd.operators.function.failures import failures_named, remedy_at
from jvpsvd.operators.function.find_module import find_nonfinite_derivative
from jvpsvd.operators.function.first_call import first_call_of
from jvpsvd.operators.function.lower_precision import (
    LowerPrecision,
    eps_of_tests,
    tell_lower_precision,
)
from jvpsvd.operators.function.parameters import OfParameters
from jvpsvd.operators.function.pytrees import OfVector, Structure, same_structure
from jvpsvd.operators.function.replaced_weights import note_modules
from jvpsvd.operators.function.restoring import restored

logger = logging.getLogger(__name__)


class LinearizeOptions(NamedTuple):
    """The options of linearizing a function; see `JacobianOperator`."""

    batch_dims: int
    derivatives: DerivativeMethod
    fold: bool
    check: bool
    recompute: bool = False


class Linearized(NamedTuple):
    """The derivative of a function, and the structures of its point and value."""

    linear_map: LinearMap | BatchedMap
    source: Structure | None
    target: Structure | None


class Linearization:
    """A function whose derivative is taken at a point, and then at others for little.

    What was recorded at one point is replayed at another. Before that, all that the function may
    read is compared with what it was (see `FunctionState`), and afterwards the replayed value with
    that of the function itself. Where either differs, the derivative is taken anew.

    Args:
        fn: The function as the user gave it.
        args: Its further arguments.
        kwargs: The same by name.
        dtype: What points, and the weights of a module, are converted to; None to leave them.
        options: The options.

    >>> options = LinearizeOptions(0, "auto", True, True)
    >>> sine = Linearization(torch.sin, (), {}, None, options)
    >>> sine.at(torch.zeros(2)).linear_map.jvp(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        dtype: torch.dtype | None,
        options: LinearizeOptions,
    ) -> None:
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._dtype, self._options = dtype, options
        self._taken: _Taken | None = None
        self._said: set[str] = set()

    @in_one_thread
    def at(self, x: Any) -> Linearized:
        """Return the derivative at a point, or at the points of a batch.

        Args:
            x: The point or the points, of tensors in any structure; of the kind of the first one.

        Raises:
            ArgumentError: If x is not real floating or of another kind, or fn gives two values for
                one point.
        """
        batch_dims = self._options.batch_dims
        source: Structure | None = None
        if is_array(x):
            x = tensor_of("the point x", x)
        elif not isinstance(x, Tensor):
            source, x = Structure.of(x, "the point x", batch_dims)
        _check_point(x, batch_dims)
        point = x.detach().to(self._dtype or x.dtype, copy=True)  # the caller may go on to change x
        with say_once(self._said):
            found = None if self._taken is None else self._replay(self._taken, source, point)
            return self._take(source, point) if found is None else found

    def note_modules(self) -> Callable[[], bool]:
        """Return a function that tells whether the modules of fn hold the weights they do now."""
        if isinstance(self._fn, OfParameters):  # whose weights are the point
            return lambda: True
        return note_modules(self._fn)

    def find_nonfinite(self, point: Tensor) -> str | None:
        """Return what makes a derivative that is not finite at a point, where it can be seen."""
        if self._taken is None:
            return None
        run = self._taken.of_vector
        with suppress(Exception), restored(self._fn, point.device):  # the products have been told
            return find_nonfinite_derivative(run, prepare(run), point)
        return None

    def _take(self, source: Structure | None, point: Tensor) -> Linearized:
        fn, (batch_dims, derivatives, fold, check, recompute) = self._fn, self._options
        check_function(fn, self._dtype)
        first = first_call_of(fn, [fn, self._args, self._kwargs]) if check else None
        of_first = fix_arguments(convert_weights(fn, self._dtype), self._args, self._kwargs)
        if batch_dims and source is None:
            of_first = function_of_one(of_first, point[0])
        of_vector = OfVector(of_first, source)
        remedy = partial(_remedy, fn, of_vector, point, batch_dims)
        with restored(fn, point.device), failures_named("fn", remedy):
            seen = evaluate_at(fn, of_vector, point, batch_dims)
            if first is not None:
                first.end()
            values, lower_precision = seen.value, seen.lower_precision
            eps = eps_of_tests(lower_precision, point.dtype)
            if batch_dims:
                refuse_other_function(fn, of_vector, point, values, eps)
            one, its_value = (point[0], values[0]) if batch_dims else (point, values)
            try:
                options = batch_dims, derivatives, fold, check, recompute
                J, elsewhere = differentiate(of_vector, point, values, seen.work, *options)
                J = replace(J, lower_precision=lower_precision)
            except JvpsvdError:
                if _gives_another_value(of_vector, one, its_value, eps):
                    refuse_nondeterministic(fn, of_vector, one)
                raise
            pairs = zip(J.value, values, strict=True) if batch_dims else [(J.value, values)]
            if not all(close(ours, theirs, eps=eps) for ours, theirs in pairs):
                refuse_nondeterministic(fn, of_vector, one)
            if first is not None:
                first.tell()
                tell_difference(of_vector, J, its_value)
                if isinstance(J, LinearMap) and source is None and of_vector.target is None:
                    tell_block_diagonal(J)
            # What was computed from weights, a copy in another dtype or a Python number, is in the
            # recording as it was, so that the weights themselves are compared.
            contents = elsewhere is not None and (self._dtype is not None or seen.reads_numbers)
        kind = point.shape[batch_dims:], point.dtype, point.device
        replayed = None
        if elsewhere is not None:
            state = FunctionState([fn, self._args, self._kwargs], contents=contents)
            # A recording runs the same operations everywhere; what inference mode hides may be
            # flat here, and not at another point.
            again = check and seen.runs_inference is not False
            replayed = _Replayed(elsewhere, state, of_vector if again else None)
        self._taken = _Taken(replayed, source, of_vector, kind, set(), lower_precision)
        tell_lower_precision(lower_precision, point.dtype)
        if isinstance(J, LinearMap):
            J = replace(J, probed=None)  # the checks that needed it have been made
        return Linearized(J, source, of_vector.target)

    def _replay(self, taken: _Taken, source: Structure | None, point: Tensor) -> Linearized | None:
        """Return the derivative by what was recorded, or None where that does not serve."""
        kind = point.shape[self._options.batch_dims :], point.dtype, point.device
        if kind != taken.kind:
            _refuse_other_entries(source, taken.source)
            raise ArgumentError(
                f"this derivative was taken at {taken.kind[1]} {tuple(taken.kind[0])} on "
                f"{taken.kind[2]}, and x is {kind[1]} {tuple(kind[0])} on {kind[2]}; make a new "
                "JacobianOperator for this kind of point"
            )
        if taken.replayed is None or not same_structure(source, taken.source):
            return None
        elsewhere, state, compared = taken.replayed
        changed = state.change()
        if changed is not None:
            logger.info("%s is not what it was: taking the derivative anew", changed)
            return None
        try:
            # Evaluations restore attributes themselves, and fn changes no buffers.
            devices = [point.device] if point.is_cuda else []
            with torch.random.fork_rng(devices), failures_named("fn", "call fn(x) by itself"):
                J = replace(elsewhere(point), lower_precision=taken.lower_precision)
                if isinstance(J, BatchedMap) and len(point) not in taken.counts:
                    eps = eps_of_tests(taken.lower_precision, point.dtype)
                    refuse_other_function(self._fn, taken.of_vector, point, J.value, eps)
                    taken.counts.add(len(point))
                if compared is not None:
                    tell_difference(compared, J)
        except TraceError as error:
            logger.info("%s: taking the derivative anew", error)
            return None
        if not math.isfinite(largest(J.value)):
            return None  # taking it anew names the module
        return Linearized(J, source, taken.of_vector.target)


class _Replayed(NamedTuple):
    """How a derivative is had at another point, and what the function may read as it was."""

    elsewhere: Elsewhere
    state: FunctionState
    compared: OfVector | None
    """What the derivative is compared with at each point; None where one comparison will do."""


class _Taken(NamedTuple):
    """What a derivative was taken of."""

    replayed: _Replayed | None
    """None where a replay is no less work."""
    source: Structure | None
    of_vector: OfVector
    kind: tuple[torch.Size, torch.dtype, torch.device]
    counts: set[int]
    """Of how many other points a value was compared with that of a batch of one."""
    lower_precision: LowerPrecision | None


def _refuse_other_entries(given: Structure | None, taken: Structure | None) -> None:
    """Refuse a point with an entry less, or more, than that of a derivative."""
    if given is None or taken is None:
        return
    trees = (tree_unflatten([0] * len(one.leaves), one.spec) for one in (given, taken))
    ours, theirs = ([keystr(path) for path, _ in tree_leaves_with_path(tree)] for tree in trees)
    for name in (*theirs, *ours):
        if name not in ours or name not in theirs:
            lacks, has = ("x", "the first point") if name in theirs else ("the first point", "x")
            raise ArgumentError(f"{lacks} has no {name}, and {has} has; give the same entries")


def _gives_another_value(fn: OfVector, x: Tensor, value: Tensor, eps: float | None) -> bool:
    with torch.no_grad():
        return not close(prepare(fn)(x), value, eps=eps)


def _check_point(x: Tensor, batch_dims: int) -> None:
    dense_tensor("the point x", x)
    if not x.is_floating_point() or x.numel() == 0:
        remedy = f"; {COMPLEX_FUNCTION}" if x.is_complex() else ""
        if not x.is_complex() and not x.is_floating_point():
            remedy = (
                "; give numbers, such as pixels, as x.float(); where they are token ids, start at "
                "the depth after their embedding: layer_map(…, since=…)"
            )
        raise ArgumentError(
            "the point x must be a non-empty tensor of a real floating dtype, got "
            f"{x.dtype} {tuple(x.shape)}{remedy}"
        )
    if x.ndim < batch_dims:
        raise ArgumentError("x has no dimension; batch_dims=1 takes points along its first one")


def _remedy(fn: Callable[..., Any], of_vector: OfVector, point: Tensor, batch_dims: int) -> str:
    """Return what to do about a function that fails: a batch may be wanted."""
    if isinstance(fn, OfParameters):  # the point is that of the parameters
        return remedy_at(lambda x: fn.at_input(x, of_vector.tree(point)), fn.input)
    return remedy_at(of_vector, point[0] if batch_dims else point, batch_dims)
