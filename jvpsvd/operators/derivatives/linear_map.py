"""The derivative of a function at one point, as two maps of blocks of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.derivatives.chunk_tuning import Chunks
from jvpsvd.operators.function.evaluate import close
from jvpsvd.operators.function.lower_precision import LowerPrecision, Rounding

WEIGHTS_CHANGED = "the weights have changed since this derivative was taken; take it again"


@dataclass(frozen=True)
class Cost:
    """Bytes that the product of one vector takes."""

    jvp_bytes: int
    vjp_bytes: int


@dataclass(frozen=True, eq=False)
class Held:
    """Memory that products read; each one of these stands for memory of its own."""

    bytes: int
    shared: bool = False
    """Whether all points of a batch share it, as values that were computed from weights."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    r"""The derivative J of a function f at one point x, as two maps of blocks of vectors.

    `jvp` maps (b, \\*x.shape) to J v of shape (b, \\*f(x).shape); `vjp` maps (b, \\*f(x).shape) to
    J' u of shape (b, \\*x.shape).
    """

    point: Tensor
    value: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]
    cost: Cost | None = None
    """The memory of a product; None where it is not known."""
    at: Callable[[Tensor], LinearMap] | None = None
    """The derivative of the same function at another point of the same kind."""
    chunks: Chunks | None = None
    """Vectors per call, tuned at all points of a recording together; None where not known."""
    nearby: Callable[[Tensor, Tensor, bool], Tensor | None] | None = None
    """Maps p points and a block of b vectors to J v, or with the flag J' u, at all of them at once:
    (p, b, …). None, or of none, where that is no less work than one after the other."""
    held: tuple[Held, ...] = ()
    """What is kept besides weights, as far as it is known."""
    probed: Tensor | None = None
    """J times `probe_block(point)`, where a check has computed it."""
    widest: int | None = None
    """Entries of the largest tensor that an evaluation makes, where they were counted."""
    lower_precision: LowerPrecision | None = None
    """The lowest precision that f computes in, where that is known to be lower than the point's."""


def refuse_after_change(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    product: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return a product that records no graph and is refused once fn has another value at x.

    That costs an evaluation per block: what autograd keeps refers to weights, and torch does not
    see all changes of them.
    """
    eps_at_x = partial(Rounding(fn).eps_at, x)

    def product_if_unchanged(block: Tensor) -> Tensor:
        with torch.no_grad():
            refuse_another_value(fn(x), value, eps_at_x)
            return product(block)

    return product_if_unchanged


def refuse_another_value(
    again: Tensor, value: Tensor, eps: Callable[[], float | None] | None = None
) -> None:
    """Check that fn has the value that it had when its derivative was taken.

    `eps` returns that of a lower precision inside fn; it is called where the values differ by more
    than the rounding of their dtype.

    Raises:
        ArgumentError: If it has not.
    """
    if not (close(again, value) or (eps is not None and close(again, value, eps=eps()))):
        raise ArgumentError(
            "fn gives another value than when this derivative was taken: the weights have changed "
            "since, it is random, or it computes under autocast; take the derivative again"
        )


def disable_grad(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a product that records no graph: products are values, never differentiated again."""

    def product_without_graph(block: Tensor) -> Tensor:
        with torch.no_grad():
            return product(block)

    return product_without_graph


def make_change_check(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Return a check that none of the tensors has been changed or replaced since this call.

    What torch does not count, ``parameter.data.mul_(2)``, cannot be seen: a recording therefore
    works with copies of its weights, or compares them itself.

    The check raises `ArgumentError` if one has: a derivative that reads weights later than its
    value did is the derivative of no function.

    >>> weight = torch.ones(2)
    >>> check = make_change_check([weight])
    >>> _ = weight.zero_()
    >>> check()
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the weights have changed since this derivative was taken; ...
    """

    def states() -> list[tuple[int, int]]:
        # The address too: `parameter.data = …` leaves the version as it is.
        return [(0 if t.is_inference() else t._version, t.data_ptr()) for t in tensors]

    recorded = states()

    def check() -> None:
        if states() != recorded:
            raise ArgumentError(WEIGHTS_CHANGED)

    return check
