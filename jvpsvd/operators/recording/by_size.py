"""Recordings of one function at points of different sizes, and one recording for many sizes.

Where values decide on sizes (see `sizes`), each combination of these has a recording. Two of them
are often the same but for the shapes that they compare: experts that take some of the rows multiply
them by the same weights, however many they are. Then no size is a number in them, and one of them
serves both combinations and others. It serves a further point if

- each size is one that was recorded, or different ones were recorded in its place;
- the function itself calls the same operations there, with the same numbers, from first to last: no
  branch or loop of it goes by a size;
- value, JVP and VJP are those of `torch.func` there: no derivative does.

Otherwise the function is recorded at that point.

The tensors that a function holds fixed, such as a mask, are constants of its recordings. Others can
stand in their places under the same conditions, and no number may have been read from them that
would be another one now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx
from torch.func import functionalize

from jvpsvd.errors import TraceError
from jvpsvd.operators.derivatives.differences import direction, output_direction
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.environment.transform_state import transforms_restored
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.lower_precision import Rounding
from jvpsvd.operators.function.obstacles import WithoutCrashes
from jvpsvd.operators.function.restoring import restored
from jvpsvd.operators.recording.constants import Constants
from jvpsvd.operators.recording.graphs import AtPoint, ProductGraph, Recording
from jvpsvd.operators.recording.operations import record_operations
from jvpsvd.operators.recording.outputs import Outputs, Products
from jvpsvd.operators.recording.passes.fx_tools import add_call, copy_uncompiled
from jvpsvd.operators.recording.record import record
from jvpsvd.operators.recording.same_graphs import are_same_graphs
from jvpsvd.operators.recording.sizes import AnotherSizeError, call_of_same_shapes
from jvpsvd.operators.recording.verify_replay import verify_replay

logger = logging.getLogger(__name__)

_MOST_RECORDINGS = 8  # a guess


class RecordOptions(NamedTuple):
    """How a function is recorded; see `Trace`."""

    fold: bool
    check: bool
    recompute: bool


class FixedTensors(Protocol):
    """The tensors that a function holds fixed at present, and that may be others later."""

    def fixed_tensors(self) -> tuple[Tensor, ...]:
        """Return them, each once; nothing else holds them, or changes them."""

    def with_fixed(self, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Hold others in their places."""


class Replayed(NamedTuple):
    """What a recording gives at a point."""

    recording: Recording
    there: AtPoint
    verified: bool
    """Whether value and products were compared with those of the function at this very point."""
    serves_others: bool = False
    """Whether the recording serves sizes that it was not made at, once it is verified there."""


class _Recorded(NamedTuple):
    recording: Recording
    calls: fx.GraphModule | None
    """The operations of the function, see `_calls_at`; None where no value decides on a size, and
    nothing is held fixed."""
    serves_others: bool = False
    """Whether it is to be verified at each point: recordings of several sizes are the same, or it
    was made with other tensors held fixed."""
    fixed: tuple[Tensor, ...] = ()
    """The tensors among its constants that the function holds fixed."""


