"""One-line errors for networks that fail when they are called or cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.arguments import shown
from jvpsvd.errors import JvpsvdError, ModelError
from jvpsvd.operators import failures_named, restored, uncompiled
from jvpsvd.operators.function.failures import first_line, takes_batch_of_one

_ALL_ARGUMENTS = (
    "give all of its arguments in one dict, as {'input_ids': ids, 'attention_mask': mask}, or tuple"
)


@contextmanager
def called_at(model: nn.Module, x: Any) -> Iterator[None]:
    """Restore the model afterwards, and turn what it raises at x into a one-line error."""

    def remedy() -> str:
        if takes_batch_of_one(model, x):
            return "it takes a batch: give x[None]"
        return "give x as the model takes it: a tensor, or a tuple or dict of arguments"

    what = f"{type(uncompiled(model)).__name__}, called at x,"
    with restored(model), failures_named(what, remedy, _ALL_ARGUMENTS):
        yield


@contextmanager
def evaluated_like(expected: object, z: object, name: str) -> Iterator[None]:
    """Raise a one-line error if a map fails at a z of another kind than it was made for.

    Other errors pass unchanged, because torch's transforms inspect them.
    """
    try:
        yield
    except (JvpsvdError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not isinstance(expected, Tensor):
            raise
        if _kind(z) == _kind(expected):
            raise
        raise ModelError(
            f"the map cannot be evaluated at {_kind(z)} ({first_line(error)}); {name} was "
            f"{_kind(expected)} when it was made: give one of that kind"
        ) from error


def _kind(z: object) -> str:
    if not isinstance(z, Tensor) or z.is_nested or z.layout != torch.strided:
        return shown(z)
    return f"{z.dtype} {tuple(z.shape)} on {z.device}"
