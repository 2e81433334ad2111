"""Record the value, the JVP and the VJPs of a function as graphs.

Forward mode evaluates a function again with every block of vectors. Here (x, v, u) ↦ (f(x), J v,
J' u) is recorded once for single vectors, and split by what depends on v and on u. What depends on
neither is the primal graph: it runs once per point and keeps the activations that the two product
graphs need. These run under vmap, so that their chunk is free. No value of x is part of a graph, so
that one recording serves every point of the same shape, but for sizes that values decide on. The
primal graph compares these (see `sizes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize

from jvpsvd.errors import AdjointError, DerivativeError, TraceError
from jvpsvd.operators.derivatives.differences import direction, output_direction
from jvpsvd.operators.environment.transform_state import transforms_restored
from jvpsvd.operators.function.conversion import converted_weights
from jvpsvd.operators.function.evaluate import check_output
from jvpsvd.operators.function.failures import failures_named, first_line, remedy_at
from jvpsvd.operators.function.lower_precision import Rounding
from jvpsvd.operators.function.obstacles import WithoutCrashes
from jvpsvd.operators.recording.checkpoints import keep_checkpoints
from jvpsvd.operators.recording.failures import describe_failure, refuse_what_no_graph_holds
from jvpsvd.operators.recording.graphs import AtPoint, Recording
from jvpsvd.operators.recording.operations import TooLargeError, record_operations
from jvpsvd.operators.recording.outputs import Outputs, Products
from jvpsvd.operators.recording.passes.channels_last import channels_last_pays, has_convolutions
from jvpsvd.operators.recording.passes.fx_tools import (
    copy_uncompiled,
    merge_equal_nodes,
    remove_identities,
    replace_copies,
    replace_fills,
)
from jvpsvd.operators.recording.passes.pipeline import simplify
from jvpsvd.operators.recording.passes.strided_views import reshape_strided_views
from jvpsvd.operators.recording.split import split
from jvpsvd.operators.recording.verify_replay import verify_replay

logger = logging.getLogger(__name__)

# Bytes of results up to which one evaluation serves both products. For nine blocks of GPT-2 and 512
# tokens both together held more than twice the memory of one after the other (`python -m benchmarks
# large_models`).
MOST_TOGETHER = 1 << 30
# GiB that are worth a line in the log.
TOLD_GIB = 0.1


def record(
    outputs: Outputs,
    example: Tensor,
    values: tuple[Tensor, ...] | None = None,
    *,
    fold: bool,
    check: bool,
    recompute: bool = False,
    rounding: Rounding | None = None,
) -> tuple[Recording, AtPoint]:
    """Return the recording of a function in the fastest form that gives what torch.func gives.

    What it gives at the example is returned with it.

    Args:
        outputs: The function.
        example: The point at which it is recorded.
        values: The outputs there, if known.
        fold: Whether to rewrite what was recorded into cheaper operations.
        check: Whether to test the products as `verify_replay` says.
        recompute: Whether to keep checkpoints only, and to compute other values of a point again.
        rounding: Of the function, where it is to be kept.

    Raises:
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: If the function cannot be recorded.

    >>> recording, _ = record(Outputs(torch.square), torch.zeros(2), fold=True, check=True)
    >>> recording.at(torch.tensor([1.0, 3.0]))[0].jvp(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    """
    rounding = rounding or Rounding(outputs)
    if values is None:
        with torch.no_grad(), failures_named("fn", partial(remedy_at, outputs.fn, example)):
            values = tuple(check_output(y) for y in outputs(example))
    try:
        joint, products = _record_joint(outputs, example, values)
        products = products._replace(values=values)
        verify_by = partial(
            verify_replay,
            outputs=outputs,
            example=example,
            products=products,
            check=check,
        )

        def verify(recording: Recording) -> AtPoint:
            return rounding.judge(lambda eps: verify_by(recording, eps=eps), example)

        private = converted_weights(outputs.fn)
        split_joint = partial(_split_and_tell, recompute=recompute, private=private)
        if fold:
            return _simplify_verified(joint, example, split_joint, verify)
        recording = split_joint(joint)
        return recording, verify(recording)
    except (TraceError, AdjointError, DerivativeError):
        raise
    except Exception as error:  # whatever the function raises, or torch under it
        raise TraceError(f"cannot record the function: {describe_failure(error)}") from error


def _record_joint(
    outputs: Outputs, example: Tensor, values: tuple[Tensor, ...]
) -> tuple[fx.GraphModule, Products]:
    """Return the graph of f(x), J v and J' u, and what these are for one direction each."""
    # Directions come as rows of a block: contiguous, whatever the layout of x and f(x).
    directions = [direction(example), *(output_direction(value) for value in values)]
    computed: list[Products] = []

    def compute(*args: Tensor, by: Callable[..., Products]) -> tuple[Any, ...]:
        with WithoutCrashes():
            computed.append(functionalize(by)(*args))
        return tuple(computed[0])

    together = partial(compute, by=outputs.compute_products_together)
    apart = partial(compute, by=outputs.compute_products)
    # Without grad mode: it would keep a graph for every weight that requires grad, which
    # torch 2.14.1 never frees. Both derivatives are taken all the same.
    with torch.no_grad(), transforms_restored():
        joint = None
        if len(values) == 1:
            with suppress(TooLargeError), transforms_restored():
                joint = record_operations(together, example, *directions, most_bytes=MOST_TOGETHER)
        if joint is None:
            joint = record_operations(apart, example, *directions)
    reshape_strided_views(joint)
    remove_identities(joint)
    replace_copies(joint)
    replace_fills(joint)
    merge_equal_nodes(joint)
    refuse_what_no_graph_holds(joint.graph)
    return joint, computed[0]


def _simplify_verified(
    joint: fx.GraphModule,
    example: Tensor,
    split_joint: Callable[[fx.GraphModule], Recording],
    verify: Callable[[Recording], AtPoint],
) -> tuple[Recording, AtPoint]:
    if channels_last_pays(example) and has_convolutions(joint.graph):
        try:
            recording = split_joint(simplify(copy_uncompiled(joint), channels_last=True))
            there = verify(recording)
        except Exception as error:  # a layout that some operation cannot take
            logger.info("keeping the layout of the function: %s", first_line(error))
        else:
            return recording.reduce_channels(there), there
    recording = split_joint(simplify(joint, channels_last=False))
    there = verify(recording)
    return recording.reduce_channels(there), there


def _split_and_tell(
    joint: fx.GraphModule, *, recompute: bool, private: Sequence[Tensor]
) -> Recording:
    """Return the recording, and say in the log what a point will hold before one does."""
    recording = split(joint, private)
    if recompute:
        recording = keep_checkpoints(recording)
    size = recording.bytes_of_point / 2**30
    if size >= TOLD_GIB:
        logger.info("each point of this recording will hold about %.1f GiB", size)
    return recording
