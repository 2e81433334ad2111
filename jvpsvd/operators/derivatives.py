"""How the derivative of a function at a point is applied to a batch of directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.errors import AdjointError, ArgumentError
from jvpsvd.operators.admission import check_function
from jvpsvd.operators.arguments import dense_tensor
from jvpsvd.operators.attention import differentiable_attention
from jvpsvd.operators.blocks import COMPLEX_FUNCTION
from jvpsvd.operators.chunks import Chunk
from jvpsvd.operators.diagnosis import obstacles
from jvpsvd.operators.differences import direction, is_constant, refuse_hidden
from jvpsvd.operators.eager import eager_execution
from jvpsvd.operators.failures import failures_named, known_remedy, remedy_at
from jvpsvd.operators.placement import tensors_of_users
from jvpsvd.operators.restoring import called_modules, restored_attributes
from jvpsvd.operators.trees import refuse_without_entries

# Sides that differ by less than this may do so by rounding, where f loses most digits.
_ROUNDING_SHARE = 0.05


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


def by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True) -> LinearMap:
    """Return the derivative of fn at x by the transforms of torch.func.

    The reverse side is ``vmap(vjp)``: fn is evaluated once and its activations are kept. The
    forward side is ``vmap(jvp)``, which evaluates fn again for each batch (once a batch, not once a
    vector); where an operation of fn has no forward mode, or fn looks at its values, it is two
    reverse passes, J v = ∂/∂u ⟨J' u, v⟩. `jvpsvd.operators.Trace` evaluates fn once for both sides.

    Args:
        fn: The function.
        x: The point.
        check: Compare the two sides on one pair of directions, and products that vanish with
            differences of fn.

    Raises:
        ArgumentError: If fn has neither forward mode nor a second reverse pass.
        ModelError: If fn fails at x.
        AdjointError: If the two sides are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.

    >>> J = by_transforms(torch.sin, torch.zeros(2))
    >>> J.push(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_function(fn)
    x = dense_tensor("the point x", x).detach()
    with failures_named("fn", partial(remedy_at, fn, x)):
        try:
            return _by_transforms(prepared(fn), x, check)
        except RuntimeError:
            with torch.no_grad():
                check_output(prepared(fn)(x))  # under vjp a nested tensor does not look like one
            raise


def _by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, check: bool) -> LinearMap:
    elsewhere = partial(by_transforms, fn, check=False)
    value, pull = vjp(lambda z: check_output(fn(z)), x)[:2]

    def pull_one(u: Tensor) -> Tensor:
        cotangent: Tensor = pull(u)[0]
        return cotangent

    value = value.detach()
    J = LinearMap(
        point=x,
        value=value,
        push=_forward_side(fn, x, value, pull_one, check),
        pull=refused_once_changed(fn, x, value, vmap(pull_one)),
        at=elsewhere,
    )
    if check:
        image = J.push(direction(x)[None])[0]
        refuse_hidden(fn, x, value, image, lambda z: by_transforms(fn, z, check=False).push)
    return J


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
    if not agree(again, value):
        raise ArgumentError(
            "fn gives another value than when this derivative was taken: the weights have changed "
            "since, it is random, or it computes under autocast; take the derivative again"
        )


def _forward_side(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    pull_one: Callable[[Tensor], Tensor],
    check: bool,
) -> Callable[[Tensor], Tensor]:
    """Return the first way of taking J v that works on a block."""
    out_dims: Any = (None, 0)  # the value does not depend on the direction
    over_directions = vmap(partial(_value_and_tangent, fn, x), out_dims=out_dims)
    over_cotangents = without_grad(vmap(pull_one))  # the reverse side as it will be used

    def push(block: Tensor) -> Tensor:
        with torch.no_grad():
            again, images = over_directions(block)
        _refuse_another(again, value)
        return images

    reasons = []
    v, u = direction(x), direction(value)
    try:
        image = push(v[None])[0]
    except ArgumentError:
        raise
    except Exception as error:  # torch raises what the operation at fault raises
        reasons.append(str(error))
    else:
        if check:
            coimage = over_cotangents(u[None])[0]
            refuse_unequal_sides(v, image, u, coimage, fn, x)
        return push
    try:
        pull_again = vjp(pull_one, torch.zeros_like(value))[1]
        push_again = refused_once_changed(fn, x, value, vmap(lambda v: pull_again(v)[0]))
        v = over_cotangents(u[None])[0]  # J v = 0 only where J' u is
        refuse_unequal_sides(v, push_again(v[None])[0], u, v)
    except AdjointError:
        reasons.append("its backward cannot be differentiated")
    except Exception as error:
        reasons.append(str(error))
    else:
        return push_again
    raise without_derivative(forward=reasons[0], reverse=reasons[1])


