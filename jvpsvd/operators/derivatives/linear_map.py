"""The derivative of a function at one point, as two maps of blocks of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.derivatives.chunk_tuning import Chunk
from jvpsvd.operators.function.evaluate import close


@dataclass(frozen=True)
class Cost:
    """Memory that one vector takes, forward and reverse, and the chunks found to be best."""

    forward_bytes: int
    reverse_bytes: int
    forward: Chunk
    reverse: Chunk


@dataclass(frozen=True)
class LinearMap:
    r"""The derivative J of a function f at one point x, as two batched maps.

    `push` takes tangents of shape (b, \\*x.shape) to J v of shape (b, \\*f(x).shape); `pull` takes
    cotangents (b, \\*f(x).shape) to J' u of shape (b, \\*x.shape).
    """

    point: Tensor
    value: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    cost: Cost | None = None
    """What is known of the two maps, shared by all points of a recording."""
    at: Callable[[Tensor], LinearMap] | None = None
    """The derivative of the same function at another point of the same kind."""


def refused_once_changed(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    apply: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return `apply`, recording no graph, refused once fn has another value at x.

    That costs an evaluation per block: what autograd keeps refers to weights, and torch does not
    see all changes of them.
    """

    def apply_if_unchanged(block: Tensor) -> Tensor:
        with torch.no_grad():
            _refuse_another(fn(x), value)
            return apply(block)

    return apply_if_unchanged


def _refuse_another(again: Tensor, value: Tensor) -> None:
    if not close(again, value):
        raise ArgumentError(
            "fn gives another value than when this derivative was taken: the weights have changed "
            "since, it is random, or it computes under autocast; take the derivative again"
        )


def without_grad(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return `apply` recording no graph: products are values, never differentiated again."""

    def apply_without_grad(block: Tensor) -> Tensor:
        with torch.no_grad():
            return apply(block)

    return apply_without_grad


def unchanged(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Return a check that none of the tensors has been changed or replaced since this call.

    What torch does not count, ``parameter.data.mul_(2)``, cannot be seen: a recording therefore
    works with copies of the weights.

    The check raises `ArgumentError` if one has: a derivative that reads weights later than its
    value did is the derivative of no function.

    >>> weight = torch.ones(2)
    >>> check = unchanged([weight])
    >>> _ = weight.zero_()
    >>> check()
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the weights have changed since this derivative was taken; ...
    """

    def states() -> list[tuple[int, int]]:
        # The address too: `parameter.data = …` leaves the version as it is.
        return [(0 if t.is_inference() else t._version, t.data_ptr()) for t in tensors]

    before = states()

    def check() -> None:
        if states() != before:
            raise ArgumentError(
                "the weights have changed since this derivative was taken; take it again"
            )

    return check
