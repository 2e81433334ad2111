"""Modes that see every operation of torch, without what `torch.compile` is made of."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that by itself does not make torch load torch._dynamo.

    Torch loads it to keep `torch.compile` out of `__torch_dispatch__`. Functions are evaluated
    under `eager_execution` here, where nothing is compiled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch asks for it by this name
        return False