def _value_and_tangent(
    fn: Callable[[Tensor], Tensor], x: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    value, tangent = jvp(fn, (x,), (v,))[:2]
    return value, tangent


def without_derivative(reverse: str, forward: str | None = None) -> ArgumentError:
    """Return the error that says why J v cannot be had.

    Args:
        reverse: Why there is no second reverse pass.
        forward: Why there is no forward mode; None where that was not the question.

    >>> str(without_derivative("sort has no derivative"))
    'fn has no second reverse pass (sort has no derivative); replace the operation that is named'
    """
    second = " ".join(reverse.split())[:200]
    lacking = f"no second reverse pass ({second})"
    if forward is not None:
        first = " ".join(forward.split())[:200]
        lacking = f"neither forward mode ({first}) nor a second reverse pass ({second})"
    remedy = known_remedy(reverse) or "replace the operation that is named"
    return ArgumentError(f"fn has {lacking}; {remedy}")


def refuse_unequal_sides(
    v: Tensor,
    image: Tensor,
    u: Tensor,
    coimage: Tensor,
    fn: Callable[[Tensor], Tensor] | None = None,
    x: Tensor | None = None,
) -> None:
    """Check ⟨J v, u⟩ = ⟨v, J' u⟩ for one pair of directions.

    A backward pass written by hand may be no adjoint; differentiated again, one that is no
    function of u for torch leaves J v = 0. Forward mode looks through torch.no_grad, reverse mode
    does not.

    Args:
        v: A tangent.
        image: J v.
        u: A cotangent.
        coimage: J' u.
        fn: The function, in which the cause is looked for.
        x: The point.

    Raises:
        AdjointError: If the two differ by more than rounding.

    >>> v = torch.ones(2)
    >>> refuse_unequal_sides(v, image=2 * v, u=v, coimage=2 * v)
    """
    forward, reverse = (image * u).sum(), (v * coimage).sum()
    scale = max(image.norm() * u.norm(), v.norm() * coimage.norm())
    # NaN passes: a product that is not finite is an error of its own.
    if (forward - reverse).abs() > torch.finfo(u.dtype).eps ** 0.5 * scale:
        if fn is not None and x is not None and is_constant(fn, x, scale / u.norm()):
            return  # a derivative that is rounding, such as that of a sum of softmax values
        # What both sides stop at, a detach, cannot make them differ.
        seen = [] if fn is None or x is None else obstacles(fn, x)
        found = [cause for cause in seen if cause.startswith(("torch.", "autocast"))]
        remedy = f"take {' and '.join(found)} out of fn, or " if found else ""
        if (forward - reverse).abs() < _ROUNDING_SHARE * scale and u.dtype != torch.float64:
            remedy += "use float64, should this be rounding, or "
        raise AdjointError(
            f"forward and reverse derivative are not of one matrix: <J v, u> = {forward:.6g}, "
            f"<v, J' u> = {reverse:.6g}; {remedy}check the backward and jvp of custom functions, "
            "and hooks on gradients"
        )


def prepared(fn: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Return fn as it is evaluated everywhere: on a copy, with operations that have derivatives.

    The copy is for functions that change their argument in place, such as a network that begins
    with an in-place ReLU. What the networks that it calls keep of an evaluation is dropped. If fn
    calls `torch.autograd.grad` inside, as the score of an energy does, it is evaluated with an
    argument that requires grad.

    >>> score = lambda x: torch.autograd.grad((x**2).sum(), x, create_graph=True)[0]
    >>> prepared(score)(torch.ones(2))
    tensor([2., 2.])
    """
    networks, device = called_modules(fn), torch.get_default_device()

    def evaluate(x: Tensor) -> Any:
        with (
            differentiable_attention(),
            eager_execution(),
            tensors_of_users(device),
            restored_attributes(networks),
        ):
            try:
                return fn(x.clone())
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
            return _with_gradient(fn, x)

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


def agree(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> bool:
    """Return whether two evaluations of the same thing differ by no more than rounding.

    Compared on the scale of the largest finite entry, or of `floor` if that is larger; NaN and
    infinity must stand in the same places, and shape and dtype be the same.

    >>> agree(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0]))
    True
    >>> agree(torch.tensor([1.0, 1e9]), torch.tensor([1.0, torch.inf]))
    False
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    finite = theirs[torch.isfinite(theirs)]
    scale = max(finite.abs().max().item(), floor) if finite.numel() else floor
    tolerance = torch.finfo(ours.dtype).eps ** 0.5 * scale
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True)


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
