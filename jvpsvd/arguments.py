"""Checks of single arguments. Each returns the value, or raises a one-line error.

Numbers are Python's own or NumPy's scalars, never bools.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from jvpsvd.errors import ArgumentError, UnknownArgumentError

if TYPE_CHECKING:
    from torch import Generator, Tensor

LARGEST_SEED = (1 << 63) - 1
"""The largest seed of torch's generators that is taken."""
_SHORT = 60


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor; torch is not imported to learn that it is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that was probably meant, or None.

    >>> nearest_name("TOL", ["k", "tol"]), nearest_name("colour", ["k", "tol"])
    ('tol', None)
    """
    alike = [each for each in known if each.lower() == name.lower()]
    near = alike or difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None


def shown(value: object) -> str:
    """Describe a value in one short line, for a message.

    >>> import torch
    >>> shown("resnet18"), shown(torch.ones(2, 3)), shown([1] * 100)
    ("'resnet18'", 'a tensor of shape (2, 3)', 'a list')
    """
    if is_tensor(value):
        return "a nested tensor" if value.is_nested else f"a tensor of shape {tuple(value.shape)}"
    try:
        text = repr(value)
    except Exception:  # a user's own
        return f"a {type(value).__name__}"
    named = isinstance(value, np.ndarray) or len(text) > _SHORT or "\n" in text or " at 0x" in text
    return f"a {type(value).__name__}" if named else text


def said(error: BaseException) -> str:
    """Return what an exception says; nothing of one that cannot be printed.

    >>> said(ValueError("no"))
    'no'
    """
    try:
        return str(error)
    except Exception:  # a user's own
        return ""


def one_of(name: str, value: object, options: tuple[Any, ...], wanted: str = "") -> None:
    """Check that a value is one of a few words or whole numbers.

    Args:
        name: Name of the argument.
        value: What was given.
        options: What it may be.
        wanted: What the message says is wanted, if not the list of options.

    Raises:
        ArgumentError: If it is not.

    >>> one_of("dim", 2, (0, 1))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: dim=2 is unknown; use 0 or 1
    """
    plain = isinstance(value, str | int | np.integer)
    if not plain or isinstance(value, bool) or value not in options:
        words = [f'"{option}"' if isinstance(option, str) else str(option) for option in options]
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        wanted = wanted or f"is unknown; use {listed}"
        raise ArgumentError(f"{name}={shown(value)} {wanted}")


def whole_number(
    name: str, value: Any, low: int, high: int | None = None, high_is: str = ""
) -> int:
    """Return `value` as an int, if it is a whole number from `low` to `high`.

    Args:
        name: Name of the argument, for the message.
        value: What the caller gave.
        low: Smallest value allowed.
        high: Largest value allowed; None: no limit.
        high_is: Description of the largest value, for the message.

    Raises:
        ArgumentError: If it is not.

    >>> whole_number("k", 7, 1, 6, "min(m, n)")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: k=7 must be a whole number from 1 to min(m, n) = 6
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        upper = f"{high_is} = {high}" if high_is else f"{high}"
        bounds = f"at least {low}" if high is None else f"from {low} to {upper}"
        raise ArgumentError(f"{name}={shown(value)} must be a whole number {bounds}")
    return int(value)


def generator_of(seed: Any) -> Generator:
    """Return torch's generator of a seed, a whole number from 0 to 2⁶³ − 1.

    Raises:
        ArgumentError: If it is none.

    >>> generator_of(None)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: seed=None must be a whole number from 0 to ...
    """
    import torch  # which is not loaded to check a number

    return torch.Generator().manual_seed(whole_number("seed", seed, 0, LARGEST_SEED))


def proper_fraction(name: str, value: Any) -> float:
    """Return `value` as a float, if it lies between 0 and 1, both excluded.

    Raises:
        ArgumentError: If it does not, or is no number.

    >>> proper_fraction("tol", 1.5)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: tol=1.5 must be a number that lies between 0 and 1
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and 0 < value < 1):
        raise ArgumentError(f"{name}={shown(value)} must be a number that lies between 0 and 1")
    return float(value)


def threshold_number(name: str, value: Any, plural: str = "") -> float:
    """Return `value` as a float, if it is finite and at least 0; a tensor of one number is one.

    Args:
        name: Name of the argument.
        value: What was given.
        plural: What takes several numbers, for the message.

    Raises:
        ArgumentError: If it is not.

    >>> threshold_number("threshold", -1.0)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: threshold=-1.0 must be a finite number of at least 0
    """
    if (is_tensor(value) or isinstance(value, np.ndarray)) and value.ndim == 0:
        value = value.item()
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and 0 <= value < float("inf")):
        several = f"; {plural} takes several" if plural and not real else ""
        raise ArgumentError(f"{name}={shown(value)} must be a finite number of at least 0{several}")
    return float(value)


def ascending_numbers(
    name: str, values: Sequence[float] | np.ndarray[Any, Any] | Tensor
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return numbers as an array, if they are finite, ascending and at least 0.

    Raises:
        ArgumentError: If they are not.

    >>> ascending_numbers("thresholds", [0.5, 1])
    array([0.5, 1. ])
    """
    try:
        points = np.asarray(values.numpy(force=True) if is_tensor(values) else values)
    except (TypeError, ValueError, RuntimeError):
        points = np.array("no numbers")
    if points.dtype.kind not in "iuf" or points.ndim != 1 or not len(points):
        raise ArgumentError(f"{name}={shown(values)} must be a list of numbers, as [0.5, 1.0] is")
    points = points.astype(np.float64)
    wrong = points[~np.isfinite(points) | (points < 0)]
    if len(wrong):
        raise ArgumentError(f"{name} holds {wrong[0]:g}; give finite numbers of at least 0")
    falls = np.flatnonzero(np.diff(points) <= 0)
    if len(falls):
        first, second = points[falls[0] : falls[0] + 2]
        raise ArgumentError(
            f"{name} holds {second:g} after {first:g}; give numbers in ascending order, each once"
        )
    return points


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a float, if it is positive and finite.

    Raises:
        ArgumentError: If it is not.

    >>> positive_number("step", -1)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: step=-1 must be a positive number
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and 0 < value < float("inf")):
        raise ArgumentError(f"{name}={value!r} must be a positive number")
    return float(value)


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False.

    Raises:
        ArgumentError: If it is not.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name}={shown(value)} must be True or False")


