"""Whether the first dimension of what a network is given is a batch.

It is given one input with a dimension of 1 in front. That need not be its batch: a convolution of
one channel takes (1, height, width) for a channel, a recurrent network with ``batch_first=False``
for a step in time. Two inputs together tell: from a batch it computes what it does from each alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.evaluate import close
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.fingerprint import is_dense
from jvpsvd.operators.function.lower_precision import find_lower_precision

logger = logging.getLogger(__name__)

Values = Callable[[Any], Sequence[Tensor]]
"""Evaluates a network, and returns all tensors of its value."""


def refuse_without_batch(name: str, values: Values, x: Any, eps: float = 0.0) -> None:
    """Check that a network takes the dimension in front of an input for its batch.

    It is evaluated at another input, at both together, and where inputs have a dimension of 1, or
    it fails, without that or with one more.

    Args:
        name: What the network is called in messages.
        values: Evaluates it; it fails where the network does.
        x: One input, a tensor or a dict of arguments, with a dimension of 1 in front.
        eps: Rounding of the lowest precision of its weights.

    Raises:
        ArgumentError: If it is no batch, or could be another one; says what to write.

    >>> step = torch.nn.GRU(2, 3)
    >>> refuse_without_batch("GRU", lambda x: step(x)[:1], torch.ones(1, 5, 2))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: GRU computes something else of inputs of shape (5, 2) that are ...
    >>> batched = torch.nn.GRU(2, 3, batch_first=True)
    >>> refuse_without_batch("GRU", lambda x: batched(x)[:1], torch.ones(1, 5, 2))
    """
    ours = _values_or_error(values, x)
    if isinstance(ours, Exception):
        return  # it is told where the network is differentiated
    taken = _takes_batch(values, x, ours, eps)
    if taken is False and _is_rounding(values, x, ours, eps):
        return
    if taken is False:
        raise ArgumentError(
            f"{name} computes something else of inputs{_shape_in_words(x)} that are given together "
            "than of each alone, so the dimension in front is not its batch, or it mixes the "
            "inputs of one: let it take the batch first (batch_first=True, or exchange dimensions "
            "in a module around it), or take JacobianOperator(model, x) of one input at a time"
        )
    if isinstance(x, Tensor) and isinstance(taken, Exception):
        _refuse_missing_channel(name, values, x, ours, eps)
    if taken is True and _has_batch_already(x):
        _refuse_second_batch(name, values, x, ours, eps)
    if isinstance(taken, Exception | None):
        why = "" if taken is None else f" ({first_line(taken, 80)})"
        logger.warning(
            "%s does not take two inputs together%s, so that it was not checked whether the "
            "dimension in front of an input is its batch",
            name, why,
        )  # fmt: skip


def _refuse_missing_channel(
    name: str, values: Values, x: Tensor, ours: Sequence[Tensor], eps: float
) -> None:
    """Refuse inputs that have no channel, where the dimension in front is taken for one."""
    inside = x[:, None]
    theirs = _values_or_error(values, inside)
    if isinstance(theirs, Exception) or _takes_batch(values, inside, theirs, eps) is not True:
        return
    if not _same_numbers(ours, theirs, eps):
        shape = tuple(x.shape[1:])
        raise ArgumentError(
            f"{name} takes an input of shape {shape} with a dimension in front, {tuple(x.shape)}, "
            f"for one without a batch, and computes something else of {tuple(inside.shape)}: give "
            f"inputs of shape {(1, *shape)}, as X[:, None]"
        )


def _has_batch_already(x: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    return all(leaf.ndim > 1 and len(leaf[0]) == 1 for leaf in tensors)


def _refuse_second_batch(
    name: str, values: Values, x: Any, ours: Sequence[Tensor], eps: float
) -> None:
    """Refuse inputs of length 1 that are batches by themselves, of something else."""
    inside = tree_map_only(Tensor, lambda leaf: leaf[0], x)
    theirs = _values_or_error(values, inside)
    if isinstance(theirs, Exception) or _same_numbers(ours, theirs, eps):
        return
    if _takes_batch(values, inside, theirs, eps) is True:
        raise ArgumentError(
            f"inputs{_shape_in_words(x)} have a batch of their own: {name} computes something else "
            "of them than with a further dimension in front, which is added to each; give them "
            "without the first dimension, as x[0], or X[:, 0]; if that is no batch, give them so "
            "too, and let the model add it"
        )


def _values_or_error(values: Values, x: Any) -> Sequence[Tensor] | Exception:
    try:
        with torch.no_grad():  # on a copy: a network may change its input in place
            return values(tree_map_only(Tensor, torch.clone, x))
    except Exception as error:  # whatever the network raises
        return error


def _takes_batch(
    values: Values, x: Any, first: Sequence[Tensor], eps: float
) -> bool | Exception | None:
    """Return whether two inputs give together what each does; an exception, or None: unknown."""
    other = _change_input(x)
    second = _values_or_error(values, other)
    if isinstance(second, Exception):
        return second
    try:
        joined = list(_join_inputs(x, other))
    except RuntimeError as error:  # torch joins no tensors in sparse_csr
        return error
    found: bool | Exception | None = None
    for both in joined:
        together = _values_or_error(values, both)
        if isinstance(together, Exception):
            found = together if found is None else found
            continue
        hold = [_holds_both(*each, eps) for each in zip(together, first, second, strict=False)]
        found = False if False in hold else None if None in hold else True
        if found:
            break
    return found


def _change_input(x: Any) -> Any:
    """Return another input: other pixels, other tokens; and the same time step, or other number."""
    numbers_only = all(_is_number(leaf) for leaf in tree_leaves(x))

    def change(leaf: Tensor) -> Tensor:
        if not leaf.ndim or (_is_number(leaf) and not numbers_only):
            return leaf
        if not is_dense(leaf):  # torch rolls no sparse tensor
            return leaf
        if not leaf.is_floating_point():
            return leaf.roll(1, -1)
        return leaf.roll(1, -1) / 2 if leaf.any() else leaf + 1

    return tree_map_only(Tensor, change, x)


def _is_number(leaf: object) -> bool:
    """Return whether this is one number for an input, or no tensor."""
    return not isinstance(leaf, Tensor) or leaf.ndim < 2


def _join_inputs(x: Any, other: Any) -> Iterator[Any]:
    """Yield two inputs together; then with single numbers, as a time step, common to both."""

    def join(ours: Any, theirs: Any) -> Any:
        return torch.cat([ours, theirs]) if isinstance(ours, Tensor) and ours.ndim else ours

    def join_all_but_numbers(ours: Any, theirs: Any) -> Any:
        return ours if _is_number(ours) else join(ours, theirs)

    yield tree_map(join, x, other)
    numbers = [_is_number(leaf) for leaf in tree_leaves(x)]
    if any(numbers) and not all(numbers):
        yield tree_map(join_all_but_numbers, x, other)


def _holds_both(both: Tensor, first: Tensor, second: Tensor, eps: float) -> bool | None:
    """Return whether a value holds those of two inputs, along any dimension; None: unknown.

    In any order along it: steps may come first, and tokens be sorted by experts. Unknown are
    numbers of a whole batch, sizes that depend on values, and values of the first input of a batch.
    """
    if first.shape != second.shape or not both.ndim:
        return None
    if both.shape == first.shape and close(both, first, eps=eps):
        return True if close(both, second, eps=eps) else None
    for dim in range(first.ndim):
        each = torch.cat([first, second], dim)
        if both.shape == each.shape and (
            close(both, each, eps=eps)
            or close(both.sort(dim).values, each.sort(dim).values, eps=eps)
        ):
            return True
    return False


def _same_numbers(ours: Sequence[Tensor], theirs: Sequence[Tensor], eps: float) -> bool:
    """Return whether values agree, whatever their shapes: those of a Jacobian are flat."""
    return len(ours) == len(theirs) and all(
        a.numel() == b.numel() and close(a.flatten(), b.flatten(), eps=eps)
        for a, b in zip(ours, theirs, strict=True)
    )


def _is_rounding(values: Values, x: Any, ours: Sequence[Tensor], eps: float) -> bool:
    """Return whether a random network, jumps or a lower precision explain another value."""
    again = _values_or_error(values, x)
    if isinstance(again, Exception) or not _same_numbers(ours, again, eps):
        return True  # it is told where the network is differentiated
    nearby = _values_or_error(values, tree_map_only(Tensor, _move_by_rounding, x))
    if isinstance(nearby, Exception) or not _same_numbers(ours, nearby, eps):
        return True  # a step within the network, which rounding moves
    lower = find_lower_precision(values, x) if isinstance(x, Tensor) else None
    if lower is None:
        return False
    lower_eps = max(eps, float(torch.finfo(lower.dtype).eps))
    return _takes_batch(values, x, ours, lower_eps) is not False


def _move_by_rounding(x: Tensor) -> Tensor:
    """Return an input that differs by rounding."""
    return x * (1 + 8 * torch.finfo(x.dtype).eps) if x.is_floating_point() else x


def _shape_in_words(x: Any) -> str:
    return f" of shape {tuple(x.shape[1:])}" if isinstance(x, Tensor) else ""
