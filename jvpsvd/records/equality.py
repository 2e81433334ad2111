"""Equality of records that hold tensors and arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jvpsvd.arguments import is_tensor


class ComparedByFields:
    """A record that equals another of its class if all fields do, tensors number for number.

    Python compares dataclasses as tuples of their fields, which fails for tensors and arrays: they
    have no truth value.
    """

    def __eq__(self, other: object) -> bool:
        """Whether all fields are the same, tensors number for number."""
        if type(self) is not type(other):
            return NotImplemented
        return _same_fields(self, other)


def same(a: object, b: object) -> bool:
    """Whether two values of a field are the same, tensors number for number; NaN equals NaN.

    >>> import torch
    >>> same((1.0, torch.ones(2)), (1.0, torch.ones(2))), same(1.0, 2.0)
    (True, False)
    >>> same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    True
    """
    if is_tensor(a) and is_tensor(b):
        alike = (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape)
        # Only NaN differs from itself, and a meta tensor has no numbers.
        return alike and (a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all()))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        alike = (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if dataclasses.is_dataclass(a) and not isinstance(a, type) and type(a) is type(b):
        return _same_fields(a, b)
    if hasattr(a, "to_pydict") and hasattr(b, "to_pydict"):  # a table prints only its first rows
        return same(a.to_pydict(), b.to_pydict())
    return repr(a) == repr(b)


def _same_fields(a: object, b: object) -> bool:
    names = [field.name for field in dataclasses.fields(a)]  # type: ignore[arg-type]
    return all(same(getattr(a, name), getattr(b, name)) for name in names)