def path_as_text(name: str, value: object, what: str = "a file") -> str:
    """Return the name of a file or folder, or a pattern of names, as text.

    Raises:
        ArgumentError: If it is none.

    >>> path_as_text("out", 3, "a folder")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: out=3 must be the name of a folder
    """
    text = ""
    if known := isinstance(value, str | os.PathLike):
        try:
            text = os.fsdecode(value)
        except TypeError:  # __fspath__ returns something else
            known = False
    if not known:
        raise ArgumentError(f"{name}={shown(value)} must be the name of {what}")
    if "\0" in text:
        raise ArgumentError(f"{name}={shown(text)} holds a null byte, which no name has")
    return text


def as_path(name: str, value: object, what: str = "a file") -> Path:
    """Return a value as a path.

    Raises:
        ArgumentError: If it is not the name of a file or folder.

    >>> as_path("out", "run", "a folder").name
    'run'
    """
    text = path_as_text(name, value, what)
    return value if isinstance(value, Path) else Path(text)


def check_further_arguments(args: object, kwargs: object) -> None:
    """Check a function's further arguments, given as args and kwargs.

    Raises:
        ArgumentError: If args is no tuple or list, or kwargs is no mapping with string keys.
    """
    if not isinstance(args, tuple | list):
        raise ArgumentError(f"args is {shown(args)}; give a tuple, (mask,) for a single argument")
    named = kwargs is None or isinstance(kwargs, Mapping)
    if not named or not all(isinstance(name, str) for name in kwargs or ()):  # type: ignore[attr-defined]
        raise ArgumentError(f"kwargs is {shown(kwargs)}; give a dict of arguments by name")


def listed_names(name: str, value: object) -> list[str]:
    """Return an iterable of strings as a list; a string is one name.

    Raises:
        ArgumentError: If it is something else.

    >>> listed_names("layers", "output"), listed_names("layers", ("1", "output"))
    (['output'], ['1', 'output'])
    """
    if isinstance(value, str):
        return [value]
    if is_tensor(value) or isinstance(value, np.ndarray) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name} is {shown(value)}; give a list of names")
    listed = list(value)
    for each in listed:
        if not isinstance(each, str):
            raise ArgumentError(f"{name} holds {shown(each)}; give names, as strings")
    return listed


def refuse_unknown_names(
    function: Callable[..., Any],
    names: Iterable[str],
    answers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse arguments that a function has not, each with what to write instead.

    Args:
        function: The function, or the class.
        names: What it was given besides its arguments.
        answers: What to say of some of them.

    Raises:
        UnknownArgumentError: If there is one.

    >>> def spectra(model, X, layers=("output",), **names): ...
    >>> refuse_unknown_names(spectra, ["layer"])
    Traceback (most recent call last):
    jvpsvd.errors.UnknownArgumentError: spectra has no argument layer; did you mean layers?
    """
    parameters = inspect.signature(function).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    for name in names:
        near = nearest_name(name, known)
        answer = answers.get(name) or (
            f"did you mean {near}?" if near else f"it takes {', '.join(known)}"
        )
        raise UnknownArgumentError(f"{function.__name__} has no argument {name}; {answer}")


def first_names(names: Sequence[str], most: int = 6) -> str:
    """Return names in a row, and dots where there are more.

    >>> first_names(["0", "output"]), first_names(["a", "b", "c"], most=2)
    ('0, output', 'a, b, …')
    """
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def dense_tensor(name: str, value: object) -> Tensor:
    """Return a value if it is an ordinary dense tensor.

    Raises:
        ArgumentError: If it is another object, nested, sparse, or quantized.

    >>> import torch
    >>> dense_tensor("V", torch.eye(2).to_sparse())
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: V is a tensor in torch.sparse_coo; give a dense one, ...
    """
    if not is_tensor(value):
        how = "torch.from_numpy(…) of it" if isinstance(value, np.ndarray) else "a tensor"
        raise ArgumentError(f"{name} is {shown(value)}; give {how}")
    if value.is_nested:
        raise ArgumentError(f"{name} is a nested tensor; give one tensor of one shape")
    if str(value.layout) != "torch.strided":
        raise ArgumentError(
            f"{name} is a tensor in {value.layout}; give a dense one, as .to_dense() returns"
        )
    if value.is_quantized:
        raise ArgumentError(f"{name} is quantized; give real numbers, as .dequantize() returns")
    return value
