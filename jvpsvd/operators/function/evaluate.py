"""The value of a function at a point, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor, nn
from torch.func import vjp

from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.operators.blocks import COMPLEX_FUNCTION
from jvpsvd.operators.environment.attention import differentiable_attention
from jvpsvd.operators.environment.batch_norm import differentiable_batch_norm
from jvpsvd.operators.environment.compilation import eager_execution
from jvpsvd.operators.environment.grouped_products import differentiable_grouped_products
from jvpsvd.operators.environment.placement import default_device, tensors_of_users
from jvpsvd.operators.environment.recurrence import differentiable_recurrence
from jvpsvd.operators.function.find_module import (
    buffer_states,
    find_nondeterministic_module,
    find_nonfinite_module,
)
from jvpsvd.operators.function.lower_precision import LowerPrecision, eps_of_tests, lowest
from jvpsvd.operators.function.modules import called_modules
from jvpsvd.operators.function.obstacles import evaluate_and_watch
from jvpsvd.operators.function.pytrees import OfVector, floating_tensors, refuse_without_entries
from jvpsvd.operators.function.random_draws import RandomDraws, find_other_value
from jvpsvd.operators.function.restoring import restored_attributes
from jvpsvd.operators.function.scripted import networks_of_scripted, weights_without_grad
from jvpsvd.operators.function.work import Work

P = ParamSpec("P")


def prepare(fn: Callable[[Tensor], Any], *, by_weights: bool = False) -> Callable[[Tensor], Any]:
    """Return fn as it is always evaluated: on a copy, with operations that have derivatives.

    The copy is for functions that change their argument in place, such as a network that begins
    with an in-place ReLU. What the networks keep of an evaluation is dropped. If fn
    calls `torch.autograd.grad` inside, as the score of an energy does, it is evaluated with an
    argument that requires grad.

    Args:
        fn: The function.
        by_weights: Whether its value is to be differentiated by weights as well.

    >>> score = lambda x: torch.autograd.grad((x**2).sum(), x, create_graph=True)[0]
    >>> prepare(score)(torch.ones(2))
    tensor([2., 2.])
    """
    scripted = () if by_weights else networks_of_scripted(fn)

    def evaluate(x: Tensor) -> Any:
        try:
            with weights_without_grad(scripted):
                return fn(x.clone())
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
        return _with_gradient(fn, x)

    return with_derivatives(evaluate, called_modules(fn))


def with_derivatives(fn: Callable[P, Any], networks: Sequence[nn.Module]) -> Callable[P, Any]:
    """Return fn with operations that have derivatives, which leaves nothing in the networks.

    >>> attend = nn.TransformerEncoderLayer(2, 1, 2).eval()
    >>> say = lambda *_: print(torch.backends.mha.get_fastpath_enabled())
    >>> hook = attend.register_forward_pre_hook(say)
    >>> with_derivatives(attend, [attend])(torch.ones(1, 1, 2)).shape
    False
    torch.Size([1, 1, 2])
    """
    device = default_device()

    @wraps(fn)
    def evaluate(*args: P.args, **kwargs: P.kwargs) -> Any:
        with (
            differentiable_attention(),
            differentiable_batch_norm(),
            differentiable_grouped_products(),
            differentiable_recurrence(),
            eager_execution(),
            tensors_of_users(device),
            restored_attributes(networks),
        ):
            return fn(*args, **kwargs)

    return evaluate


def _with_gradient(fn: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Return fn at a copy of x that requires grad, under the transforms of torch.func too."""
    try:
        return vjp(fn, x.clone())[0]
    except RuntimeError as error:
        if "requires_grad_()" not in str(error):
            raise
    # What calls `x.requires_grad_()` itself can be evaluated outside of the transforms only.
    with torch.inference_mode(False), torch.enable_grad():
        return fn(x.clone().requires_grad_())


