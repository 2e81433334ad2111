"""Derivatives to several depths, recorded at one point and replayed at others."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from jvpsvd.errors import AdjointError, ArgumentError, DerivativeError, JvpsvdError, TraceError
from jvpsvd.networks.to_depths import ToDepths, to_one_depth
from jvpsvd.operators import BatchedMap, LinearMap, Trace, transformed
from jvpsvd.operators.function.evaluate import prepare, refuse_changed_buffers, refuse_random
from jvpsvd.operators.function.find_module import buffer_states
from jvpsvd.operators.function.lower_precision import (
    LowerPrecision,
    eps_of_tests,
    lowest,
    tell_lower_precision,
)
from jvpsvd.operators.function.obstacles import Watched, evaluate_and_watch
from jvpsvd.operators.function.restoring import restored
from jvpsvd.operators.function.work import count_work
from jvpsvd.operators.recording.by_size import FixedTensors
from jvpsvd.operators.recording.on_demand import RecordedOnDemand, is_small
from jvpsvd.operators.recording.sizes import AnotherSizeError

logger = logging.getLogger(__name__)

Found = TypeVar("Found", bound=LinearMap | BatchedMap | JvpsvdError)


class RecordedDepths:
    """Several depths of a network, recorded at the first point and replayed at all others.

    They are recorded together, or each by itself where that fails: one that cannot be recorded
    leaves the others alone. What an input holds fixed is a constant of the recordings.

    Args:
        run: The map to the depths.
        layers: Their names, for the log.
        fixed: What the map holds fixed.
    """

    def __init__(
        self, run: ToDepths, layers: Sequence[str], fixed: FixedTensors | None = None
    ) -> None:
        self._run, self._layers, self._fixed = run, layers, fixed
        self._told: set[tuple[int, ...]] = set()
        """Depths of which a line in the log says that they cannot be recorded."""
        self._forget()

    def anew(self) -> RecordedDepths:
        """Return the same with nothing recorded, which repeats no line of the log."""
        other = copy.copy(self)
        other._forget()
        return other

    def _forget(self) -> None:
        self._traces: dict[tuple[int, ...], Trace | None] = {}
        """By the indices of the depths that are recorded together; None where they cannot be."""
        self._lower_precisions: list[LowerPrecision | None] = []
        self._refused: dict[int, JvpsvdError] = {}
        """Depths that have no derivative, being random or with a state, and why."""
        self._on_demands: dict[int, RecordedOnDemand | None] = {}
        """By depth, what records it at points of other sizes."""
        self._kind: tuple[Any, ...] | None = None
        """Shape, dtype and device of the points that the recordings take."""

    @property
    def indices(self) -> set[int]:
        """Which of the depths are recorded."""
        recorded = [depths for depths, trace in self._traces.items() if trace is not None]
        return {depth for depths in recorded for depth in depths}

    def takes(self, z: Tensor) -> bool:
        """Tell whether z is of the kind of points recorded, if any is."""
        return self._kind in (None, _kind_of(z))

    def hold(self, z: Tensor) -> bool:
        """Go over to what the map holds fixed now, and tell whether that was possible.

        It is if the recording of all depths together is right with it at z; see `Trace.hold`.
        """
        traces = list(self._traces.values())
        return len(traces) == 1 and traces[0] is not None and traces[0].hold(z)

    def release(self) -> None:
        """Free what was computed from weights, which is computed again when it is needed."""
        for trace in self._traces.values():
            if trace is not None:
                trace.release()

    def at(self, z: Tensor, name: str) -> list[LinearMap | JvpsvdError]:
        """Return the derivative to each depth at a point of this name, or why there is none."""
        is_first = self._record(z)
        replayed: dict[int, LinearMap | JvpsvdError] = dict(self._refused)
        for depths, trace in self._traces.items():
            if trace is not None:
                try:
                    maps = self._replay(trace, depths, z, check=not is_first)
                    replayed.update(zip(depths, maps, strict=True))
                except (AdjointError, TraceError, DerivativeError) as error:
                    logger.warning("%s: %s; using vmap(jvp) and vmap(vjp)", name, error)
        for depth in range(len(self._layers)):
            if depth not in replayed:
                replayed[depth] = _transform(self._run, depth, z)
        return [self._with_precision(replayed[depth], depth) for depth in range(len(self._layers))]

    def at_many(self, Z: Tensor) -> list[BatchedMap]:
        """Return the derivative to each depth at a batch.

        Nothing is returned if a depth is not recorded, or if its recording is not right for one of
        these points or of earlier ones, where values decide on another size.
        """
        self._record(Z[0])
        traces = [trace for trace in self._traces.values() if trace is not None]
        if self._refused or len(traces) < len(self._traces) or self._on_demands:
            return []
        try:
            maps = [J for trace in traces for J in trace.at_many(Z, anew=False)]
        except AnotherSizeError as error:
            logger.info("%s: these inputs are taken one by one", error.what)
            return []
        return [self._with_precision(J, depth) for depth, J in enumerate(maps)]

    def _replay(
        self, trace: Trace, depths: tuple[int, ...], z: Tensor, check: bool
    ) -> Sequence[LinearMap | JvpsvdError]:
        """Return the derivative to each of the depths that a trace holds."""
        try:
            return trace.at(z, check=check, anew=False)
        except AnotherSizeError as error:
            logger.info("%s: %s", ", ".join(self._layers[depth] for depth in depths), error.what)
        demands = [self._on_demand(trace, depth, index, z) for index, depth in enumerate(depths)]
        if None in demands:
            return trace.at(z, check=check)
        plain = [_transform(self._run, depth, z) for depth in depths]
        return [
            demand.of(J) if demand is not None and isinstance(J, LinearMap) else J
            for demand, J in zip(demands, plain, strict=True)
        ]

    def _on_demand(
        self, trace: Trace, depth: int, index: int, z: Tensor
    ) -> RecordedOnDemand | None:
        """Return what records a depth once that pays; None if it is to be recorded at once.

        It is an output of the trace, that of the index.
        """
        if depth not in self._on_demands:
            run = to_one_depth(self._run, depth)
            with restored(run, z.device):
                work = count_work(prepare(run), z.clone()).work
            self._on_demands[depth] = (
                RecordedOnDemand(run, z, work, trace=trace, index=index)
                if work is not None and is_small(work, z, 1)
                else None
            )
        return self._on_demands[depth]

    def _with_precision(self, J: Found, depth: int) -> Found:
        known = depth < len(self._lower_precisions) and isinstance(J, LinearMap | BatchedMap)
        return replace(J, lower_precision=self._lower_precisions[depth]) if known else J  # type: ignore[type-var]

    def _record(self, z: Tensor) -> bool:
        """Record at the first point, and tell if this is it.

        Nothing is recorded at a point with NaN or infinity, where a recording cannot be verified,
        or where the network fails.
        """
        if self._traces or self._refused or not bool(z.isfinite().all()):
            return False
        self._watch(z)
        every = tuple(d for d in range(len(self._layers)) if d not in self._refused)
        try:
            traces = {every: self._record_to(every, z)} if every else {}
            if every and not isinstance(traces[every], Trace) and len(every) > 1:
                traces = {(depth,): self._record_to((depth,), z) for depth in every}
        except JvpsvdError:  # of the network, which is told where derivatives are taken
            return False
        self._kind = _kind_of(z)
        tell_lower_precision(lowest(self._lower_precisions), z.dtype)
        for depths, trace in traces.items():
            self._traces[depths] = trace if isinstance(trace, Trace) else None
            self._tell(depths, trace, z)
        return True

    def _record_to(self, depths: tuple[int, ...], z: Tensor) -> Trace | JvpsvdError:
        """Return the recording of some depths, or why there is none.

        Raises:
            JvpsvdError: If the network fails at z.
        """
        run = self._run
        try:
            return Trace(
                partial(run, only=depths),
                z,
                of_one=lambda index: to_one_depth(run, depths[index]),
                fixed=self._fixed,
            )
        except (AdjointError, DerivativeError, TraceError) as error:
            return error

    def _watch(self, z: Tensor) -> None:
        """See what the network does at z: its precisions, and what lets it have no derivative."""
        before = buffer_states(self._run)
        try:
            with restored(self._run, z.device):
                seen = evaluate_and_watch(prepare(self._run), z)
                steady = buffer_states(self._run) == before
                if not steady or seen.draws.bear_on(seen.value):
                    self._refuse(z, seen)
        except Exception:  # what it raises is told where derivatives are taken
            return
        self._lower_precisions = seen.lower_precisions

    def _refuse(self, z: Tensor, seen: Watched) -> None:
        """Refuse the depths that are random or change buffers; others may be well."""
        eps = eps_of_tests(lowest(seen.lower_precisions), z.dtype)
        for depth, value in enumerate(seen.value):
            run, before = prepare(to_one_depth(self._run, depth)), buffer_states(self._run)
            try:
                with torch.no_grad():
                    run(z)
                refuse_changed_buffers(self._run, before)
                refuse_random(self._run, partial(run, z), value, seen.draws, eps)
            except ArgumentError as error:
                self._refused[depth] = error

    def _tell(self, depths: tuple[int, ...], trace: Trace | JvpsvdError, z: Tensor) -> None:
        """Say in the log what is recorded, and once what cannot be.

        A derivative that is refused at z, and NaN and infinity, are told where they are refused.
        """
        layers = ", ".join(self._layers[depth] for depth in depths)
        if isinstance(trace, Trace):
            logger.info("%s: recorded at %s %s", layers, z.dtype, tuple(z.shape))
        elif (
            isinstance(trace, TraceError)
            and depths not in self._told
            and _is_finite(self._run, depths, z)
        ):
            logger.warning(
                "%s: %s; it is differentiated by vmap(jvp) and vmap(vjp), slower", layers, trace
            )
            self._told.add(depths)


def _is_finite(run: ToDepths, depths: Sequence[int], z: Tensor) -> bool:
    try:
        with torch.no_grad():
            values = run(z, depths)
    except Exception:  # what it raises is told where derivatives are taken
        return True
    return all(bool(value.isfinite().all()) for value in values)


def _transform(run: ToDepths, depth: int, z: Tensor) -> LinearMap | JvpsvdError:
    try:
        return transformed(to_one_depth(run, depth), z)
    except JvpsvdError as error:  # at this depth; others may be well
        return error


def _kind_of(z: Tensor) -> tuple[Any, ...]:
    return z.shape, z.dtype, z.device