class RecordingsBySize:
    """The recordings of one function, by the sizes on which values decide.

    Args:
        outputs: The function.
        options: How it is recorded.
        rounding: Of the function.
        fixed: What the function holds fixed, if that may change.

    >>> x = torch.tensor([1.0, 2.0, -3.0, 0.0])
    >>> rows_above = Outputs(lambda x: x[x > 0].sin().sum() * x)
    >>> options = RecordOptions(fold=True, check=True, recompute=False)
    >>> found = RecordingsBySize(rows_above, options, Rounding(rows_above))
    >>> at_x, elsewhere = found.record(x), found.at(-x)
    >>> elsewhere.there.values[0] / -x
    tensor([0.1411, 0.1411, 0.1411,    nan])
    """

    def __init__(
        self,
        outputs: Outputs,
        options: RecordOptions,
        rounding: Rounding,
        fixed: FixedTensors | None = None,
    ) -> None:
        self._outputs, self._options, self._rounding = outputs, options, rounding
        self._fixed = fixed
        self._all: list[_Recorded] = []

    @property
    def latest(self) -> Recording:
        """The last recording that was made, or that took a place of one."""
        return self._all[-1].recording

    def release(self) -> None:
        """Free what was computed from weights."""
        for each in self._all:
            each.recording.constants.release()

    @in_one_thread
    def record(self, x: Tensor, values: tuple[Tensor, ...] | None = None) -> Replayed:
        """Record the function at x, whose values there may be known.

        Raises:
            AdjointError, DerivativeError, TraceError: As `Trace`.
        """
        outputs, rounding = self._outputs, self._rounding
        options = self._options._asdict()
        recording, there = record(outputs, x, values, rounding=rounding, **options)
        calls = self._list_calls(recording, there)
        self._keep(_Recorded(recording, calls, fixed=self._fixed_tensors()))
        return Replayed(recording, there, verified=True)

    def hold(self, x: Tensor) -> Replayed | None:
        """Go over to the tensors that the function holds fixed now.

        Returns:
            What a recording gives with them at x; None where none is right, and all stay as they
            were.
        """
        before = [each for each in self._all if each.calls is not None]
        if not before:
            return None
        self._all, all_before = self._with_tensors_of_now(before), self._all
        try:
            found = self._at_same_path(x)
        except Exception as error:  # of the function too, which is told where it is recorded
            logger.info("what is held fixed asks for another recording: %s", first_line(error))
            self._all = all_before
            return None
        only = self._all[0]
        if len(self._all) == 1 and only.recording is found.recording:
            # Verified here, it is as good as one that was made here.
            self._all = [only._replace(serves_others=before[0].serves_others)]
        return found

    def _at_same_path(self, x: Tensor) -> Replayed:
        """Return what a recording gives at x; one made there where others differ in sizes alone.

        Raises:
            AnotherSizeError: If the function takes another path at x.
        """
        try:
            return self.at(x, anew=False)
        except AnotherSizeError:
            if not any(True for each in self._all for _ in _compared(each.recording.primal)):
                raise
            with restored(self._outputs.fn, x.device):
                with torch.no_grad():
                    calls, _ = self._calls_at(x, self._outputs(x))
                if not any(_is_same_path(each.calls, calls) for each in self._all):
                    raise
                return self.record(x)

    def at(
        self,
        x: Tensor,
        *,
        all_entries: bool = True,
        known: AtPoint | None = None,
        anew: bool = True,
    ) -> Replayed:
        """Return what a recording gives at x.

        Args:
            x: The point.
            all_entries: See `Recording.evaluate`.
            known: What a recording gives there, if known.
            anew: Record the function at x where no recording serves.

        Raises:
            AdjointError, DerivativeError, TraceError: As `Trace`, where it is recorded.
            AnotherSizeError: Without `anew`, where no recording serves.
        """
        other: AnotherSizeError | None = None
        for each in self._all:
            # Another recording may be tried at the same point.
            z = x if each.calls is None and len(self._all) == 1 else x.clone()
            try:
                there = each.recording.evaluate(z, all_entries=all_entries, known=known)
            except AnotherSizeError as error:
                other = other or error
                continue
            except RuntimeError as error:
                if not each.serves_others:
                    raise
                other = other or AnotherSizeError(_ANOTHER_PATH)
                logger.info("%s: %s", other.what, first_line(error))
                continue
            if not each.serves_others:
                return Replayed(each.recording, there, verified=False)
            try:
                verified = self._verify(each, there)
            except Exception as error:  # of the function too, which is told where it is recorded
                other = other or AnotherSizeError(_ANOTHER_PATH)
                logger.info("%s: %s", other.what, first_line(error))
                continue
            return Replayed(each.recording, verified, verified=True, serves_others=True)
        if other is not None and not anew:
            raise other
        if other is not None:
            logger.info("%s: recording it there", other.what)
        with restored(self._outputs.fn, x.device):
            return self.record(x)

    def _list_calls(self, recording: Recording, there: AtPoint) -> fx.GraphModule | None:
        """Return the operations that the function calls at a point, as `_calls_at` does.

        None if no size depends on values, and nothing is held fixed.
        """
        any_sizes = any(True for _ in _compared(recording.primal))
        if self._options.recompute or not (any_sizes or self._fixed_tensors()):
            return None
        try:
            return self._calls_at(there.x, there.values)[0]
        except Exception as error:  # what has been recorded with its derivatives
            logger.info("the recording serves no other size or mask: %s", first_line(error))
            return None

    def _calls_at(
        self, x: Tensor, values: Sequence[Tensor]
    ) -> tuple[fx.GraphModule, Products | None]:
        """Return the operations that the function calls at x, and what its products are there.

        Where it holds tensors fixed, the numbers that its products read are among them; otherwise
        there are no products.

        Args:
            x: The point.
            values: The outputs there.
        """
        held, tensors = self._fixed, self._fixed_tensors()
        copies = [each.clone() for each in tensors]
        computed: list[Any] = []

        def evaluate(fn: Callable[..., tuple[Any, ...]], *args: Tensor) -> tuple[Any, ...]:
            if held is None:
                return fn(*args)
            own = len(args) - len(copies)
            with held.with_fixed(args[own:]):
                return fn(*args[:own])

        def list_calls(fn: Callable[..., tuple[Any, ...]], *args: Tensor) -> fx.GraphModule:
            def compute(*args: Tensor) -> tuple[Any, ...]:
                computed.append(functionalize(partial(evaluate, fn))(*args))
                return tuple(computed[-1])

            with torch.no_grad(), transforms_restored(), WithoutCrashes():
                return record_operations(compute, *args, *copies, described=False, read=len(copies))

        if not tensors:
            return list_calls(self._outputs, x.clone()), None
        both = list_calls(self._outputs.compute_products, x.clone(), *_directions(x, values))
        products, calls = Products(*computed[0]), list_calls(self._outputs, x.clone())
        for node in both.graph.nodes:  # torch makes tensors of its own in them
            if "read" in node.kwargs:
                add_call(calls.graph, node.target, (), {"read": node.kwargs["read"]})
        return calls, products

    def _fixed_tensors(self) -> tuple[Tensor, ...]:
        return () if self._fixed is None else self._fixed.fixed_tensors()

    def _with_tensors_of_now(self, recorded: Sequence[_Recorded]) -> list[_Recorded]:
        """Return recordings of the tensors that are held fixed now, each yet to be verified."""
        now, rebuilt = self._fixed_tensors(), dict[int, Constants]()

        def with_tensors_of_now(each: _Recorded) -> _Recorded:
            constants = each.recording.constants
            if id(constants) not in rebuilt:  # they may share it
                others = {id(old): new for old, new in zip(each.fixed, now, strict=True)}
                rebuilt[id(constants)] = constants.with_others(others)
            recording = replace(each.recording, constants=rebuilt[id(constants)])
            return each._replace(recording=recording, serves_others=True, fixed=now)

        return [with_tensors_of_now(each) for each in recorded]

    def _keep(self, new: _Recorded) -> None:
        """Keep a recording, as one with another that is the same; those of one size come first."""
        for old in self._all:
            if are_same_graphs(old.recording.constants.graph, new.recording.constants.graph):
                # They compute the same of the same weights, and hold it once.
                shared = replace(new.recording, constants=old.recording.constants)
                new = new._replace(recording=shared)
                break
        for index, old in enumerate(self._all):
            if old.calls is None or new.calls is None:
                continue
            if not _is_same_path(old.calls, new.calls):
                continue
            united = unite(old.recording, new.recording)
            if united is not None:
                del self._all[index]
                new = new._replace(recording=united, calls=old.calls, serves_others=True)
                logger.info("values decide on sizes, which are no numbers of this recording")
                break
        self._all = sorted([*self._all, new], key=lambda each: each.serves_others)
        while len(self._all) > _MOST_RECORDINGS:
            del self._all[0]

    @in_one_thread
    def _verify(self, found: _Recorded, there: AtPoint) -> AtPoint:
        """Return what a recording of several sizes gives at a point, if the function does so there.

        Raises:
            AdjointError, DerivativeError, TraceError: If it does not.
        """
        outputs, x = self._outputs, there.x
        with restored(outputs.fn, x.device):
            calls, products = self._calls_at(x, there.values)
            if not _is_same_path(found.calls, calls):
                raise TraceError("it calls other operations, or with other numbers")
            if products is None:
                with torch.no_grad(), transforms_restored(), WithoutCrashes():
                    directions = _directions(x, there.values)
                    products = outputs.compute_products(x.clone(), *directions)
            verify = partial(
                verify_replay,
                found.recording,
                outputs=outputs,
                example=x,
                products=products,
                check=self._options.check,
            )
            return self._rounding.judge(lambda eps: verify(eps=eps), x)


