"""Gradient checkpointing passed over: a segment that is called later reads other weights.

torch computes a checkpointed segment again in the reverse pass. Weights that were replaced for the
time of a call, by copies in another dtype, are no longer replaced then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch.utils.checkpoint

from jvpsvd.operators.environment.process_setting import ProcessSetting


def kept_activations() -> ProcessSetting:
    """Let `torch.utils.checkpoint` keep the activations of a segment, as if it were a plain call.

    >>> x = torch.ones(2)
    >>> with kept_activations():  # torch.func takes no checkpoint
    ...     fn = lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
    ...     torch.func.vjp(fn, x)[1](x)[0]
    tensor([0.5403, 0.5403])
    """
    return _KEPT


def _switch(restore: ExitStack) -> None:
    replaced = (
        ("_checkpoint_without_reentrant_generator", _in_forward_context),
        ("CheckpointFunction", _PlainCall),
    )
    module = torch.utils.checkpoint
    for name, plain in replaced:
        original = getattr(module, name, None)
        if original is not None:
            restore.callback(setattr, module, name, original)
            setattr(module, name, plain)


def _in_forward_context(
    function: Callable[..., Any],
    preserve_rng_state: bool = True,
    context_fn: Callable[[], tuple[AbstractContextManager[Any], Any]] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Iterator[None]:
    """Stand for what `checkpoint` runs until the segment is called, and goes on with after it."""
    with nullcontext() if context_fn is None else context_fn()[0]:
        yield


class _PlainCall:
    """Stands for the function of autograd that checkpoints a segment."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


_KEPT = ProcessSetting(_switch)
