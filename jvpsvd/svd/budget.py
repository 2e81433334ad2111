"""The memory of a solve: what its bases and its result may take."""

from __future__ import annotations

from jvpsvd.errors import ArgumentError
from jvpsvd.machine import in_words
from jvpsvd.svd.memory import memory_of
from jvpsvd.svd.request import ProblemSize, Request


def bytes_for_solve(size: ProblemSize, request: Request) -> int:
    """Return the bytes for bases and result: what the operator holds is taken off.

    >>> import torch
    >>> size = ProblemSize((3, 2), torch.float32, held=1000)
    >>> bytes_for_solve(size, Request(1, memory=5000)), bytes_for_solve(size, Request(1, memory=1))
    (4000, 0)
    """
    if request.memory is None:
        return max(0, memory_of(size.device) - size.held) // 2
    return max(0, request.memory - size.held)


class Budget:
    """The bytes that a solve may take, with the error for a method that needs more.

    What the operator holds is taken off: activations of the point, say.

    Args:
        size: Size of the operator.
        request: The checked request.
    """

    def __init__(self, size: ProblemSize, request: Request) -> None:
        self._size, self._request = size, request
        self.bytes = bytes_for_solve(size, request)

    def refuse(self, method: str, needed: int) -> None:
        """Raise ArgumentError if a method needs more memory than the budget."""
        if needed > self.bytes:
            m, n = self._size.shape
            what, remedy = f"k={self._request.k}", "lower k or raise memory"
            if self._request.smallest is not None:
                what = f'which="smallest", for which all {self._request.k} values are computed,'
                remedy = "raise memory: products alone do not lead to the smallest values"
            raise ArgumentError(
                f"{what} of a {m} x {n} operator needs {in_words(needed)} with method "
                f"'{method}', more than {self._allowed()} ({in_words(self.bytes)}); {remedy}"
            )

    def _allowed(self) -> str:
        held = f"the {in_words(self._size.held)} that the operator holds"
        if self._request.memory is not None:
            return f"memory= leaves beside {held}" if self._size.held else "memory= allows"
        device = self._size.device
        on_gpu = device is not None and device.type == "cuda"
        whole = "this GPU's memory" if on_gpu else "the memory of this job or machine"
        return f"half of what {held} leave of {whole}" if self._size.held else f"half of {whole}"