_ANOTHER_PATH = (
    "values of the input decide on a size, and the function goes by it; record it at this point "
    "anew"
)


def _directions(x: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    return [direction(x), *map(output_direction, values)]


def _is_same_path(ours: fx.GraphModule | None, theirs: fx.GraphModule) -> bool:
    return ours is not None and are_same_graphs(ours, theirs, any_shapes=True)


def unite(ours: Recording, theirs: Recording) -> Recording | None:
    """Return one recording in place of two; None if they differ by more than compared shapes.

    Args:
        ours: A recording.
        theirs: One of the same function at a point of other sizes.
    """
    products = [
        [product for output in each.outputs for product in (output.jvp, output.vjp)]
        for each in (ours, theirs)
    ]
    for one, other in zip(*products, strict=True):
        if not (isinstance(one, ProductGraph) and isinstance(other, ProductGraph)):
            return None
        if one.saved != other.saved or (one.graph is None) != (other.graph is None):
            return None
        if one.graph and other.graph and not are_same_graphs(one.graph, other.graph):
            return None
    if not are_same_graphs(ours.constants.graph, theirs.constants.graph):
        return None
    if not are_same_graphs(ours.primal, theirs.primal, any_shapes=True):
        return None
    primal = copy_uncompiled(ours.primal)
    for node, other in zip(_compared(primal), _compared(theirs.primal), strict=True):
        func, recorded, *args = node.args
        shapes = dict.fromkeys((*recorded, *other.args[1]))  # type: ignore[misc]
        node.args = (func, tuple(shapes), *args)
    primal.recompile()
    outputs = tuple(
        # Which channels are inactive was looked for at one point.
        replace(one, jvp=replace(one.jvp, reduced=None), vjp=replace(one.vjp, reduced=None))  # type: ignore[type-var]
        for one in ours.outputs
    )
    size = max(ours.bytes_of_point, theirs.bytes_of_point)
    return replace(ours, primal=primal, outputs=outputs, bytes_of_point=size)


def _compared(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the nodes that compare shapes."""
    return (node for node in module.graph.nodes if node.target is call_of_same_shapes)
