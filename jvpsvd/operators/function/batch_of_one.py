"""One point of a batch, for functions that may take batches.

A function is given one point without the dimension of the batch. A network that can take that as
well may compute another function of it: ``x.mean(1)`` averages channels of a batch, and rows of one
image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isfunction, ismethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.batch_of_two import refuse_without_batch
from jvpsvd.operators.function.evaluate import close, prepare, refuse_nondeterministic
from jvpsvd.operators.function.failures import can_be_called, failures_named, takes_batch_of_one
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.operators.function.restoring import restored


def function_of_one(fn: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    """Return fn, or, of one that takes batches and cannot take x, the function of one of a batch.

    That is fn at x[None], without the first dimension of its value where that is one.

    Args:
        fn: The function.
        x: A point.

    Raises:
        ModelError: If fn fails at x, and then no longer.

    >>> norm = torch.nn.BatchNorm1d(3).eval()
    >>> function_of_one(norm, torch.ones(3))(torch.ones(3)).shape
    torch.Size([3])
    >>> function_of_one(torch.sin, torch.ones(3)) is torch.sin
    True
    """
    evaluate = prepare(fn)
    with restored(fn, x.device), torch.no_grad():
        try:
            evaluate(x)
        except Exception as error:  # whatever fn raises
            failed = error
        else:
            return fn
        if not takes_batch_of_one(evaluate, x):
            return fn
        if can_be_called(evaluate, x):
            with failures_named("fn", "it does so at times only: make it deterministic"):
                raise failed
    return _OfOne(fn)


class _OfOne:
    """A function of batches as a function of one point."""

    def __init__(self, fn: Callable[[Tensor], Any]) -> None:
        self.__wrapped__ = fn  # for `called_modules`

    def __call__(self, x: Tensor) -> Any:
        return tree_map_only(Tensor, _without_batch, self.__wrapped__(x[None]))


def _without_batch(value: Tensor) -> Tensor:
    return value[0] if value.ndim and len(value) == 1 else value


def refuse_other_function(
    fn: Callable[..., Any],
    of_vector: OfVector,
    points: Tensor,
    values: Tensor,
    eps: float | None = None,
) -> None:
    """Check that a network computes of one point what it computes of a batch of one.

    It is evaluated once more, at a batch of the one point where its value is largest. Nothing is
    compared where it fails there, where a point is a batch of one by itself, and for functions that
    are no network: these take one point. One that takes batches only is evaluated at two points
    together instead, which tell whether the dimension in front is its batch.

    Args:
        fn: The function as the user gave it.
        of_vector: The same of one point, as it is differentiated.
        points: The points, along the first dimension.
        values: The function's values at all of them, or at the first ones.
        eps: Of a lower precision inside fn; None for that of the values.

    Raises:
        ArgumentError: If the two differ, or if the value at one point has an entry for each of
            all points, which a mask for each makes of it.

    >>> softmax, X = OfVector(nn.Softmax(1), None), torch.eye(3).cumsum(0).expand(2, 3, 3)
    >>> refuse_other_function(nn.Softmax(1), softmax, X, torch.stack([softmax(x) for x in X]))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: Softmax computes something else of the point X[0] than of the ...
    """
    network, run = _network_of(fn), of_vector.__wrapped__
    name = "fn" if network is None or fn is not network else type(fn).__name__
    if isinstance(run, _OfOne):
        batches = prepare(run.__wrapped__)
        refuse_without_batch(name, lambda z: tree_leaves(batches(z)), points[:1], eps or 0.0)
    if network is None:
        return
    index = int(
        torch.linalg.vector_norm(values.reshape(len(values), -1), torch.inf, dim=1).argmax()
    )
    x = points[index]
    batched = run.__wrapped__ if isinstance(run, _OfOne) else run
    evaluate = prepare(lambda z: batched(of_vector.tree(z)))
    batch = _value_or_none(evaluate, x[None])
    if batch is None:
        return
    if _has_entry_for_each(evaluate, points, index, batch, eps):
        raise ArgumentError(
            f"{name} computes {len(points)} values of the one point X[{index}], as a mask for each "
            "of the points makes it: what is given besides x is the same for all points; make one "
            "operator for each, with its mask, or write lambda x: fn(x, mask) if all of it is meant"
        )
    value = _in_structure(of_vector, values[index])
    if (
        isinstance(run, _OfOne)
        or _same_values(value, batch, eps)
        or _is_batch(of_vector, x, value, eps)
    ):
        return
    if not close(prepare(of_vector)(x), values[index], eps=eps):
        refuse_nondeterministic(fn, of_vector, x)
    raise ArgumentError(
        f"{name} computes something else of the point X[{index}] than of the batch "
        f"X[{index}:{index + 1}]{_describe_shapes(value, batch)}; write "
        f"{_describe_remedy(of_vector.tree(x), value)} for what it computes of a batch, or "
        "lambda x: fn(x) if a point without the dimension of the batch is meant"
    )


def _network_of(fn: object) -> nn.Module | None:
    """Return the network that fn is, or whose forward it calls as it stands, if any.

    That is a network, its `forward`, a `functools.partial` or a `layer_map` of these. Any other
    function or object that calls a network is a function of its own.
    """
    if isinstance(fn, nn.Module):
        return fn
    if isinstance(fn, partial):
        replaced = fn.func is functional_call and fn.args
        return _network_of(fn.args[0] if replaced else fn.func)
    if ismethod(fn):
        return _network_of(fn.__self__) if fn.__name__ in ("forward", "__call__") else None
    if fn is None or isfunction(fn):
        return None
    return _network_of(getattr(fn, "__wrapped__", None))  # of a `layer_map`


def _value_or_none(evaluate: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Return the value at x; None where there is none."""
    try:
        with torch.no_grad():
            return evaluate(x)
    except Exception:  # whatever the function raises
        return None


