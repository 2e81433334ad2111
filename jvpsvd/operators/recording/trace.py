"""The derivatives of a function, recorded once and replayed at any point."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import TraceError
from jvpsvd.operators.derivatives.batched_map import BatchedMap, stack_maps
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.lower_precision import Rounding
from jvpsvd.operators.function.restoring import restored
from jvpsvd.operators.recording.by_size import (
    FixedTensors,
    RecordingsBySize,
    RecordOptions,
    Replayed,
)
from jvpsvd.operators.recording.graphs import AtPoint, Recording
from jvpsvd.operators.recording.outputs import Outputs
from jvpsvd.operators.recording.sizes import AnotherSizeError
from jvpsvd.operators.recording.verify_replay import (
    compare_values,
    refuse_hidden_output,
    verify_recording_at_many,
)

logger = logging.getLogger(__name__)


class Trace:
    """The derivatives of the outputs of fn, recorded at `example` and replayed at any point.

    Args:
        fn: Takes one tensor, returns a tensor or a tuple of tensors (one per depth, say). It must
            run the same operations whatever the values of its input. It is given a copy of the
            point, which it may change in place.
        example: A point of the shape, dtype and device of all later points.
        values: The outputs of fn at `example`, if they are known.
        fold: Rewrite what was recorded into cheaper operations (normalisation folded into
            convolutions, say); values change by rounding only.
        recompute: Keep checkpoints of a point only; other values are computed again with each
            block of products.
        of_one: Returns the function of one of several outputs, where that is less work than all.
        fixed: What fn holds fixed, if that may change; see `hold`.
        check: Compare one JVP with one VJP of each output, and products that vanish with
            differences of fn; in `at` and `at_many` those of a constant.

    Raises:
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: If fn reads values (control flow on data), calls into NumPy, is random,
            changes in place what a derivative still needs, or uses an operation that cannot be
            replayed on a batch of directions.

    >>> trace = Trace(lambda x: (x**2, x.sum(0, keepdim=True)), torch.zeros(2))
    >>> square, total = trace.at(torch.tensor([1.0, 3.0]))
    >>> square.jvp(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    >>> total.vjp(torch.ones(1, 1))
    tensor([[1., 1.]])
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        example: Tensor,
        *,
        values: tuple[Tensor, ...] | None = None,
        fold: bool = True,
        check: bool = True,
        recompute: bool = False,
        of_one: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
        fixed: FixedTensors | None = None,
    ) -> None:
        check_function(fn)
        dense_tensor("the example", example)
        self._outputs, self._check = Outputs(fn, of_one), check
        # Not the example itself, which may be all parameters of a network.
        self._kind = _Kind(example.shape, example.stride(), example.dtype, example.device)
        self._points_together: bool | None = None  # not tried yet
        with restored(fn, example.device):
            self._rounding = Rounding(self._outputs)
            options = RecordOptions(fold, check, recompute)
            self._recordings = RecordingsBySize(self._outputs, options, self._rounding, fixed)
            found = self._recordings.record(example.detach().clone(), values)
        self._first: AtPoint | None = found.there  # until derivatives are asked for

    @property
    def recording(self) -> Recording:
        """The graphs: one for the values, and two for the products of each output.

        Where values decide on sizes, those of the latest recording.
        """
        return self._recordings.latest

    def fix_weights(self) -> None:
        """Refuse, from here on, to be replayed with other weights than those of this time.

        >>> weight = torch.ones(2)
        >>> trace = Trace(lambda x: x * weight, torch.zeros(2))
        >>> trace.fix_weights()
        >>> _ = weight.zero_()
        >>> trace.at(torch.zeros(2))
        Traceback (most recent call last):
        jvpsvd.errors.ArgumentError: the weights have changed since this derivative was taken; ...
        """
        self.recording.constants.fix_weights()

    def hold(self, x: Tensor) -> bool:
        """Go over to the tensors that fn holds fixed now, and tell whether that was possible.

        It is if a recording is right with them: fn calls the same operations at x, with the same
        numbers, and value and products are those of `torch.func`. If not, nothing changes, and the
        recordings are not right for fn as it is now.
        """
        found = self._recordings.hold(self._kind.copied(x, ()))
        if found is None:
            return False
        self._first = found.there
        self._points_together = None if self._points_together else self._points_together
        return True

    def release(self) -> None:
        """Free what was computed from weights, which is computed again when it is needed."""
        self._first = None
        self._recordings.release()

    def at(self, x: Tensor, *, check: bool = True, anew: bool = True) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x; runs the primal graph.

        With `check`, fn itself is evaluated too, and must agree with the recording; weights are
        then compared entry by entry with what they were, otherwise by a sample of them.

        Values may decide on sizes: a boolean mask has as many ones as they say. Graphs run until
        one serves the sizes at x. Where none does, fn is recorded there, or refused without `anew`.

        Raises:
            TraceError: If x has another shape, dtype or device, or fn took another path there, or
                cannot be recorded there.
            DerivativeError: If products vanish although fn moves in proportion to the step.
        """
        x = self._kind.copied(x, ())
        first, self._first = self._first, None
        if first is not None and not torch.equal(first.x, x):
            first = None  # its values are freed before others are computed
        found = self._recordings.at(x, all_entries=check, known=first, anew=anew)
        maps = self._maps(found)
        if check and not found.verified:
            with torch.no_grad():
                self._compare([m.value for m in maps], self._outputs(x), x)
            self._refuse_hidden(found.recording, x, [m.value for m in maps])
        return maps

    def at_many(
        self,
        X: Tensor,
        *,
        check: bool = True,
        values: Sequence[Tensor] | None = None,
        anew: bool = True,
    ) -> tuple[BatchedMap, ...]:
        r"""Return the derivative of each output at the points X[0], X[1], …, replayed together.

        Where an operation cannot be replayed at many points at once, it is done point by point,
        with a line in the log.

        Args:
            X: Points of the kind recorded, (B, \\*x.shape).
            check: Evaluate fn itself at every point; it must agree with the recording there.
            values: Each output of fn at all points, where it has been evaluated there already.
            anew: See `at`.

        Raises:
            TraceError: If the points are of another kind, or fn took another path at one of them,
                which is named.
            DerivativeError: If products vanish although fn moves in proportion to the step.

        >>> trace = Trace(torch.square, torch.zeros(2))
        >>> (J,) = trace.at_many(torch.tensor([[1.0, 3.0], [0.0, 5.0]]))
        >>> J.jvp(torch.ones(2, 1, 2), chunk=8)
        tensor([[[ 2.,  6.]],
                [[ 0., 10.]]])
        """
        X = self._kind.copied(X, dense_tensor("the points", X).shape[:1])
        self._first = None
        maps = self._replay_together(X)
        recordings = [self.recording] * len(X)
        if maps is None:
            found = [self._at_point_of_batch(index, x, anew) for index, x in enumerate(X)]
            recordings = [each.recording for each in found]
            singles = map(self._maps, found)
            maps = tuple(stack_maps(of_output) for of_output in zip(*singles, strict=True))
        with torch.no_grad():
            for index, x in enumerate(X if check else ()):
                own = self._outputs(x) if values is None else [of_one[index] for of_one in values]
                replayed = [m.value[index] for m in maps]
                self._compare(replayed, own, x, f"point {index} of the batch")
        for index, x in enumerate(X if check else ()):
            self._refuse_hidden(recordings[index], x, [m.value[index] for m in maps])
        return maps

    def _at_point_of_batch(self, index: int, x: Tensor, anew: bool) -> Replayed:
        try:
            return self._recordings.at(x.clone(), anew=anew)
        except TraceError as error:
            raise type(error)(f"at point {index} of the batch {error}") from error

    def _maps(self, found: Replayed) -> tuple[LinearMap, ...]:
        """Return the derivative of each output where the primal graph has run."""
        serves_others = found.serves_others  # the values at the point are not kept by this function

        def moved(index: int, at: Callable[[Tensor], LinearMap], z: Tensor) -> LinearMap:
            # Rounding may move a value across the bound of a mask, and then fn goes another path.
            if not serves_others:
                with suppress(AnotherSizeError):
                    return at(z)
            return by_transforms(self._outputs.select(index), z, check=False)

        maps = enumerate(found.recording.maps(found.there))
        return tuple(replace(J, at=J.at and partial(moved, index, J.at)) for index, J in maps)

    def _compare(
        self,
        replayed: Sequence[Tensor],
        own: Sequence[Tensor],
        x: Tensor,
        where: str = "this point",
    ) -> None:
        self._rounding.judge(lambda eps: compare_values(replayed, own, where, eps=eps), x)

    def _replay_together(self, X: Tensor) -> tuple[BatchedMap, ...] | None:
        """Return maps that take all points in one call, or None where there are none."""
        if self._points_together is None and self.recording.has_sizes_of_values():
            logger.info("replaying the points one by one, not at once: values decide on sizes")
            self._points_together = False
        if self._points_together is False:
            return None
        try:
            there = self.recording.evaluate_many(X)
            maps = self.recording.maps_at_many(there)
            if self._points_together is None:
                verify = partial(verify_recording_at_many, self.recording, there, maps)
                self._rounding.judge(lambda eps: verify(eps=eps), X[0])
        except Exception as error:  # vmap raises what the operation at fault raises
            logger.warning("replaying the points one by one, not at once: %s", first_line(error))
            self._points_together = False
            return None
        self._points_together = True
        return maps

    def _refuse_hidden(self, recording: Recording, x: Tensor, values: Sequence[Tensor]) -> None:
        """Refuse outputs that were recorded as constants and are none at x."""
        outputs = enumerate(zip(recording.outputs, values, strict=True))
        for index, (output, value) in outputs:
            if self._check and output.jvp.graph is None:
                refuse_hidden_output(self._outputs, index, x, value, torch.zeros_like(value))


class _Kind(NamedTuple):
    """The kind of points that a recording serves, and how they lie in memory."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def copied(self, x: Tensor, batch: Sequence[int]) -> Tensor:
        """Return x, or a batch of points, as a copy in this layout.

        The recorded views rely on it, and a caller may go on to change x.
        """
        dense_tensor("the point", x)
        if (x.shape, x.dtype, x.device) != ((*batch, *self.shape), self.dtype, self.device):
            raise TraceError(
                f"recorded for {self.dtype} {tuple(self.shape)} on {self.device}, asked at "
                f"{x.dtype} {tuple(x.shape[len(batch) :])} on {x.device}; record again for this "
                "kind of point"
            )
        if 0 in batch:
            raise TraceError("asked at no point at all; give at least one")
        strides = (*(self.shape.numel() for _ in batch), *self.strides)
        return x.new_empty_strided((*batch, *self.shape), strides).copy_(x.detach())
