"""Directions in the input: inside a singular space, orthogonal to it, random, adversarial.

Random directions are orthogonal to each other, and each is uniformly distributed in its space. To
compare tangent with normal directions, draw both at random, because the first singular vector is no
typical tangent direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jvpsvd.arguments import generator_of, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.coordinates import random_space
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.results import Vectors, right_vectors
from jvpsvd.operators import check_function, failures_named, full_precision, restored
from jvpsvd.operators.function.evaluate import check_output, prepare
from jvpsvd.operators.function.failures import remedy_at
from jvpsvd.svd.kernels.orthogonalize import orthonormality, random_columns

Function = Callable[[Tensor], Any]

# Largest entry of |V'V − I| that two projections reduce to rounding.
_ORTHONORMAL = 1e-3


def tangent_directions(basis: Vectors, count: int, *, mixed: bool = True, seed: int = 0) -> Tensor:
    """Return `count` orthonormal directions (n, count) inside the space of the top k vectors.

    Args:
        basis: A result of `svds`, whose right vectors are used, or k orthonormal columns (n, k).
        count: Number of directions, at most k.
        mixed: Return random combinations, uniformly distributed in the space, which can be compared
            with `normal_directions`. False: the first columns themselves.
        seed: Seed of the combinations.

    Raises:
        ArgumentError: If the basis is not orthonormal, or has fewer columns.

    >>> tangent_directions(torch.eye(3), 1, mixed=False)
    tensor([[1.],
            [0.],
            [0.]])
    """
    V = _orthonormal(basis)
    count = whole_number("count", count, 1, V.shape[1], "the vectors of the basis")
    return V @ random_space(V.shape[1], count, seed).to(V) if mixed else V[:, :count]


def normal_directions(basis: Vectors, count: int, *, seed: int = 0) -> Tensor:
    """Return `count` random orthonormal directions (n, count) orthogonal to the top k vectors.

    Args:
        basis: As in `tangent_directions`.
        count: Number of directions, at most n − k.
        seed: Seed of the random draws.

    Raises:
        ArgumentError: If the basis is not orthonormal, or leaves fewer directions.

    >>> normal_directions(torch.eye(3)[:, :2], 1).abs()
    tensor([[0.],
            [0.],
            [1.]])
    """
    V = _orthonormal(basis)
    n, k = V.shape
    if k >= n:
        raise ArgumentError(f"the basis spans all of R^{n}; give k < n vectors, so that any remain")
    count = whole_number("count", count, 1, n - k, "n - k")
    return random_columns(V, count, generator_of(seed))


def random_directions(n: int, count: int, *, seed: int = 0) -> Tensor:
    """Return `count` random orthonormal directions (n, count), float64, from `random_space`.

    Raises:
        ArgumentError: Unless 1 ≤ count ≤ n.

    >>> random_directions(5, 2).shape
    torch.Size([5, 2])
    """
    return random_space(n, whole_number("count", count, 1, n, "n"), seed)


def adversarial_direction(
    fn: Function, x: Tensor, *, label: int | None = None, sign: bool = False
) -> Tensor:
    """Return the unit direction (n, 1) in which the cross entropy of the class grows fastest.

    The loss used is log Σ_{c≠y} exp z_c − z_y. Its gradient is parallel to that of the cross
    entropy, and does not vanish where the softmax is saturated.

    Source: C. Szegedy et al., "Intriguing properties of neural networks", 2014; for sign=True,
    I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", 2015.

    Args:
        fn: x → logits z, or several outputs; the last output are then the logits.
        x: The point: one input. A network that takes batches is given a batch of one.
        label: The class y; None: the class of the largest logit.
        sign: Return the signs of the gradient, scaled to norm 1, instead of the gradient.

    Raises:
        ArgumentError: If there are fewer than two logits, y is no class, or the gradient is 0 or
            not finite; if x holds several inputs, with logits for each; if an output is named
            "logits" and is not the last.

    >>> flat = adversarial_direction(lambda x: torch.stack([3 * x[0], 4 * x[1]]), torch.ones(2))
    >>> flat.T
    tensor([[ 0.6000, -0.8000]])
    """
    check_point(x)
    check_function(fn)
    named = failures_named("fn", partial(remedy_at, fn, x))
    with restored(fn, x.device), named, full_precision(), torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        output = list(named_outputs(prepare(fn)(z)).values())[-1]
        if output.ndim > 1 and len(output) > 1 and output.shape[:1] == x.shape[:1]:
            raise ArgumentError(
                f"x holds {len(x)} inputs, of which fn returns logits {tuple(output.shape)}; give "
                "one at a time, as x[i : i + 1]"
            )
        logits = output.flatten().double()
        if len(logits) < 2:
            raise ArgumentError("fn has one logit; an adversarial direction needs two classes")
        y = int(logits.argmax()) if label is None else label
        y = whole_number("label", y, 0, len(logits) - 1, "the last class")
        others = torch.cat([logits[:y], logits[y + 1 :]])
        loss = others.logsumexp(0) - logits[y]
        if not loss.requires_grad:
            raise ArgumentError("the logits do not depend on x; fn must be differentiable there")
        gradient = _gradient(loss, z)
    if gradient is None or not gradient.any():
        raise ArgumentError("the gradient of the loss at x is 0 and has no direction")
    wide = real_tensor("gradient", gradient).double().reshape(-1, 1)
    wide = wide.sign() if sign else wide / wide.abs().max()
    unit: Tensor = wide / torch.linalg.vector_norm(wide)
    return unit.to(x.dtype)


def _gradient(loss: Tensor, z: Tensor) -> Tensor | None:
    """Return the gradient times a number, by which one that vanishes keeps its digits."""
    kind = torch.finfo(z.dtype)
    found: Tensor | None = torch.autograd.grad(loss, z, allow_unused=True, retain_graph=True)[0]
    largest = 0.0 if found is None else float(found.abs().max())
    if found is None or not largest < kind.tiny / kind.eps:
        return found
    factor = min(1 / largest, kind.max**0.5) if largest else kind.max**0.5
    larger: Tensor = torch.autograd.grad(loss, z, torch.full_like(loss, factor))[0]
    return larger if larger.isfinite().all() else found


def named_outputs(value: object) -> dict[str, Tensor]:
    """Return a function's output (a tensor, dict or tuple) as a dict of tensors by name.

    Raises:
        ArgumentError: If it is none of these, holds values without a derivative, or names logits
            that are not the last, from which classes are told.

    >>> list(named_outputs((torch.ones(1), torch.ones(2)))), list(named_outputs(torch.ones(1)))
    (['0', '1'], ['output'])
    """
    if isinstance(value, Tensor):
        value = {"output": value}
    elif isinstance(value, tuple | list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(
            f"fn returned {type(value).__name__}; let it return a tensor, or a dict or tuple of "
            "them, one for each depth"
        )
    names = [str(name) for name in value]
    if "logits" in names[:-1]:
        raise ArgumentError(
            f"fn returns logits and then '{names[-1]}', and the last output is taken for the "
            "logits; let it return them last, or alone"
        )
    return {str(name): check_output(output) for name, output in value.items()}


def check_point(x: Tensor) -> None:
    """Check that x is a finite tensor of a real floating dtype.

    Raises:
        ArgumentError: If it is not.

    >>> check_point(torch.tensor([1]))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: x must be a non-empty tensor of a real floating dtype, got ...
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
        what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x must be a non-empty tensor of a real floating dtype, got {what}")
    real_tensor("x", x)


def _orthonormal(basis: Vectors) -> Tensor:
    V = real_tensor("basis", right_vectors(basis))
    if V.ndim != 2 or V.shape[0] < V.shape[1]:
        raise ArgumentError(f"basis has shape {tuple(V.shape)}; give columns (n, k), k ≤ n")
    if float(orthonormality(V)) > _ORTHONORMAL:
        raise ArgumentError("basis is not orthonormal; give orthonormal_basis(basis)")
    return V
