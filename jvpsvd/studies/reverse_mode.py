"""How singular values are differentiated: once, by reverse mode. Whatever else is told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from jvpsvd.errors import ArgumentError, DerivativeError, JvpsvdError, TraceError
from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.batch_of_one import function_of_one
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.failures import first_line

_FORWARD = (
    "singular_values has no forward mode, which torch.func.jvp, jacfwd and hessian take, too: "
    "take its gradient by backward() or torch.autograd.grad"
)


def refuse_forward_mode(fn: Callable[[Tensor], Any], x: Tensor, batch_dims: int) -> None:
    """Refuse the transforms of torch that singular values cannot be taken under.

    A solve drops tangents, so what forward mode computes would lack a part in silence.

    Args:
        fn: The function; evaluated once where a level of forward mode is open, at the first point.
        x: The point, or the points of a batch.
        batch_dims: 1 if it holds many points.

    Raises:
        DerivativeError: Under forward mode of torch.func; if x or fn(x) has a tangent.
        TraceError: Likewise, where the function around it is recorded.
        ArgumentError: Under torch.vmap.

    >>> refuse_forward_mode(torch.sin, torch.ones(2), 0)
    >>> tangent = torch.ones(2)
    >>> torch.func.jvp(lambda x: refuse_forward_mode(torch.sin, x, 0), (tangent,), (tangent,))
    Traceback (most recent call last):
    jvpsvd.errors.DerivativeError: singular_values has no forward mode, ...
    """
    transforms = [each.key() for each in get_interpreter_stack() or ()]
    if TransformType.Jvp in transforms or _is_dual(x):
        if isinstance(_get_current_dispatch_mode(), DispatchMode):  # ours, of an operator around us
            raise TraceError(
                "cannot record the function: singular_values decides by values that depend on x"
            )
        raise DerivativeError(_FORWARD)
    if TransformType.Vmap in transforms:
        raise ArgumentError(
            "singular_values cannot be mapped by torch.vmap: give all points along the first "
            "dimension of x, with batch_dims=1; where other things than x differ, write a loop"
        )
    if torch.autograd.forward_ad._current_level >= 0 and _has_tangent(fn, x, batch_dims):
        raise DerivativeError(_FORWARD)


def _is_dual(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def _has_tangent(fn: Callable[[Tensor], Any], x: Tensor, batch_dims: int) -> bool:
    """Return whether fn makes a tangent at x, which has none: of a weight, say."""
    with suppress(Exception):  # of fn, which is told where its Jacobian is taken
        one = x[0] if batch_dims else x
        evaluate = prepare(function_of_one(fn, one) if batch_dims else fn)
        return any(map(_is_dual, tree_leaves(evaluate(one))))
    return False


def is_transformed() -> bool:
    """Return whether a transform of torch.func is at work.

    >>> is_transformed()
    False
    """
    return bool(get_interpreter_stack())


@contextmanager
def failures_of_transforms_named() -> Iterator[None]:
    """Say of what fails under a transform of torch.func that plain autograd may do it.

    Raises:
        DerivativeError: Under such a transform, from what torch raised.

    >>> def value(x):
    ...     with failures_of_transforms_named():
    ...         torch.ones(2).requires_grad_()
    >>> torch.func.grad(value)(torch.ones(2))
    Traceback (most recent call last):
    jvpsvd.errors.DerivativeError: singular_values cannot take fn under torch.func (RuntimeError...
    """
    try:
        yield
    except RuntimeError as error:  # a ModelError is one, from what torch raised
        cause = error.__cause__ if isinstance(error, JvpsvdError) else error
        if not is_transformed() or not isinstance(cause, RuntimeError):
            raise
        raise DerivativeError(
            f"singular_values cannot take fn under torch.func ({first_line(cause, 90)}); take the "
            "gradient by backward() or torch.autograd.grad, outside of transforms"
        ) from error


def differentiable_once(values: Tensor) -> Tensor:
    """Return values whose gradient cannot be differentiated: u and v are held in it.

    Raises:
        DerivativeError: When the gradient is differentiated, or the values in forward mode.

    >>> x = torch.ones(2, requires_grad=True)
    >>> (gradient,) = torch.autograd.grad(differentiable_once(x**2).sum(), x, create_graph=True)
    >>> torch.autograd.grad(gradient.sum(), x)
    Traceback (most recent call last):
    jvpsvd.errors.DerivativeError: singular_values has first derivatives alone, ...
    """
    same: Tensor = _OnceDifferentiable.apply(values)  # type: ignore[no-untyped-call]
    return same


class _OnceDifferentiable(torch.autograd.Function):
    """The identity, whose gradient is differentiated by what it is a multiple of alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Recorded under create_graph alone.
        zero: Tensor = _Refused.apply(*ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradient + zero

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        raise DerivativeError(_FORWARD)


class _Refused(torch.autograd.Function):
    """Zeros, with an error where they are differentiated by what the values depend on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return torch.zeros_like(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> Tensor:
        raise DerivativeError(
            "singular_values has first derivatives alone, since the gradient holds the singular "
            "vectors; take its differences, or differentiate torch.linalg.svdvals of a whole "
            "Jacobian twice"
        )
