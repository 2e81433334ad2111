"""Tensors that count how often a program waits for them, as it would wait for a GPU."""

from typing import ClassVar

import torch

_READ = ("__bool__", "__float__", "__int__", "item", "tolist", "numpy", "nonzero", "cpu")


class OnCard(torch.Tensor):
    """A tensor of the CPU that stands for one on a GPU: so is all that is computed from it.

    `waits` holds the names of the calls that read one. A copy without a wait is not among them, and
    holds NaN until the next wait.
    """

    waits: ClassVar[list[str]] = []
    _late: ClassVar[list[tuple[torch.Tensor, torch.Tensor]]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        moves = name == "to" and "cpu" in [*args[1:], *kwargs.values()]
        if name in _READ or moves:
            plain = args[0].as_subclass(torch.Tensor)
            if kwargs.pop("non_blocking", False):
                late = torch.full_like(plain, torch.nan)
                cls._late.append((late, plain.clone()))
                return late
            cls._wait(name)
            return plain if name == "cpu" or moves else getattr(plain, name)(*args[1:], **kwargs)
        if name == "equal":
            cls._wait(name)
        return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def _wait(cls, name):
        cls.waits.append(name)
        for late, value in cls._late:
            late.copy_(value)
        cls._late.clear()
