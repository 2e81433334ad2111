"""Verify that a recording, replayed, gives what the function and torch.func give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from jvpsvd.errors import TraceError
from jvpsvd.operators.derivatives.adjointness import check_adjoint
from jvpsvd.operators.derivatives.batched_map import BatchedMap
from jvpsvd.operators.derivatives.differences import (
    direction,
    output_direction,
    probe_block,
    refuse_hidden,
)
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.function.evaluate import close
from jvpsvd.operators.function.find_module import find_nonfinite_derivative
from jvpsvd.operators.function.lower_precision import wider_eps
from jvpsvd.operators.recording.graphs import AtPoint, AtPoints, Recording
from jvpsvd.operators.recording.outputs import Outputs, Products
from jvpsvd.scaling import row_norms

# Largest share of entries of what a derivative needs that may differ, where rounding moves a unit
# across its kink: a guess.
_AT_KINKS = 0.01
# What to do, in messages: at the point of the recording, and at another one.
_TAKE_OUT = "take out what is random or keeps state; if nothing is, report a bug of jvpsvd"
_CHOOSE = (
    "it decides by values of its input, or keeps constants of it: choose with torch.where, or "
    "record it there anew"
)


def verify_replay(
    recording: Recording,
    outputs: Outputs,
    example: Tensor,
    products: Products,
    *,
    check: bool,
    eps: float | None = None,
) -> AtPoint:
    """Return what a recording gives at the example, if that is what torch.func gives there.

    Args:
        recording: Is verified.
        outputs: The function that was recorded.
        example: The point.
        products: Values, and products with `direction` of each, as torch.func computed them.
        check: Whether to compare one JVP with one VJP, and products that vanish with differences.
        eps: Of a lower precision inside fn; None for that of each tensor.

    Raises:
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: If it gives something else.
    """
    there = recording.evaluate(example.clone())
    maps = recording.maps(there)
    probes, us = probe_block(example), [output_direction(m.value) for m in maps]
    v = probes[1]
    values, jvps, vjps = products
    compare_values([m.value for m in maps], values, advice=_TAKE_OUT, eps=eps)
    probed = []
    for index, (m, u) in enumerate(zip(maps, us, strict=True)):
        least = _rounding_of(values[index])
        images, adjoint_products = m.jvp(probes), m.vjp(_twice(u))
        probed.append(images)
        same = close(images[1], jvps[index], least, eps) and (
            close(adjoint_products, _twice(vjps[index]), least, eps)
            or close(adjoint_products, outputs.compute_vjps(index, example, _twice(u)), least, eps)
        )
        if not same:
            if not all(bool(each.isfinite().all()) for each in (jvps[index], vjps[index])):
                raise TraceError(_describe_nonfinite(outputs, index, example))
            raise TraceError(
                f"the recorded derivative of output {index} is not the function's own; {_TAKE_OUT}"
            )
        if check:
            check_adjoint(v, images[1], u, adjoint_products[0], outputs.select(index), example)
            refuse_hidden_output(outputs, index, example, values[index], jvps[index])
        _refuse_mixed_block(probes, images, u, adjoint_products[0], least, eps)
    return replace(there, probed=tuple(probed))


def _describe_nonfinite(outputs: Outputs, index: int, x: Tensor) -> str:
    """Return what makes NaN or infinity of a derivative, and what to do."""
    found = None
    with suppress(Exception):  # which module it is cannot be seen
        found = find_nonfinite_derivative(outputs.fn, outputs.select(index), x.clone())
    return (
        f"the derivative of output {index} holds NaN or infinity at this point"
        f"{f', made by {found}' if found else ''}, so that its recording cannot be compared with "
        "it; move the point away from there, or give what makes it another argument there, "
        "chosen by torch.where"
    )


def _refuse_mixed_block(
    probes: Tensor,
    images: Tensor,
    u: Tensor,
    adjoint_product: Tensor,
    least: float,
    eps: float | None,
) -> None:
    """Refuse a product that is right for the last direction of a block and not for the first.

    The first has no product by torch.func to compare with; ⟨J v, u⟩ = ⟨v, J' u⟩ holds for it if it
    does for the last.
    """
    images, probes = images.reshape(2, -1), probes.reshape(2, -1)
    off = (images @ u.flatten() - probes @ adjoint_product.flatten()).abs()
    norm_u, norm_product = (row_norms(block.flatten()) for block in (u, adjoint_product))
    scale = torch.maximum(row_norms(images) * norm_u, row_norms(probes) * norm_product)
    kind = torch.finfo(u.dtype)
    least = max(least, kind.tiny / kind.eps)  # smaller products have few digits, or none
    tolerance = wider_eps(u.dtype, eps) ** 0.5 * scale.clamp(min=least * float(norm_u))
    first, last = (off > tolerance).tolist()
    if first and not last:
        raise TraceError(
            "the recorded derivative mixes the directions of a block, a bug of jvpsvd or torch; "
            "report it with the function"
        )


def verify_recording_at_many(
    recording: Recording, there: AtPoints, maps: Sequence[BatchedMap], eps: float | None = None
) -> None:
    """Check that a recording gives the same at the first and the last point together and alone.

    Many points round in another way than one, and where that moves a unit across a kink (ReLU, a
    maximum), its slope is another one. The two derivatives then differ by more than rounding,
    although both are right. So values and slopes are compared apart from products: all but a few
    must be those of the point alone, and products those of the same slopes.

    Raises:
        TraceError: If they are not.
    """
    at = recording.at

    def of_same_slopes(index: int) -> Sequence[LinearMap]:
        own, same = recording.evaluate(there.X[index].clone()), there.at(index)
        compare_values(same.values, own.values, eps=eps)
        for ours, theirs in zip(same.kept, own.kept, strict=True):
            if not _mostly_equal(ours, theirs, eps):
                raise TraceError("what the derivative needs comes out differently")
        return recording.maps(same)

    verify_points_together(at, there.X, maps, eps, of_same_slopes)


def verify_points_together(
    at: Callable[[Tensor], Sequence[LinearMap]],
    X: Tensor,
    maps: Sequence[BatchedMap],
    eps: float | None,
    of_same_slopes: Callable[[int], Sequence[LinearMap]] | None = None,
) -> None:
    """Check that products at the first and the last point together are those of each on its own.

    Args:
        at: Returns the derivative of each output at one point.
        X: The points.
        maps: The derivatives of each output at all of them.
        eps: Of a lower precision inside; None for that of each tensor.
        of_same_slopes: Returns the derivatives at the point of an index, with the slopes that were
            computed for all points together; None where they are not known.

    Raises:
        TraceError: If they are not.
    """
    ends = torch.tensor([0, len(X) - 1], device="cpu")
    try:
        _compare_products(ends, [at(X[point].clone()) for point in ends.tolist()], X, maps, eps)
    except TraceError:
        if of_same_slopes is None:
            raise
        _compare_products(ends, [of_same_slopes(point) for point in ends.tolist()], X, maps, eps)


def _compare_products(
    ends: Tensor,
    singles: Sequence[Sequence[LinearMap]],
    X: Tensor,
    maps: Sequence[BatchedMap],
    eps: float | None,
) -> None:
    for index, both in enumerate(m.select(ends) for m in maps):
        v, u = _twice(direction(X[0])), _twice(output_direction(both.value[0]))
        jvps = both.jvp(v.expand(2, *v.shape), chunk=4)
        vjps = both.vjp(u.expand(2, *u.shape), chunk=4)
        for point, single in enumerate(singles):
            one = single[index]
            least = _rounding_of(one.value)
            same = close(jvps[point], one.jvp(v), least, eps)
            if not (same and close(vjps[point], one.vjp(u), least, eps)):
                raise TraceError(f"the derivative of output {index} comes out differently")


def compare_values(
    recorded: Sequence[Tensor],
    actual: Sequence[Tensor],
    where: str = "this point",
    advice: str = _CHOOSE,
    eps: float | None = None,
) -> None:
    """Check that a recording and the function itself have the same values.

    Args:
        recorded: The values of the recording.
        actual: Those of the function.
        where: The point, for the message.
        advice: What to do if they differ, for the message.
        eps: Of a lower precision inside; None for that of each tensor.

    Raises:
        TraceError: If they have not.

    >>> compare_values([torch.ones(1)], [torch.zeros(1)])
    Traceback (most recent call last):
    jvpsvd.errors.TraceError: output 0 of the function differs from its recording at this point; ...
    """
    for index, (ours, theirs) in enumerate(zip(recorded, actual, strict=True)):
        if not close(ours, theirs, eps=eps):
            raise TraceError(
                f"output {index} of the function differs from its recording at {where}; {advice}"
            )


def refuse_hidden_output(
    outputs: Outputs, index: int, x: Tensor, value: Tensor, image: Tensor
) -> None:
    """Refuse products of an output that vanish where they should not, from f(x) and J v.

    Raises:
        DerivativeError: If they do.
    """
    fn = outputs.select(index)
    refuse_hidden(fn, x, value, image, lambda z: by_transforms(fn, z, check=False).jvp)


def _mostly_equal(ours: Tensor, theirs: Tensor, eps: float | None) -> bool:
    """Tell whether all but a few entries of what a derivative needs are the same, but rounding."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    differ = ours != theirs
    if ours.is_floating_point() and ours.numel():
        rounding = wider_eps(ours.dtype, eps) ** 0.5 * theirs.abs().max()
        differ = ~((ours - theirs).abs() <= rounding)
    return not ours.numel() or float(differ.double().mean()) <= _AT_KINKS


def _twice(direction: Tensor) -> Tensor:
    """Return a block of a direction and its double."""
    return torch.stack([direction, 2 * direction])


def _rounding_of(value: Tensor) -> float:
    """Return the scale below which a derivative is rounding error: it vanishes."""
    return float(torch.finfo(value.dtype).eps ** 0.5 * value.detach().abs().max())
