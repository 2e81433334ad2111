"""Class labels of any kind, converted to indices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.results import Array
from jvpsvd.text_table import count_noun

Labels = Sequence[Any] | Array
"""One label for each photo or point, of any hashable type."""


def numbered(labels: Labels, count: int, what: str = "photo") -> tuple[Tensor, tuple[Any, ...]]:
    """Return labels as indices from 0, in the order of first appearance, and the distinct labels.

    Args:
        labels: The labels.
        count: Expected number of labels.
        what: What a label belongs to, for messages.

    Raises:
        ArgumentError: If the number of labels is not `count`, one is NaN or cannot be hashed.

    >>> index, classes = numbered(["cat", "dog", "cat"], 3)
    >>> index.tolist(), classes
    ([0, 1, 0], ('cat', 'dog'))
    """
    if not isinstance(labels, Iterable):
        raise ArgumentError(f"labels is {shown(labels)}; give a list, one for each {what}")
    listed = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    listed = listed if isinstance(listed, list) else [listed]  # of an array of no dimension
    if len(listed) != count:
        raise ArgumentError(
            f"{count_noun(len(listed), 'label')} for {count_noun(count, what)}; give one for each"
        )
    # Tensors hash by identity, so equal ones would become different classes.
    listed = [one.tolist() if isinstance(one, Tensor | np.ndarray) else one for one in listed]
    for i, one in enumerate(listed):
        if isinstance(one, float | np.floating) and math.isnan(
            one
        ):  # equal to none, not even to itself
            raise ArgumentError(f"label {i} is NaN, which is no class; leave that {what} out")
    try:
        numbers = {label: i for i, label in enumerate(dict.fromkeys(listed))}
    except TypeError as error:
        raise ArgumentError(f"labels must be hashable, one for each {what}: {error}") from None
    return torch.tensor([numbers[label] for label in listed]), tuple(numbers)
