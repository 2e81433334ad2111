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
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

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
from jvpsvd.operators.recording.graphs import AtPoint, ProductGraph, Recording
from jvpsvd.operators.recording.operations import record_operations
from jvpsvd.operators.recording.outputs import Outputs
from jvpsvd.operators.recording.passes.fx_tools import copy_uncompiled
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
    """The operations of the function alone; None where no value decides on a size."""
    serves_others: bool = False
    """Whether recordings of several sizes are the same."""


class RecordingsBySize:
    """The recordings of one function, by the sizes on which values decide.

    Args:
        outputs: The function.
        options: How it is recorded.
        rounding: Of the function.

    >>> x = torch.tensor([1.0, 2.0, -3.0, 0.0])
    >>> rows_above = Outputs(lambda x: x[x > 0].sin().sum() * x)
    >>> options = RecordOptions(fold=True, check=True, recompute=False)
    >>> found = RecordingsBySize(rows_above, options, Rounding(rows_above))
    >>> at_x, elsewhere = found.record(x), found.at(-x)
    >>> elsewhere.there.values[0] / -x
    tensor([0.1411, 0.1411, 0.1411,    nan])
    """

    def __init__(self, outputs: Outputs, options: RecordOptions, rounding: Rounding) -> None:
        self._outputs, self._options, self._rounding = outputs, options, rounding
        self._all: list[_Recorded] = []

    @property
    def latest(self) -> Recording:
        """The last recording that was made, or that took a place of one."""
        return self._all[-1].recording

    @in_one_thread
    def record(self, x: Tensor, values: tuple[Tensor, ...] | None = None) -> Replayed:
        """Record the function at x, whose values there may be known.

        Raises:
            AdjointError, DerivativeError, TraceError: As `Trace`.
        """
        outputs, rounding = self._outputs, self._rounding
        options = self._options._asdict()
        recording, there = record(outputs, x, values, rounding=rounding, **options)
        self._keep(_Recorded(recording, self._list_calls(recording, x)))
        return Replayed(recording, there, verified=True)

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

    def _list_calls(self, recording: Recording, x: Tensor) -> fx.GraphModule | None:
        """Return the operations that the function calls at x; None if no size depends on values."""
        if self._options.recompute or not any(True for _ in _compared(recording.primal)):
            return None
        try:
            return self._calls_at(x)
        except Exception as error:  # what has been recorded with its derivatives
            logger.info("each size has a recording of its own: %s", first_line(error))
            return None

    def _calls_at(self, x: Tensor) -> fx.GraphModule:
        with torch.no_grad(), transforms_restored(), WithoutCrashes():
            return record_operations(functionalize(self._outputs), x.clone(), described=False)

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
            if not are_same_graphs(old.calls, new.calls, any_shapes=True):
                continue
            united = unite(old.recording, new.recording)
            if united is not None:
                del self._all[index]
                new = _Recorded(united, old.calls, serves_others=True)
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
            calls = self._calls_at(x)
            if found.calls is None or not are_same_graphs(found.calls, calls, any_shapes=True):
                raise TraceError("it calls other operations, or with other numbers")
            with torch.no_grad(), transforms_restored(), WithoutCrashes():
                us = [output_direction(value) for value in there.values]
                products = outputs.compute_products(x.clone(), direction(x), *us)
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
