"""Compare products with differences of the function itself.

Automatic differentiation takes for zero what it cannot see of a function (a part under
torch.inference_mode, NumPy, a kernel without a derivative). The function still moves with its
argument. With steps d and d/8, let e(d) = f(x + d) − f(x) − J d be the motion that products do not
explain.

- Curvature leaves e ~ |d|², rounding leaves noise, and a kink or a jump near x leaves neither; only
  what is missing in J leaves e(d) = 8 e(d/8).
- A kink at x itself, such as ReLU at 0, leaves it too. Next to x there is none, so that the motion
  from x + d/8 to x + d is compared with the products at these two points.
- A step function (round, sign, argmax, quantised activations) moves over many of its steps as if it
  had a slope. Its derivative is zero all the same: a third step is as small as rounding lets it be.

In what follows, fn is the function f as `prepare` returns it, x is the point, and `at` returns the
products at any point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jvpsvd.errors import DerivativeError
from jvpsvd.operators.function.evaluate import largest
from jvpsvd.operators.function.lower_precision import find_lower_precision, wider_eps
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.scaling import row_norms

Apply = Callable[[Tensor], Tensor]
"""Takes vectors v, (b, *x.shape), to J v."""

# Chosen by `python -m benchmarks derivative_check`. The larger step over the smaller, and how far
# from proportional, as a share of itself, motion may be.
_RATIO, _PROPORTIONAL = 8, 0.25
# Motion is resolved above so many roundings of f(x), and steps above so many of x.
_NOISE, _STEP_NOISE = 8, 64
# Products vanish below the first share of the motion, and differ from it above the second.
_VANISHING, _DIFFERING = 1e-3, 2e-2
# Products this many times longer belong to a function that varies within a step, sin(1e5 x).
_FINER = 10
# A function without steps is off by less at the smallest step, at which motion is so many times
# what is resolved.
_STEPPED, _RESOLVED = 0.5, 4
# A large step.
_LARGE = 1 / 16
# The smaller steps of further trials, where rounding of f(x) hides the motion: so many times the
# first, and some that do not depend on the dtype.
_WIDER, _WIDE = 16, (2.0**-12, 2.0**-6, 2.0**-3)


@dataclass(frozen=True)
class Unexplained:
    """Motion of a function, in proportion to the step, that its products do not explain."""

    share: float
    """Its norm over that of the whole motion."""
    step: float
    """Norm of the step over that of the point, or over 1 at the origin."""
    motion: float
    """Norm of f(x + step) − f(x)."""
    vanishing: bool
    """Whether products vanish, and no step is so small that the function does not move."""


def direction(like: Tensor) -> Tensor:
    """Return a direction without symmetry, the same at every call; no random state is touched."""
    return _cosines(like, 0.7, 0.0)


def output_direction(like: Tensor) -> Tensor:
    """Return another one for outputs: of a square J and its transpose, ⟨J v, v⟩ is the same."""
    return _cosines(like, 1.1, 0.4)


def _cosines(like: Tensor, step: float, first: float) -> Tensor:
    angles = torch.arange(like.numel(), dtype=torch.float64, device="cpu").mul_(step).add_(first)
    return angles.cos().to(like.device, like.dtype).reshape(like.shape)


def probe_block(x: Tensor) -> Tensor:
    """Return a block of two directions: `direction(x)` in the first row of x alone, and as it is.

    What is no matrix has no rows, and twice the direction stands for the first one.

    >>> probe_block(torch.zeros(2, 1))[:, :, 0]
    tensor([[1.0000, 0.0000],
            [1.0000, 0.7648]])
    """
    along = direction(x)
    if x.ndim < 2:
        return torch.stack([2 * along, along])
    first = torch.zeros_like(along)
    first[0] = along[0]
    return torch.stack([first, along])


def refuse_hidden(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    value: Tensor,
    image: Tensor,
    at: Callable[[Tensor], Apply],
) -> None:
    """Refuse products that vanish although the function moves in proportion to the step.

    Nothing is evaluated where they do not vanish.

    `value` is f(x), and `image` is J v for v = direction(x).

    Raises:
        DerivativeError: If they do.

    >>> hidden = torch.inference_mode()(torch.sin)
    >>> zero = lambda x: torch.zeros_like
    >>> refuse_hidden(hidden, torch.ones(2), torch.ones(2), torch.zeros(2), zero)
    Traceback (most recent call last):
    jvpsvd.errors.DerivativeError: products vanish at this point although fn moves in proportion ...
    >>> refuse_hidden(torch.round, torch.ones(2), torch.ones(2), torch.zeros(2), zero)
    """
    predicted = _smaller_step(x.dtype) * _scale(x) * _norm(image)
    if predicted > _rounding(value):
        return
    products = at(x)
    with torch.no_grad():
        here = fn(x).detach()  # a recorded value differs by rounding

    def find_hidden(eps: float | None) -> Unexplained | None:
        least = _smaller_step(x.dtype, eps)
        # Rounding of f(x) may hide the motion at small steps.
        sizes = sorted({least, *(max(_WIDER * least, wide) for wide in _WIDE)})
        each = (find_unexplained(fn, x, products, at, here, size, eps=eps) for size in sizes)
        found = next((one for one in each if one is not None), None)
        return found if found is not None and found.vanishing else None

    found = find_hidden(None)
    in_double = found is None and x.dtype == torch.float64
    if in_double and (find_obstacles(fn, x) or find_lower_precision(fn, x)):
        # A part that computes in float32, in NumPy too, has steps of that size.
        found = find_hidden(torch.finfo(torch.float32).eps)
    if found is None:
        return
    seen = find_obstacles(fn, x)
    if not seen:
        seen.append("a kernel or custom function without a derivative")
    raise DerivativeError(
        f"products vanish at this point although fn moves in proportion to the step (by "
        f"{found.motion:.1e} at a step of {found.step:.1e} |x|): its derivative is hidden by "
        f"{' or '.join(seen)}; compute it with operations that torch can differentiate"
    )


def refuse_inference(fn: Callable[[Tensor], Any], x: Tensor, at: Callable[[Tensor], Apply]) -> None:
    """Refuse the products of a function that computes a part of its motion in inference mode.

    Raises:
        DerivativeError: If it does.
    """
    if "torch.inference_mode" in find_obstacles(fn, x):
        describe_difference(fn, x, at(x), at)


def describe_difference(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    products: Apply,
    at: Callable[[Tensor], Apply],
    value: Tensor | None = None,
    image: Tensor | None = None,
    evaluate: Callable[[Tensor], Any] | None = None,
    eps: float | None = None,
) -> str | None:
    """Return how the products at x differ from differences of fn; None where they do not.

    `value` is f(x), and `image` is J v for v = direction(x), if known. `evaluate` returns f at a
    point, where that is less work than fn. `eps` is that of a lower precision inside fn.

    Raises:
        DerivativeError: If they do, and a part of fn runs under torch.inference_mode, which nobody
            uses to drop a derivative.

    >>> fn = lambda x: x + x.detach()
    >>> description = describe_difference(fn, torch.ones(2), lambda v: v, lambda x: lambda v: v)
    >>> description.split(";")[0]
    'products explain only a part of how fn moves (50 % is missing)'
    """
    run = evaluate or fn
    found = find_unexplained(run, x, products, at, value, image=image, eps=eps)
    # Small steps are lost where f casts, and show the rest where large ones are bent.
    if found is None and eps is not None and not _is_explained(run, x, products, eps):
        found = find_unexplained(run, x, products, at, value, image=image)
    if found is None:
        return None
    seen = find_obstacles(fn, x)
    if found.share < 1.005:
        summary = (
            f"products explain only a part of how fn moves ({100 * found.share:.0f} % is missing)"
        )
    else:
        summary = (
            "products do not explain how fn moves (they differ from the motion by "
            f"{found.share:.1f} times its length)"
        )
    if "torch.inference_mode" in seen:
        raise DerivativeError(
            f"{summary}: torch.inference_mode hides the derivative of what it computes; take it "
            "out, or detach what is to be held fixed"
        )
    goes = f"fn goes through {' and '.join(seen)}" if seen else "no cause was seen"
    return (
        f"{summary}; this is meant where it has a detach, a straight-through estimator, a custom "
        f"backward or a part under torch.no_grad, and an error elsewhere ({goes})"
    )


def is_constant(fn: Callable[[Tensor], Any], x: Tensor, image: Tensor) -> bool:
    """Return whether f and its products are constant to rounding, at small steps and at large ones.

    `image` is the norm of the longest product J v, for v with a norm of about |direction(x)|.

    >>> is_constant(lambda x: x.softmax(-1).sum(), torch.ones(3), torch.tensor(1e-8))
    True
    >>> is_constant(torch.sin, torch.ones(3), torch.tensor(1e-8))
    False
    """
    size = _smaller_step(x.dtype)
    with torch.no_grad():
        value = fn(x)
        if float(image) * min(_scale(x), 1.0) > torch.finfo(x.dtype).eps ** 0.5 * _norm(value):
            return False
        moved = [_take_difference(fn, x, _step(x, h), value) for h in (_RATIO * size, size, _LARGE)]
    at_larger, at_smaller, large = moved
    if (
        at_larger is None
        or at_smaller is None
        or large is None
        or _is_slope(at_larger, at_smaller, 0.0, _rounding(value))
    ):
        return False
    noise = _NOISE * max(_rounding(value), _norm(at_larger), _norm(at_smaller))
    return _norm(large) <= max(noise, float(torch.finfo(x.dtype).eps ** 0.75) * _norm(value))


def find_unexplained(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    products: Apply,
    at: Callable[[Tensor], Apply],
    value: Tensor | None = None,
    size: float | None = None,
    image: Tensor | None = None,
    eps: float | None = None,
) -> Unexplained | None:
    """Return the motion in proportion to the step that the products at x do not explain, if any.

    It takes an evaluation, and a product unless `image` is known; where these differ, another one
    and two products, then products at two moved points, and another evaluation if these vanish.
    None if the function cannot be evaluated nearby. `value` is f(x), and `image` is J v for
    v = direction(x), if known. `size` is the smaller step as a share of a typical entry of x;
    about √eps by default. `eps` is that of a lower precision inside fn.
    """
    with torch.no_grad():
        size = size or _smaller_step(x.dtype, eps)
        along = _scale(x) * direction(x)
        larger, smaller = _rounded_step(x, _RATIO * size * along), _rounded_step(x, size * along)
        value = fn(x).detach() if value is None else value
        at_larger = _take_difference(fn, x, larger, value)
        if at_larger is None:
            return None
        least = _DIFFERING * _norm(at_larger)
        # What rounding takes from a step is within the tolerance.
        scaled = products(larger[None])[0] if image is None else _RATIO * size * _scale(x) * image
        if _norm(at_larger - scaled) <= least:
            return None
        at_smaller = _take_difference(fn, x, smaller, value)
        if at_smaller is None:
            return None
        larger_part, smaller_part = products(torch.stack([larger, smaller]))
        floor = _rounding(value)
        if eps is not None:  # a constant part, such as a mask of -1e9, has no rounding
            floor = max(floor, _NOISE * eps * _norm(value[at_larger != 0]))
        if not _is_slope(at_larger - larger_part, at_smaller - smaller_part, least, floor):
            return None
        between, along = at_larger - at_smaller, (larger - smaller)[None]
        norm, missing, explained = _norm(between), math.inf, _norm(larger_part)
        for step in (smaller, larger):  # either may have just passed a kink
            part = _try(lambda step=step: at((x + step).detach())(along)[0])  # type: ignore[misc]
            if part is None:
                return None
            missing = min(missing, _norm(between - part))
            explained = max(explained, _norm(part))
        if not max(_DIFFERING * norm, floor) < missing < _FINER * norm:
            return None
        vanishing = explained <= _VANISHING * norm and not _has_steps(
            fn, x, value, at_smaller, size, floor, eps
        )
        return Unexplained(
            share=missing / norm,
            step=_norm(larger) / (_norm(x) or 1.0),
            motion=_norm(at_larger),
            vanishing=vanishing,
        )


def _is_explained(fn: Callable[[Tensor], Any], x: Tensor, products: Apply, eps: float) -> bool:
    """Return whether products explain the motion along the larger step of a lower precision."""
    with torch.no_grad():
        step = _step(x, _RATIO * _smaller_step(x.dtype, eps))
        moved = _take_difference(fn, x, step, fn(x).detach())
        if moved is None:
            return False
        return _norm(moved - products(step[None])[0]) <= _DIFFERING * _norm(moved)


def _is_slope(larger: Tensor, smaller: Tensor, least: float, floor: float) -> bool:
    """Return whether motion of at least this norm is in proportion to the step."""
    norm = _norm(larger)
    off = _norm(larger - _RATIO * smaller)
    return norm > least and _norm(smaller) > floor and off <= _PROPORTIONAL * norm


def _has_steps(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    value: Tensor,
    moved: Tensor,
    size: float,
    floor: float,
    eps: float | None,
) -> bool:
    """Return whether a function that moves so much at one step has no slope at smaller ones."""
    resolved = _RESOLVED * floor / _norm(moved)
    of_point = _STEP_NOISE * wider_eps(x.dtype, eps) * float(x.abs().max()) / _scale(x)
    least = max(resolved * size, of_point)
    if least > size / 2:
        return False  # rounding hides what there is below
    factor = 2.0 ** math.floor(math.log2(size / least))
    least_moved = _take_difference(fn, x, _step(x, size / factor), value)
    if least_moved is None:
        return True
    return _norm(factor * least_moved - moved) > _STEPPED * _norm(moved)


def _take_difference(
    fn: Callable[[Tensor], Any], x: Tensor, step: Tensor, value: Tensor
) -> Tensor | None:
    """Return f(x + step) − f(x), or None where there is no such thing."""
    there = _try(lambda: fn(x + step))
    if there is None or there.shape != value.shape or not math.isfinite(largest(there)):
        return None
    return there.detach() - value


def _try(evaluate: Callable[[], Tensor]) -> Tensor | None:
    """Return what is evaluated at another point, or None: a function may raise anything there."""
    try:
        return evaluate()
    except Exception:
        return None


def _step(x: Tensor, size: float) -> Tensor:
    """Return a step, so many times a typical entry, as it is after rounding."""
    return _rounded_step(x, size * _scale(x) * direction(x))


def _rounded_step(x: Tensor, step: Tensor) -> Tensor:
    """Return what x + step adds to x after rounding."""
    return (x + step) - x


def _scale(x: Tensor) -> float:
    """Return the size of a typical entry that is not zero, or 1."""
    entries = x[x != 0].abs()
    return float(entries.median()) if entries.numel() else 1.0


def _smaller_step(dtype: torch.dtype, eps: float | None = None) -> float:
    """Return about √eps, a power of two."""
    return 2.0 ** math.floor(math.log2(wider_eps(dtype, eps)) / 2)


def _rounding(value: Tensor) -> float:
    return _NOISE * torch.finfo(value.dtype).eps * _norm(value)


def _norm(block: Tensor) -> float:
    return float(row_norms(block.detach().flatten()))
