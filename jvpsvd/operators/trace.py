"""A function recorded once as three graphs: its value, its tangents and its cotangents.

Forward mode evaluates the function again with every block of tangents. Here (x, v, u) → (f(x),
J v, J' u) is recorded once for single vectors, and split by what depends on v and on u. What
depends on neither is the primal graph: it runs once per point, and leaves behind the activations
that the two linear graphs need. These run under vmap, so their chunk is free, and since no value of
x is baked into a graph, one recording serves every other point of the same shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from jvpsvd.errors import AdjointError, DerivativeError, TraceError
from jvpsvd.operators.admission import check_function
from jvpsvd.operators.arguments import dense_tensor
from jvpsvd.operators.batch import BatchedMap, batched
from jvpsvd.operators.derivatives import (
    LinearMap,
    agree,
    by_transforms,
    check_output,
    prepared,
    refuse_unequal_sides,
)
from jvpsvd.operators.differences import direction, refuse_hidden
from jvpsvd.operators.failures import failures_named, remedy_at
from jvpsvd.operators.passes import layout
from jvpsvd.operators.passes.graphs import merge_equal_nodes, remove_identities, replace_fills
from jvpsvd.operators.passes.simplify import simplified
from jvpsvd.operators.recording import Recording, split
from jvpsvd.operators.restoring import restored

logger = logging.getLogger(__name__)


class Trace:
    """The derivatives of the outputs of fn, recorded at `example` and replayed at any point.

    Args:
        fn: Takes one tensor, returns a tensor or a tuple of tensors (one per depth, say). It must
            run the same operations whatever the values of its input. It is given a copy of the
            point, which it may change in place.
        example: A point of the shape, dtype and device of all later points.
        fold: Rewrite what was recorded into cheaper operations (normalisation folded into
            convolutions, say); values change by rounding only.
        check: Compare the forward and the reverse side on one pair of directions, and products
            that vanish with differences of fn; in `at` and `at_many` those of a constant.

    Raises:
        AdjointError: If the two sides are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: If fn looks at values (control flow on data), calls into NumPy, is random,
            changes in place what a derivative still needs, or uses an operation that cannot be
            replayed on a batch of directions.

    >>> trace = Trace(lambda x: (x**2, x.sum(0, keepdim=True)), torch.zeros(2))
    >>> square, total = trace.at(torch.tensor([1.0, 3.0]))
    >>> square.push(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    >>> total.pull(torch.ones(1, 1))
    tensor([[1., 1.]])
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        example: Tensor,
        *,
        fold: bool = True,
        check: bool = True,
    ) -> None:
        check_function(fn)
        dense_tensor("the example", example)
        self._fn, self._fold, self._check = prepared(fn), fold, check
        self._example = example.detach().clone()
        self._points_together: bool | None = None  # not tried yet
        with restored(fn, example.device):
            with torch.no_grad(), failures_named("fn", partial(remedy_at, fn, self._example)):
                outputs = tuple(check_output(y) for y in self._evaluate(self._example))
            self._recording = self._recorded(outputs)

    def _recorded(self, outputs: tuple[Tensor, ...]) -> Recording:
        try:
            return self._rehearsed(self._record(outputs), len(outputs))
        except (TraceError, AdjointError, DerivativeError):
            raise
        except Exception as error:  # make_fx raises whatever the function raised under it
            raise TraceError(f"cannot record the function: {_first_line(error)}") from error

    def at(self, x: Tensor, *, check: bool = True) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x; runs the primal graph once.

        With `check`, fn itself is evaluated too, and must agree with the recording.

        Raises:
            TraceError: If x has another shape, dtype or device, or fn took another path there.
            DerivativeError: If products vanish although fn moves in proportion to the step.
        """
        x = self._own_copy(x, ())
        maps = self._recording.at(x)
        if check:
            with torch.no_grad():
                self._compare([m.value for m in maps], self._evaluate(x))
            self._refuse_hidden_zeros(x, [m.value for m in maps])
        return maps

    def at_many(self, X: Tensor, *, check: bool = True) -> tuple[BatchedMap, ...]:
        r"""Return the derivative of each output at the points X[0], X[1], …, replayed together.

        Where an operation cannot be replayed at many points at once, it is done point by point,
        with a line in the log.

        Args:
            X: Points of the kind recorded, (B, \\*x.shape).
            check: Evaluate fn itself at every point; it must agree with the recording there.

        Raises:
            TraceError: If the points are of another kind, or fn took another path at one of them,
                which is named.
            DerivativeError: If products vanish although fn moves in proportion to the step.

        >>> trace = Trace(torch.square, torch.zeros(2))
        >>> (J,) = trace.at_many(torch.tensor([[1.0, 3.0], [0.0, 5.0]]))
        >>> J.push(torch.ones(2, 1, 2), chunk=8)
        tensor([[[ 2.,  6.]],
                [[ 0., 10.]]])
        """
        X = self._own_copy(X, dense_tensor("the points", X).shape[:1])
        maps = self._together(X)
        if maps is None:
            singles = [self._recording.at(x.clone()) for x in X]
            maps = tuple(batched(of_output) for of_output in zip(*singles, strict=True))
        with torch.no_grad():
            for place, x in enumerate(X if check else ()):
                values = [m.value[place] for m in maps]
                self._compare(values, self._evaluate(x), f"point {place} of the batch")
        for place, x in enumerate(X if check else ()):
            self._refuse_hidden_zeros(x, [m.value[place] for m in maps])
        return maps

    def _refuse_hidden_zeros(self, x: Tensor, values: Sequence[Tensor]) -> None:
        """Refuse outputs recorded as constants that are none at x."""
        for index, (side, value) in enumerate(zip(self._recording.tangents, values, strict=True)):
            if side.graph is None:
                self._refuse_hidden(index, x, value, torch.zeros_like(value))

    def _refuse_hidden(self, index: int, x: Tensor, value: Tensor, image: Tensor) -> None:
        """Refuse products of an output that vanish where they should not, from f(x) and J v.

        Raises:
            DerivativeError: If they do.
        """
        if self._check:
            one = partial(self._output, index)
            refuse_hidden(one, x, value, image, lambda z: by_transforms(one, z, check=False).push)

    def _output(self, index: int, x: Tensor) -> Tensor:
        return self._evaluate(x)[index]

    def _together(self, X: Tensor) -> tuple[BatchedMap, ...] | None:
        """Return maps that take all points in one call, or None where there are none."""
        if self._points_together is False:
            return None
        try:
            maps = self._recording.at_many(X)
            if self._points_together is None:
                self._rehearse_many(X, maps)
        except Exception as error:  # vmap raises what the operation at fault raises
            logger.warning("replaying the points one by one, not at once: %s", _first_line(error))
            self._points_together = False
            return None
        self._points_together = True
        return maps

    def _own_copy(self, x: Tensor, batch: Sequence[int]) -> Tensor:
        """Return x, or a batch of points, as a copy in the layout of the example.

        The recorded views rely on this layout, and a caller may go on to change x.
        """
        e = self._example
        dense_tensor("the point", x)
        if (x.shape, x.dtype, x.device) != ((*batch, *e.shape), e.dtype, e.device):
            raise TraceError(
                f"recorded for {e.dtype} {tuple(e.shape)} on {e.device}, asked at {x.dtype} "
                f"{tuple(x.shape[len(batch) :])} on {x.device}; record again for this kind of point"
            )
        if 0 in batch:
            raise TraceError("asked at no point at all; give at least one")
        strides = (*(e.numel() for _ in batch), *e.stride())
        return e.new_empty_strided((*batch, *e.shape), strides).copy_(x.detach())

    def _evaluate(self, x: Tensor) -> tuple[Tensor, ...]:
        values = self._fn(x)
        return values if isinstance(values, tuple) else (values,)

    def _joint(
        self, x: Tensor, v: Tensor, *us: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return f(x), J v and J' u of every output: what is recorded."""
        values, tangents = jvp(self._evaluate, (x,), (v,))[:2]
        cotangents = []
        for index, u in enumerate(us):
            pull = vjp(lambda z, index=index: self._evaluate(z)[index], x)[1]
            cotangents.append(pull(u)[0])
        return values, tangents, tuple(cotangents)

    def _record(self, outputs: tuple[Tensor, ...]) -> fx.GraphModule:
        x = self._example
        # Directions come as rows of a block: contiguous, whatever the layout of x and f(x).
        v, *us = (torch.ones(z.shape, dtype=z.dtype, device=z.device) for z in (x, *outputs))
        # make_fx describes every value, in a mode of its own if none is about: a third of its time.
        # Without grad mode: it would keep a graph for every weight that requires grad, which
        # torch 2.14.1 never frees. Both derivatives are taken all the same.
        with tracing(TracingContext(FakeTensorMode())), torch.no_grad():
            joint: fx.GraphModule = make_fx(functionalize(self._joint))(x, v, *us)
        remove_identities(joint)
        replace_fills(joint)
        merge_equal_nodes(joint)
        return joint

    def _rehearsed(self, joint: fx.GraphModule, depths: int) -> Recording:
        """Return the recording in the fastest form that gives what torch.func gives."""
        if not self._fold:
            recording = split(joint, depths)
            self._rehearse(recording)
            return recording
        if layout.pays(self._example):
            try:
                recording = split(simplified(joint, channels_last=True), depths)
                self._rehearse(recording)
            except Exception as error:  # a layout that some operation cannot take
                logger.info("keeping the layout of the function: %s", _first_line(error))
            else:
                return recording.with_channels(self._example)
        recording = split(simplified(joint, channels_last=False), depths)
        self._rehearse(recording)
        return recording.with_channels(self._example)

    def _rehearse(self, recording: Recording) -> None:
        """Check that a recording, replayed at the example, gives what torch.func gives there."""
        maps = recording.at(self._own_copy(self._example, ()))
        v, *us = (direction(z) for z in (self._example, *(m.value for m in maps)))
        values, tangents, cotangents = self._joint(self._example, v, *us)
        self._compare([m.value for m in maps], values)
        for index, (m, u) in enumerate(zip(maps, us, strict=True)):
            floor = _floor(values[index])
            images, coimages = m.push(torch.stack([v, 2 * v])), m.pull(torch.stack([u, 2 * u]))
            if not (
                agree(images, torch.stack([tangents[index], 2 * tangents[index]]), floor)
                and (
                    agree(coimages, torch.stack([cotangents[index], 2 * cotangents[index]]), floor)
                    or agree(coimages, self._vjps(index, torch.stack([u, 2 * u])), floor)
                )
            ):
                raise TraceError(
                    f"the recorded derivative of output {index} is not the function's own; it "
                    'is random, keeps state, or shows a bug; use derivatives="transforms"'
                )
            if self._check:
                one = partial(self._output, index)
                refuse_unequal_sides(v, images[0], u, coimages[0], one, self._example)
            self._refuse_hidden(index, self._example, values[index], tangents[index])

    def _vjps(self, index: int, block: Tensor) -> Tensor:
        """Return J' u of one output by torch.func, for several u in one call.

        torch 2.13 and 2.14 are wrong for a single u where batch normalisation meets a cotangent in
        channels-last order with an odd stride: conv, norm, `flatten(2).transpose(1, 2)`.
        """
        pull = vjp(partial(self._output, index), self._example)[1]
        coimages: Tensor = vmap(lambda u: pull(u)[0])(block)
        return coimages.detach()

    def _rehearse_many(self, X: Tensor, maps: Sequence[BatchedMap]) -> None:
        """Check that the first and the last point, replayed together, are as each on its own."""
        ends = torch.tensor([0, len(X) - 1], device="cpu")
        singles = [self._recording.at(X[place].clone()) for place in ends.tolist()]
        for index, both in enumerate(m.select(ends) for m in maps):
            v, u = (torch.stack([d, 2 * d]) for d in map(direction, (X[0], both.value[0])))
            pushed = both.push(v.expand(2, *v.shape), chunk=4)
            pulled = both.pull(u.expand(2, *u.shape), chunk=4)
            for place, single in enumerate(singles):
                one = single[index]
                floor = _floor(one.value)
                same = agree(pushed[place], one.push(v), floor)
                if not (same and agree(pulled[place], one.pull(u), floor)):
                    raise TraceError(f"the derivative of output {index} comes out differently")

    def _compare(
        self, recorded: Sequence[Tensor], actual: Sequence[Tensor], where: str = "this point"
    ) -> None:
        for index, (ours, theirs) in enumerate(zip(recorded, actual, strict=True)):
            if not agree(ours, theirs):
                raise TraceError(
                    f"output {index} of the function differs from its recording at {where} "
                    "(control flow or constants that depend on the input); use "
                    'derivatives="transforms"'
                )


def _floor(value: Tensor) -> float:
    """Return the scale below which a derivative is rounding error: it vanishes."""
    return float(torch.finfo(value.dtype).eps ** 0.5 * value.detach().abs().max())


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
