"""Products held against differences of the function itself.

What automatic differentiation cannot see of a function (a part under torch.inference_mode, NumPy, a
kernel without a derivative) is zero to it. The function knows better: it moves with its argument.
With steps d and d/8, let e(d) = f(x + d) − f(x) − J d be the motion that products do not explain.

- Curvature leaves e ~ |d|², rounding leaves noise, and a kink or a jump near x leaves neither; only
  what J lacks leaves e(d) = 8 e(d/8).
- A kink at x itself, such as ReLU at 0, leaves it too. Beside x there is none, so that the motion
  from x + d/8 to x + d is compared with the products at these two points.
- A step function (round, sign, argmax, quantised activations) moves over many of its steps as if it
  had a slope. Its derivative is zero all the same: a third step is as small as rounding lets it be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jvpsvd.errors import DerivativeError
from jvpsvd.operators.diagnosis import obstacles

Apply = Callable[[Tensor], Tensor]
"""Takes tangents (b, *x.shape) to J v."""

# Chosen by benchmarks/derivative_check.py. The larger step over the smaller, and how far from
# proportional, as a share of itself, motion may be.
_RATIO, _PROPORTIONAL = 8, 0.25
# Motion is resolved above so many roundings of f(x), and steps above so many of x.
_NOISE, _STEP_NOISE = 8, 64
# Products vanish, or differ from the motion, where they are or lack such a share of it.
_VANISHING, _DIFFERING = 1e-3, 2e-2
# Products that are so much longer are those of a function that varies within a step, sin(1e5 x).
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
    """Its length over that of the whole motion."""
    step: float
    """Length of the step over that of the point, or over 1 at the origin."""
    motion: float
    """Length of f(x + step) − f(x)."""
    vanishing: bool
    """Whether products vanish, and no step is so small that the function does not move."""


def direction(like: Tensor) -> Tensor:
    """Return a direction without symmetry, the same at every call; no random state is touched."""
    angles = torch.arange(like.numel(), dtype=torch.float64, device="cpu").mul_(0.7)
    return angles.cos().to(like.device, like.dtype).reshape(like.shape)


def refuse_hidden(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    value: Tensor,
    image: Tensor,
    at: Callable[[Tensor], Apply],
) -> None:
    """Refuse products that vanish although the function moves in proportion to the step.

    Nothing is evaluated where they do not vanish.

    Args:
        fn: The function as it is evaluated everywhere (see `prepared`).
        x: The point.
        value: f(x).
        image: J v for v = direction(x).
        at: Returns the products at a point.

    Raises:
        DerivativeError: If they do.

    >>> hidden = torch.inference_mode()(torch.sin)
    >>> zero = lambda x: torch.zeros_like
    >>> refuse_hidden(hidden, torch.ones(2), torch.ones(2), torch.zeros(2), zero)
    Traceback (most recent call last):
    jvpsvd.errors.DerivativeError: products vanish at this point although fn moves in proportion ...
    >>> refuse_hidden(torch.round, torch.ones(2), torch.ones(2), torch.zeros(2), zero)
    """
    predicted = _smaller_step(x.dtype) * _scale(x) * _length(image)
    if predicted > _rounding(value):
        return
    least = _smaller_step(x.dtype)
    # Rounding of f(x) may hide the motion at small steps.
    sizes = sorted({least, *(max(_WIDER * least, wide) for wide in _WIDE)})
    products = at(x)
    with torch.no_grad():
        here = fn(x).detach()  # a recorded value differs by rounding
    each = (unexplained(fn, x, products, at, here, size) for size in sizes)
    found = next((one for one in each if one is not None), None)
    if found is None or not found.vanishing:
        return
    seen = obstacles(fn, x)
    if not seen:
        seen.append("a kernel or custom function without a derivative")
    raise DerivativeError(
        f"products vanish at this point although fn moves in proportion to the step (by "
        f"{found.motion:.1e} at a step of {found.step:.1e} |x|): its derivative is hidden by "
        f"{' or '.join(seen)}; compute it with operations that torch can differentiate"
    )


def refuse_inference(fn: Callable[[Tensor], Any], x: Tensor, at: Callable[[Tensor], Apply]) -> None:
    """Refuse the products of a function that computes a part of its motion in inference mode.

    Args:
        fn: The function as it is evaluated everywhere (see `prepared`).
        x: The point.
        at: Returns the products at a point.

    Raises:
        DerivativeError: If it does.
    """
    if "torch.inference_mode" in obstacles(fn, x):
        difference_in_words(fn, x, at(x), at)


def difference_in_words(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    products: Apply,
    at: Callable[[Tensor], Apply],
    value: Tensor | None = None,
) -> str | None:
    """Return how products differ from differences of the function; None where they do not.

    Args:
        fn: The function as it is evaluated everywhere (see `prepared`).
        x: The point.
        products: Those at x.
        at: Returns the products at another point.
        value: f(x), if known.

    Raises:
        DerivativeError: If they do, and a part of fn runs under torch.inference_mode: nobody means
            that.

    >>> fn = lambda x: x + x.detach()
    >>> in_words = difference_in_words(fn, torch.ones(2), lambda v: v, lambda x: lambda v: v)
    >>> in_words.split(";")[0]
    'products explain only a part of how fn moves (50 % is missing)'
    """
    found = unexplained(fn, x, products, at, value)
    if found is None:
        return None
    seen = obstacles(fn, x)
    if found.share < 1.005:
        said = (
            f"products explain only a part of how fn moves ({100 * found.share:.0f} % is missing)"
        )
    else:
        said = (
            "products do not explain how fn moves (they differ from the motion by "
            f"{found.share:.1f} times its length)"
        )
    if "torch.inference_mode" in seen:
        raise DerivativeError(
            f"{said}: torch.inference_mode hides the derivative of what it computes; take it out, "
            "or detach what is to be held fixed"
        )
    goes = f"fn goes through {' and '.join(seen)}" if seen else "no cause was seen"
    return (
        f"{said}; this is meant where it has a detach, a straight-through estimator, a custom "
        f"backward or a part under torch.no_grad, and an error elsewhere ({goes})"
    )


def is_constant(fn: Callable[[Tensor], Any], x: Tensor, image: Tensor) -> bool:
    """Return whether f and its products stand still to rounding, at small steps and at large ones.

    Args:
        fn: The function as it is evaluated everywhere (see `prepared`).
        x: The point.
        image: Length of the longest product J v of a v of about length |direction(x)|.

    >>> is_constant(lambda x: x.softmax(-1).sum(), torch.ones(3), torch.tensor(1e-8))
    True
    >>> is_constant(torch.sin, torch.ones(3), torch.tensor(1e-8))
    False
    """
    size = _smaller_step(x.dtype)
    with torch.no_grad():
        value = fn(x)
        if float(image) * min(_scale(x), 1.0) > torch.finfo(x.dtype).eps ** 0.5 * _length(value):
            return False
        moved = [_moved(fn, x, _step(x, h), value) for h in (_RATIO * size, size, _LARGE)]
    far, near, large = moved
    if far is None or near is None or large is None or _is_slope(far, near, 0.0, _rounding(value)):
        return False
    noise = _NOISE * max(_rounding(value), _length(far), _length(near))
    return _length(large) <= max(noise, float(torch.finfo(x.dtype).eps ** 0.75) * _length(value))


def unexplained(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    products: Apply,
    at: Callable[[Tensor], Apply],
    value: Tensor | None = None,
    size: float | None = None,
) -> Unexplained | None:
    """Return the motion in proportion to the step that products do not explain, if there is any.

    Two evaluations and two products; where these differ, products at two moved points, and
    another evaluation if they vanish. A function that cannot be evaluated nearby shows nothing.

    Args:
        fn: The function as it is evaluated everywhere (see `prepared`).
        x: The point.
        products: Those at x.
        at: Returns the products at another point.
        value: f(x), if known.
        size: The smaller step as a share of a typical entry of x; None for about √eps.
    """
    with torch.no_grad():
        size = size or _smaller_step(x.dtype)
        larger, smaller = _step(x, _RATIO * size), _step(x, size)
        value = fn(x).detach() if value is None else value
        far, near = _moved(fn, x, larger, value), _moved(fn, x, smaller, value)
        if far is None or near is None:
            return None
        far_part, near_part = (products(step[None])[0] for step in (larger, smaller))
        least = _DIFFERING * _length(far)
        if not _is_slope(far - far_part, near - near_part, least, _rounding(value)):
            return None
        between, along = far - near, (larger - smaller)[None]
        length, lacking, explained = _length(between), math.inf, _length(far_part)
        for step in (smaller, larger):  # either may have just passed a kink
            part = _elsewhere(lambda step=step: at((x + step).detach())(along)[0])  # type: ignore[misc]
            if part is None:
                return None
            lacking = min(lacking, _length(between - part))
            explained = max(explained, _length(part))
        if not max(_DIFFERING * length, _rounding(value)) < lacking < _FINER * length:
            return None
        vanishing = explained <= _VANISHING * length and not _has_steps(fn, x, value, near, size)
        return Unexplained(
            share=lacking / length,
            step=_length(larger) / (_length(x) or 1.0),
            motion=_length(far),
            vanishing=vanishing,
        )


def _is_slope(larger: Tensor, smaller: Tensor, least: float, floor: float) -> bool:
    """Return whether motion of at least this length is in proportion to the step."""
    length = _length(larger)
    off = _length(larger - _RATIO * smaller)
    return length > least and _length(smaller) > floor and off <= _PROPORTIONAL * length


def _has_steps(
    fn: Callable[[Tensor], Any], x: Tensor, value: Tensor, moved: Tensor, size: float
) -> bool:
    """Return whether a function that moves so at this step has no slope at smaller ones."""
    resolved = _RESOLVED * _rounding(value) / _length(moved)
    of_point = _STEP_NOISE * torch.finfo(x.dtype).eps * float(x.abs().max()) / _scale(x)
    least = max(resolved * size, of_point)
    if least > size / 2:
        return False  # rounding hides what there is below
    factor = 2.0 ** math.floor(math.log2(size / least))
    least_moved = _moved(fn, x, _step(x, size / factor), value)
    if least_moved is None:
        return True
    return _length(factor * least_moved - moved) > _STEPPED * _length(moved)


def _moved(fn: Callable[[Tensor], Any], x: Tensor, step: Tensor, value: Tensor) -> Tensor | None:
    """Return f(x + step) − f(x), or None where there is no such thing."""
    there = _elsewhere(lambda: fn(x + step))
    if there is None or there.shape != value.shape or not torch.isfinite(there).all():
        return None
    return there.detach() - value


def _elsewhere(work: Callable[[], Tensor]) -> Tensor | None:
    """Return what is worked out at another point, or None: a function may raise anything there."""
    try:
        return work()
    except Exception:
        return None


def _step(x: Tensor, size: float) -> Tensor:
    """Return what x + step adds to x after rounding."""
    return (x + size * _scale(x) * direction(x)) - x


def _scale(x: Tensor) -> float:
    """Return the size of a typical entry that is not zero, or 1."""
    entries = x[x != 0].abs()
    return float(entries.median()) if entries.numel() else 1.0


def _smaller_step(dtype: torch.dtype) -> float:
    """Return about √eps, a power of two."""
    return 2.0 ** math.floor(math.log2(torch.finfo(dtype).eps) / 2)


def _rounding(value: Tensor) -> float:
    return _NOISE * torch.finfo(value.dtype).eps * _length(value)


def _length(block: Tensor) -> float:
    return float(torch.linalg.vector_norm(block.detach(), dtype=torch.float64))