def close(ours: Tensor, theirs: Tensor, floor: float = 0.0, eps: float | None = None) -> bool:
    """Return whether two evaluations of the same thing differ by no more than rounding.

    Compared on the scale of the largest finite entry, or of `floor` if that is larger; NaN and
    infinity must be at the same indices, and shape and dtype be the same. Rounding is that of the
    dtype, or `eps` if that is larger.

    >>> close(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0]))
    True
    >>> close(torch.tensor([1.0, 1e9]), torch.tensor([1.0, torch.inf]))
    False
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    floor = floor if math.isfinite(floor) else 0.0
    share = float(max(eps or 0.0, torch.finfo(ours.dtype).eps) ** 0.5)
    scale = largest(theirs)
    if math.isfinite(scale):
        return largest(ours - theirs) <= share * max(scale, floor)
    finite = theirs[torch.isfinite(theirs)]
    scale = max(finite.abs().max().item(), floor) if finite.numel() else floor
    return torch.allclose(ours, theirs, rtol=0, atol=share * scale, equal_nan=True)


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude of the entries, which is finite only if all are; 0 of none.

    >>> largest(torch.tensor([1.0, -3.0])), largest(torch.tensor([1.0, torch.nan]))
    (3.0, nan)
    """
    if not tensor.numel():
        return 0.0
    # In one pass, without the memory that `isfinite` and `abs` take.
    least, most = torch.aminmax(tensor.detach())
    return float(torch.maximum(-least, most))


def check_output(value: object) -> Tensor:
    """Return `value` if a Jacobian can be taken of it.

    Raises:
        ArgumentError: If it is not a dense, non-empty tensor of a real floating dtype.

    >>> check_output(torch.eye(2).to_sparse())
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the function returned a tensor in torch.sparse_coo; let it ...
    """
    if isinstance(value, Tensor):
        refuse_without_entries(value, "the function returned")
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"the function returned {type(value).__name__}, not a tensor; wrap it so that it "
            "returns the one tensor to differentiate"
        )
    if not value.is_floating_point() or value.numel() == 0:
        raise ArgumentError(
            f"the function returned a {value.dtype} tensor of shape {tuple(value.shape)}; a "
            "Jacobian needs a non-empty real floating output"
            f"{f'; {COMPLEX_FUNCTION}' if value.is_complex() else ''}"
        )
    return value


def stack_values(values: Sequence[Tensor]) -> Tensor:
    """Return the function's values at all points as one tensor.

    Raises:
        ArgumentError: If they are not of one shape, dtype and device; names the first that differs.

    >>> stack_values([torch.ones(2), torch.ones(3)])
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the function's value is torch.float32 (2,) on cpu at point 0 ...
    """
    first = values[0]
    for index, value in enumerate(values):
        if (value.shape, value.dtype, value.device) != (first.shape, first.dtype, first.device):
            raise ArgumentError(
                f"the function's value is {first.dtype} {tuple(first.shape)} on {first.device} at "
                f"point 0 of the batch and {value.dtype} {tuple(value.shape)} on {value.device} at "
                f"point {index}; give points where it is of one kind"
            )
    return torch.stack(list(values))


class Evaluated(NamedTuple):
    """The value of a function at a point, or at points, and what was seen of it at the first."""

    value: Tensor
    reads_numbers: bool
    """Whether fn makes Python numbers or NumPy arrays of any tensor."""
    runs_inference: bool | None
    """Whether a part of fn runs in inference mode; None where it cannot be watched."""
    work: Work | None
    """The work of an evaluation; None where it cannot be counted."""
    lower_precision: LowerPrecision | None
    """The lowest precision on the way to the value, if it is lower than the point's."""


def evaluate_at(
    fn: Callable[..., Any], of_vector: OfVector, point: Tensor, batch_dims: int
) -> Evaluated:
    """Return fn at the point, or at the points, checked."""
    evaluate, before = prepare(of_vector), buffer_states(fn)
    # Settings of the process are switched once for all points.
    first = point[0] if batch_dims else point
    with torch.no_grad(), differentiable_attention(), eager_execution():
        seen = evaluate_and_watch(evaluate, first)
        values = [check_output(seen.value)]
        values += [check_output(evaluate(z)) for z in (point[1:] if batch_dims else ())]
    refuse_changed_buffers(fn, before)
    value = (stack_values(values) if batch_dims else values[0]).detach()

    def find_module() -> str | None:
        points = zip(point if batch_dims else [point], values, strict=True)
        bad = next(z for z, v in points if not v.isfinite().all())
        return find_nonfinite_module(fn, lambda: evaluate(bad))

    check_value(point, value, batch_dims, find_module)
    lower_precision = lowest(seen.lower_precisions)
    eps = eps_of_tests(lower_precision, point.dtype)
    refuse_random(fn, lambda: evaluate(first), seen.value, seen.draws, eps)
    return Evaluated(value, seen.reads_numbers, seen.runs_inference, seen.work, lower_precision)


