"""Find the custom autograd function that is being computed.

`Function.apply` is a method of C++ from torch 2.14 on, so that it has no frame; `forward` has one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from torch.autograd import Function


def running_custom_function(until: CodeType) -> str | None:
    """Return the name of the custom function in whose forward the caller is, or None.

    Args:
        until: The code of a function that is being called; what called that is not looked at.

    >>> import torch
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         print(running_custom_function(square.__code__))
    ...         return x**2
    >>> def square(x):
    ...     print(running_custom_function(square.__code__))
    ...     return Square.apply(x)
    >>> square(torch.ones(()))
    None
    Square
    tensor(1.)
    """
    names = {code: name for code, name in _forwards(Function) if code is not None}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in names:
            return names[frame.f_code]
        if frame.f_code is until:
            return None
        frame = frame.f_back
    return None


def _forwards(base: Any) -> Iterator[tuple[CodeType | None, str]]:
    """Yield the code of the forward of each function derived from a class, with its name."""
    for function in base.__subclasses__():
        if "forward" in vars(function):
            yield getattr(function.forward, "__code__", None), function.__name__
        yield from _forwards(function)
