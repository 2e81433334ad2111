"""What is known of tensors, by the memory that they lie in."""

from __future__ import annotations

from contextlib import suppress
from typing import Generic, TypeVar

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Known = TypeVar("Known")

# Storages that are known before those that were freed are dropped: a guess.
_FEWEST_KEPT = 64


class ByMemory(Generic[Known]):
    """What is known of tensors: the same of all that share memory. No memory is kept alive.

    >>> import torch
    >>> known, x = ByMemory[str](), torch.ones(3)
    >>> known.set(x, "ones")
    >>> known.get(x[1:]), known.get(torch.ones(3))
    ('ones', None)
    """

    def __init__(self) -> None:
        # By the address of a storage, which a weak reference keeps from being given again.
        self._known: dict[int, tuple[StorageWeakRef, Known]] = {}
        self._most = _FEWEST_KEPT

    def __bool__(self) -> bool:
        return bool(self._known)

    def get(self, tensor: Tensor) -> Known | None:
        """Return what is known of a tensor; None if nothing is."""
        try:
            found = self._known.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # sparse, or without memory
            return None
        return None if found is None else found[1]

    def set(self, tensor: Tensor, known: Known) -> None:
        """Take note of what is known of a tensor; of one without memory nothing is."""
        with suppress(NotImplementedError, RuntimeError):
            storage = tensor.untyped_storage()
            before = self._known.get(storage._cdata)
            if before is not None:
                self._known[storage._cdata] = (before[0], known)
                return
            if len(self._known) >= self._most:
                self._drop_freed()
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._known[storage._cdata] = (reference, known)

    def _drop_freed(self) -> None:
        """Drop storages without data: what is left of each keeps the place of its data from use."""
        held = [(at, each) for at, each in self._known.items() if not each[0].expired()]  # type: ignore[no-untyped-call]
        self._known = dict(held)
        self._most = max(_FEWEST_KEPT, 2 * len(held))
