"""Arrays of other libraries as tensors: NumPy's, and what exports itself to NumPy or by DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.failures import first_line


def is_array(value: object) -> bool:
    """Return whether a value is an array of another library than torch.

    >>> is_array(np.ones(2)), is_array(torch.ones(2)), is_array([1.0]), is_array(np.float32(2))
    (True, False, False, False)
    """
    if isinstance(value, Tensor | type | np.generic):
        return False
    return hasattr(value, "__dlpack__") or hasattr(value, "__array__")


def tensor_of(name: str, array: Any) -> Tensor:
    """Return an array as a tensor of its dtype, which shares its memory where torch can.

    Args:
        name: Names it in messages.
        array: A NumPy array, or an object with ``__dlpack__`` or ``__array__``, such as an array of
            JAX or CuPy.

    Raises:
        ArgumentError: If it has masked entries, a dtype that torch lacks, or cannot be exported.

    >>> tensor_of("V", np.array([1.0, 2.0], dtype=np.float32))
    tensor([1., 2.])
    """
    if isinstance(array, np.ndarray):
        return _from_numpy(name, array)
    failed = None
    if hasattr(array, "__dlpack__"):
        try:
            return torch.utils.dlpack.from_dlpack(array)
        except Exception as error:  # memory or a dtype that it does not export
            failed = error
    if hasattr(array, "__array__"):
        try:
            exported = np.asarray(array)
        except Exception as error:  # the other library's own
            failed = error
        else:
            _check_same_dtype(name, array, exported)
            return _from_numpy(name, exported)
    reason = f" ({first_line(failed)})" if failed else ""
    raise ArgumentError(
        f"{name} is {shown(array)}, which torch cannot take{reason}; give a tensor or a NumPy array"
    ) from failed


def refuse_masked(name: str, array: np.ndarray[Any, Any]) -> None:
    """Check that no entry of an array is masked.

    Raises:
        ArgumentError: If one is.

    >>> refuse_masked("v", np.ma.masked_array([1.0, 2.0], [False, False]))
    """
    if np.ma.is_masked(array):
        raise ArgumentError(
            f"{name} has masked entries, and every one is needed; fill them first, as with "
            "A.filled(0), or give A.data to ignore the mask"
        )


def _check_same_dtype(name: str, array: Any, exported: np.ndarray[Any, Any]) -> None:
    own = getattr(array, "dtype", exported.dtype)
    own = str(getattr(own, "name", own)).rpartition(".")[2]
    if own != exported.dtype.name:
        raise ArgumentError(
            f"{name} is {shown(array)} of {own}, and NumPy has it as {exported.dtype}; convert it "
            "first, nothing is cast silently"
        )


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Return a NumPy array as a tensor, copied only where torch cannot share its memory."""
    refuse_masked(name, array)
    shares = array.flags.writeable and array.dtype.isnative
    whole = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if not (shares and whole):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ArgumentError(
            f"{name} has dtype {array.dtype}, which torch lacks; convert it to float32 or float64"
        ) from error


def is_whole(value: Tensor) -> bool:
    """Return whether a tensor holds whole numbers, as class indices are; True is none.

    >>> is_whole(torch.tensor(3)), is_whole(torch.tensor(True))
    (True, False)
    """
    floating = value.is_floating_point() or value.is_complex()
    return not floating and value.dtype != torch.bool