def fix_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Callable[[Any], Any]:
    """Return fn as a function of its first argument alone."""
    named = dict(kwargs or {})
    if not args and not named:
        return fn
    return lambda x: fn(x, *args, **named)


def check_value(
    point: Tensor, value: Tensor, dims: int, find_module: Callable[[], str | None] | None
) -> None:
    """Check that a value has a Jacobian at its point; `find_module` names the module at fault.

    Raises:
        ArgumentError: If dtype or device are not those of the point.
        NonFiniteError: If it holds NaN or infinity.
    """
    if value.dtype != point.dtype:
        raise ArgumentError(
            f"fn maps {point.dtype} to {value.dtype}; give x and the weights in the dtype that fn "
            "computes in, or let it return y.to(x.dtype)"
        )
    if value.device != point.device:
        raise ArgumentError(
            f"fn takes x on {point.device} to {value.device}, as a network over several devices "
            "may; let it return y.to(x.device)"
        )
    if not math.isfinite(largest(value)):
        module = find_module() if find_module else None
        raise NonFiniteError(
            f"the function's value at {_not_finite(value) if dims else 'the point'} holds NaN "
            + (f"or infinity, which {module} made first; " if module else "or infinity; ")
            + "check the input and the weights before taking derivatives"
        )


def _not_finite(values: Tensor) -> str:
    """Return in words at which points of a batch there is NaN or infinity."""
    finite = torch.isfinite(values).reshape(len(values), -1).all(1)
    bad = (~finite).nonzero().flatten().tolist()
    named = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
    return f"point{'s' if len(bad) > 1 else ''} {named} of the batch"


def refuse_changed_buffers(fn: object, before: Mapping[str, tuple[int, int]]) -> None:
    """Raise for a network whose buffers have changed in an evaluation.

    Args:
        fn: The function that calls it.
        before: What `buffer_states` returned before the evaluation.

    Raises:
        ArgumentError: Naming the module.

    >>> norm = nn.BatchNorm1d(2)
    >>> before, _ = buffer_states(norm), norm(torch.ones(3, 2))
    >>> refuse_changed_buffers(norm, before)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: module 'model' (BatchNorm1d) changes its buffers whenever it is ...
    """
    for name, state in buffer_states(fn).items():
        if state != before.get(name):
            raise ArgumentError(
                f"{name} changes its buffers whenever it is evaluated; call model.eval(), or take "
                "out what keeps state"
            )


def refuse_random(
    fn: object, run: Callable[[], Any], value: Any, draws: RandomDraws, eps: float | None = None
) -> None:
    """Raise for a function whose value depends on random numbers that it draws.

    Args:
        fn: The function whose modules are examined.
        run: Evaluates it.
        value: What it gave, of tensors.
        draws: What it drew for that.
        eps: Of a lower precision inside fn; None for that of the value.

    Raises:
        ArgumentError: If it does; names the module where it can be seen.

    >>> from jvpsvd.operators.function.random_draws import watch_draws
    >>> noisy, draws = lambda: torch.ones(2) + torch.rand(2), RandomDraws()
    >>> with watch_draws(draws):
    ...     value = noisy()
    >>> refuse_random(noisy, noisy, value, draws)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: fn gave two different values at the same point; it is random ...
    """
    if not draws.bear_on(value):
        return

    def is_same(other: Any) -> bool:
        ours, theirs = floating_tensors(value), floating_tensors(other)
        return len(ours) == len(theirs) and all(
            close(another, one, eps=eps) for one, another in zip(ours, theirs, strict=True)
        )

    with torch.no_grad():
        found = find_other_value(run, draws, is_same)
        if found is not None:
            module = find_nondeterministic_module(fn, found.first, found.second)
            raise ArgumentError(
                f"{module or 'fn'} gave two different values at the same point; it is random "
                f"(it draws numbers by {found.by}); call model.eval(), or take out what draws them"
            )


def refuse_nondeterministic(fn: Callable[..., Any], of_vector: OfVector, x: Tensor) -> None:
    """Raise for a function that gives two values at x, naming the module where it can be seen.

    Raises:
        ArgumentError: Always.
    """
    module = find_nondeterministic_module(fn, lambda: prepare(of_vector)(x))
    raise ArgumentError(
        f"{module or 'fn'} gave two different values at the same point; it is random, keeps "
        "state, or its weights have changed meanwhile; take that out, or keep it fixed"
    )
