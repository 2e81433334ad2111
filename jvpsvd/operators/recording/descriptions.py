"""Describe recorded values by tensors without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


class Descriptions(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode in which make_fx describes each value, by shape, strides, dtype and device.

    One description serves all values of a kind. Making one for each was a third of the time that a
    recording takes, and most values of a deep network are of a few kinds.

    >>> with Descriptions():
    ...     a, b = (torch.empty_strided((2,), (1,), device="cpu") for _ in range(2))
    >>> a is b, a.shape, a.device
    (True, torch.Size([2]), device(type='cpu'))
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            return args[0]  # with which torch ends the making of a tensor
        if func is not torch.ops.aten.empty_strided.default:
            return super().__torch_dispatch__(func, types, args, kwargs)
        kind = tuple(args[0]), tuple(args[1]), *kwargs.items()
        if kind not in self._made:
            self._made[kind] = super().__torch_dispatch__(func, types, args, kwargs)
        return self._made[kind]
