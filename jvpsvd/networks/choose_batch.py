"""How many Jacobians are solved together."""

from __future__ import annotations

import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.svd.lock_step import matrices_together
from jvpsvd.svd.request import ProblemSize, check_request

# Matrices of a batch that are together no larger than this: beyond, a batch gains nothing on a CPU.
_BATCH_ENTRIES, _MAX_BATCH = 1 << 24, 32
# Matrices of no more entries are work of calls from Python alone: more of them share these.
_TINY_ENTRIES = 1 << 12


def choose_batch(
    inputs: int,
    outputs: int,
    k: int = 500,
    *,
    device: torch.device | None = None,
    memory: int | str | None = None,
    most: int = _MAX_BATCH,
) -> int:
    """Return how many Jacobians are solved together.

    Small ones are on every device, since a single one is little work. On a GPU a single one of any
    size is: there so many are solved together as get the bases that one alone would use.

    Args:
        inputs: Columns of a Jacobian.
        outputs: Rows of the largest one.
        k: Values of each; no vectors.
        device: Where they are solved; None: the CPU.
        memory: Bytes of one solve, as `svds` takes them.
        most: Of those that are so small that calls from Python take most of the time.

    >>> choose_batch(3072, 10), choose_batch(150_528, 1000)
    (32, 1)
    >>> card = torch.device("cuda")
    >>> [choose_batch(150_528, 15_680, device=card, memory=f"{gib}GiB") for gib in (70, 8, 1)]
    [32, 8, 1]
    """
    fits = _BATCH_ENTRIES // (inputs * outputs)
    most = most if inputs * outputs <= _TINY_ENTRIES else _MAX_BATCH
    small = min(most, 1 << max(0, fits.bit_length() - 1))
    if device is None or device.type != "cuda":
        return small
    size = ProblemSize((outputs, inputs), torch.float32, device, batch=_MAX_BATCH)
    count = min(k, inputs, outputs)
    try:
        request = check_request(size, count, memory=memory, vectors=False)
        together = matrices_together(size, request)
    except ArgumentError:  # not even one fits, which its solve will say
        return small
    return max(small, 1 << (together.bit_length() - 1))