def _in_structure(of_vector: OfVector, value: Tensor) -> Any:
    return value if of_vector.target is None else of_vector.target.tree(value)


def _same_values(value: Any, batch: Any, eps: float | None) -> bool:
    """Return whether the value at a batch of one holds the numbers of that at its point.

    Shapes may differ, since a Jacobian is that of flat values: `nn.Flatten` leaves channels apart.
    """
    (ours, spec), (theirs, other) = tree_flatten(value), tree_flatten(batch)
    return spec == other and all(
        _is_same_tensor(*pair, eps) for pair in zip(ours, theirs, strict=True)
    )


def _is_same_tensor(ours: Tensor, theirs: object, eps: float | None) -> bool:
    if not isinstance(theirs, Tensor) or theirs.numel() != ours.numel():
        return False
    return close(theirs.reshape(ours.shape).to(ours.dtype), ours, eps=eps)


def _has_entry_for_each(
    evaluate: Callable[[Tensor], Any],
    points: Tensor,
    index: int,
    batch: Any,
    eps: float | None,
) -> bool:
    """Return whether the value at a batch of one holds one for each point, its own among them."""
    count = len(points)
    if count == 1 or not any(_is_of_length(leaf, count) for leaf in tree_leaves(batch)):
        return False
    # As long at all points as at one, and the same at this one: only what is fixed differs.
    every = tree_leaves(_value_or_none(evaluate, points))
    return any(
        _is_of_length(one, count)
        and _is_of_length(all_, count)
        and close(one[index], all_[index], eps=eps)
        for one, all_ in zip(tree_leaves(batch), every, strict=False)
    )


def _is_of_length(leaf: object, count: int) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and leaf.ndim > 0
        and len(leaf) == count
    )


def _is_batch(of_vector: OfVector, x: Tensor, value: Any, eps: float | None) -> bool:
    """Return whether a point is a batch of one: fn takes it with another, and its value stays."""
    ours = tree_leaves(value)
    given = [leaf for leaf in tree_leaves(of_vector.tree(x)) if isinstance(leaf, Tensor)]
    if not all(_is_of_length(leaf, 1) for leaf in given + ours):
        return False

    def evaluate_two(z: Tensor) -> Any:
        return of_vector.__wrapped__(tree_map_only(Tensor, _with_another, of_vector.tree(z)))

    both = tree_leaves(_value_or_none(prepare(evaluate_two), x))
    return len(both) == len(ours) and all(
        _is_of_length(two, 2) and close(two[:1].to(one.dtype), one, eps=eps)
        for one, two in zip(ours, both, strict=True)
    )


def _with_another(x: Tensor) -> Tensor:
    return torch.cat([x, x.roll(1, -1)])


def _describe_shapes(value: Any, batch: Any) -> str:
    if not isinstance(value, Tensor) or not isinstance(batch, Tensor):
        return ""
    if batch.shape in (value.shape, (1, *value.shape)):
        return ""
    return f" (values of shape {tuple(value.shape)} and {tuple(batch.shape)})"


def _describe_remedy(point: Any, value: Any) -> str:
    if isinstance(point, Tensor) and isinstance(value, Tensor):
        return "lambda x: fn(x[None])[0]"
    return "a function of one point that gives fn each tensor as t[None] and returns each as t[0]"
