"""Say where a Jacobian is block-diagonal, because the rows of an input do not act on each other."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.derivatives.linear_map import LinearMap

logger = logging.getLogger(__name__)


def tell_block_diagonal(J: LinearMap) -> None:
    """Say in the log, once for each shape, if a Jacobian is one block per row of the point.

    >>> from jvpsvd.operators import by_transforms
    >>> tell_block_diagonal(by_transforms(torch.nn.Linear(3, 2), torch.ones(5, 3)))
    """
    if is_block_diagonal(J):
        rows = len(J.point)
        _tell(rows, J.value.numel() // rows, J.point.numel() // rows)


@cache
def _tell(rows: int, m: int, n: int) -> None:
    logger.warning(
        "J is block-diagonal: at this point no row of f(x) changes with another of the %d rows of "
        "x; JacobianOperator(fn, x, batch_dims=1) makes %d operators %d x %d of it, which takes "
        "fewer products",
        rows, rows, m, n,
    )  # fmt: skip


def is_block_diagonal(J: LinearMap) -> bool:
    """Return whether each row of f(x) changes with its own row of x, and with no other.

    The first row alone is moved first: one product, unless a check has computed it. If no other row
    answers, 2 log₂ B products show the rest: rows whose number has a certain bit are moved
    together, and then those without it, so that each row stands still once while any other moves.
    Directions are generic and only exact zeros count, so that what differs from a block-diagonal J
    is not taken for one.

    >>> from jvpsvd.operators import by_transforms
    >>> is_block_diagonal(by_transforms(lambda x: x.softmax(-1), torch.ones(5, 3)))
    True
    >>> is_block_diagonal(by_transforms(lambda x: x.softmax(0), torch.ones(5, 3)))
    False
    """
    x, value = J.point, J.value
    rows = len(x) if x.ndim > 1 else 1
    if rows < 2 or value.ndim < 1 or len(value) != rows:
        return False
    first = torch.zeros(1, rows, dtype=torch.bool, device=x.device)
    first[0, 0] = True
    images = _move(J, first) if J.probed is None else J.probed[:1]
    if not _answers_alone(images, first):
        return False
    numbers = torch.arange(rows, device=x.device)
    bits = torch.stack([(numbers >> bit) & 1 for bit in range((rows - 1).bit_length())]).bool()
    moved = torch.cat([bits, ~bits])
    return _answers_alone(_move(J, moved), moved)


def _move(J: LinearMap, moved: Tensor) -> Tensor:
    """Return the images of a direction in some rows of the point, for each set of rows."""
    x = J.point
    return J.jvp(direction(x) * moved.reshape(*moved.shape, *(1 for _ in x.shape[1:])))


def _answers_alone(images: Tensor, moved: Tensor) -> bool:
    """Return whether exactly those rows of the value change whose rows of the point are moved."""
    answers = (images != 0).reshape(*moved.shape, -1).any(-1)
    return torch.equal(answers, moved)
