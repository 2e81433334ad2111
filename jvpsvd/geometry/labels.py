"""Labels of any kind as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import Array

Labels = Sequence[Any] | Array
"""One for each photo or point, of any kind that can be hashed."""


def numbered(labels: Labels, count: int, what: str = "photo") -> tuple[Tensor, tuple[Any, ...]]:
    """Return labels as numbers from 0, in the order in which they first come, and what they are.

    Args:
        labels: The labels.
        count: How many there must be.
        what: What each is of, for messages.

    Raises:
        ArgumentError: If there are not `count`, or one cannot be hashed.

    >>> index, classes = numbered(["cat", "dog", "cat"], 3)
    >>> index.tolist(), classes
    ([0, 1, 0], ('cat', 'dog'))
    """
    listed = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    if len(listed) != count:
        raise ArgumentError(f"{len(listed)} labels for {count} {what}s; give one for each")
    # Tensors hash by identity: equal ones would be classes of their own.
    listed = [one.tolist() if isinstance(one, Tensor | np.ndarray) else one for one in listed]
    try:
        known = {label: i for i, label in enumerate(dict.fromkeys(listed))}
    except TypeError as error:
        raise ArgumentError(f"labels must be hashable, one for each {what}: {error}") from None
    return torch.tensor([known[label] for label in listed]), tuple(known)
