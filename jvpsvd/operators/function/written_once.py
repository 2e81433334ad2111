"""Refuse functions that write into a tensor once and take it for a constant afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.fingerprint import is_dense
from jvpsvd.operators.function.kept_tensors import KeptTensors

# Bytes of tensors beyond which further ones are not looked at: they are copied and compared.
_MOST_BYTES = 1 << 24
_STEP = 0.01

_Array = Tensor | np.ndarray


class WrittenTensors:
    """The tensors and arrays that a function can reach, outside of modules, before its first call.

    >>> from functools import partial
    >>> table, flags = torch.zeros(2), {}
    >>> def fill_once(table, flags, x):
    ...     if "done" not in flags:
    ...         table.copy_(x)
    ...         flags["done"] = True
    ...     return table * x
    >>> fn = partial(fill_once, table, flags)
    >>> written, x = WrittenTensors(fn), torch.ones(2)
    >>> value = fn(x)
    >>> written.refuse_constants(fn, x)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: fn writes into 'table' in its first call and not again, so that ...
    >>> table, flags
    (tensor([0., 0.]), {})
    """

    def __init__(self, fn: object) -> None:
        self._kept = KeptTensors.of(fn)
        self._entries = self._kept.take()
        self._tensors: list[tuple[str, _Array]] = []
        size = 0
        for name, tensor in self._kept.tensors:
            if _is_compared(tensor):
                size += tensor.nbytes
                if size > _MOST_BYTES:
                    break
                self._tensors.append((name, tensor))
        self._before = [_copy(tensor) for _, tensor in self._tensors]

    def refuse_constants(self, evaluate: Callable[[Tensor], Any], x: Tensor) -> None:
        """Check, after the first call, that what was written is written in each, or free of x.

        The function is called at another point, and once more with everything as it was before the
        first call. Where that writes something else, all is restored.

        Args:
            evaluate: Evaluates the function.
            x: Where it was evaluated.

        Raises:
            ArgumentError: Naming the tensor.
        """
        written = [
            index
            for index, (_, tensor) in enumerate(self._tensors)
            if not _equal(tensor, self._before[index])
        ]
        if not written:
            return
        entries, contents = self._kept.take(), [_copy(tensor) for _, tensor in self._tensors]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        moved = x + _STEP * max(float(x.abs().max()), 1.0) * noise
        once = [i for i in self._changed_by(evaluate, moved, written, contents) if i in written]
        constant = [i for i in written if i not in once]
        self._restore(self._entries, self._before)
        changed = self._changed_by(evaluate, moved, constant, contents)
        if not changed:
            self._restore(entries, contents)
            return
        self._restore(self._entries, self._before)
        raise ArgumentError(
            f"fn writes into '{self._tensors[changed[0]][0]}' in its first call and not again, so "
            "that its derivative would take it for a constant; compute it in each call"
        )

    def _changed_by(
        self,
        evaluate: Callable[[Tensor], Any],
        x: Tensor,
        which: list[int],
        contents: list[_Array],
    ) -> list[int]:
        """Return which tensors hold something else than these contents after a call at x."""
        if not which:
            return []
        try:
            with torch.no_grad():
                evaluate(x)
        except Exception:  # whatever fn raises at another point
            return []
        return [index for index in which if not _equal(self._tensors[index][1], contents[index])]

    def _restore(self, entries: Any, contents: list[_Array]) -> None:
        self._kept.put(entries)
        for (_, tensor), content in zip(self._tensors, contents, strict=True):
            if not _equal(tensor, content):
                _write(tensor, content)


def _is_compared(tensor: _Array) -> bool:
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.kind in "fc" and tensor.flags.writeable
    plain = is_dense(tensor) and not tensor.is_meta and not tensor.is_inference()
    return plain and (tensor.is_floating_point() or tensor.is_complex()) and tensor.itemsize > 1


def _copy(tensor: _Array) -> _Array:
    return tensor.copy() if isinstance(tensor, np.ndarray) else tensor.detach().clone()


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, np.ndarray):
        return np.array_equal(ours, theirs, equal_nan=True)
    if torch.equal(ours, theirs):
        return True
    return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def _write(tensor: _Array, content: Any) -> None:
    if isinstance(tensor, np.ndarray):
        np.copyto(tensor, content)
        return
    with torch.no_grad():
        tensor.copy_(content)
