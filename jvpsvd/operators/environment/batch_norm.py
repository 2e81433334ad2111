"""Batch normalisation with a right gradient for every layout of its input.

In evaluation mode torch 2.13 takes a batch of one image with strides like (3, 1, 12, 3), which is
what `tokens.mT.reshape(1, 3, 4, 4)` has, for channels-last, and its reverse pass gives the gradient
to the wrong entries.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from jvpsvd.operators.environment.process_setting import ProcessSetting


def differentiable_batch_norm() -> ProcessSetting:
    """Let batch normalisation copy an input that is stored in neither usual layout.

    >>> tokens = torch.randn(1, 4, 3, requires_grad=True)
    >>> normalise = torch.nn.BatchNorm2d(3, eps=0).eval()
    >>> with differentiable_batch_norm():
    ...     normalise(tokens.mT.reshape(1, 3, 2, 2))[0, 0, 1, 1].backward()
    >>> tokens.grad[0].nonzero()
    tensor([[3, 0]])
    """
    return _OF_USUAL_LAYOUT


def _switch(restore: ExitStack) -> None:
    original = torch.batch_norm
    restore.callback(setattr, torch, "batch_norm", original)
    torch.batch_norm = partial(_normalise, original)


def _normalise(
    original: Callable[..., Tensor], input: Tensor, *args: object, **named: object
) -> Tensor:
    if not has_usual_layout(input):
        input = input.clone(memory_format=torch.contiguous_format)
    return original(input, *args, **named)


def has_usual_layout(images: Tensor) -> bool:
    """Return whether strides are exactly those of a new tensor, channels last or not.

    >>> has_usual_layout(torch.ones(1, 4, 3).mT.reshape(1, 3, 2, 2))
    False
    """
    if images.ndim < 2:
        return True
    sizes, strides = images.shape, images.stride()
    first, last = [*range(images.ndim)], [0, *range(2, images.ndim), 1]
    return any(_follow(sizes, strides, order) for order in (first, last))


def _follow(sizes: torch.Size, strides: tuple[int, ...], order: list[int]) -> bool:
    step = 1
    for dimension in reversed(order):
        if strides[dimension] != step:
            return False
        step *= sizes[dimension]
    return True


_OF_USUAL_LAYOUT = ProcessSetting(_switch)
