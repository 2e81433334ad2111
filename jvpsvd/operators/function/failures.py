"""Turn what a user's function or torch raised into one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jvpsvd.arguments import said
from jvpsvd.errors import JvpsvdError, ModelError

# Frames of torch, and of jvpsvd, which calls the function.
NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")

_REMEDIES = (
    (
        r"cannot register a hook on a tensor that doesn't require grad",
        "a forward hook registers a hook on a gradient, and there is none here: remove it, or let "
        "it ask `if output.requires_grad` first",
    ),
    (
        r"modified by an inplace operation",
        "an operation in place changes what the derivative needs: write `y = y + …` or "
        "torch.stack(list) instead of `y += …` and `y[i] = …`",
    ),
    (
        r"leaf Variable that requires grad is being used in an in-place",
        "an operation in place changes a weight or the input: let it work on a copy, x.clone()",
    ),
    (
        r"Inference tensors cannot be saved for backward",
        "torch.inference_mode hides the derivative of a part of it: take it out",
    ),
    (
        r"stateless API can't be used with Jitted",
        "a scripted or traced module cannot be given other weights: pass the module that it was "
        "made from",
    ),
    (
        r"Unable to call ExportedProgram directly",
        "pass program.module() instead of the program",
    ),
    (
        r"_transformer_encoder_layer_fwd|_native_multi_head_attention",
        "a scripted or traced attention layer takes torch's fast path, which has no derivative: "
        "pass the module that it was made from",
    ),
    (
        r"derivative for '?_[cp]dist_backward",
        "torch differentiates cdist and pdist once only: compute distances from differences, "
        "torch.linalg.vector_norm(a[:, None] - b, dim=-1)",
    ),
    (
        r"can't allocate memory|out of memory",
        "there is too little memory: give a smaller chunk=, or a smaller network",
    ),
    (
        r"dtype|scalar type|same type|Input type",
        "give x in the dtype of the weights (x.float() or x.double()), and args and kwargs too; "
        "only dtype= of JacobianOperator(model, x) converts x as well",
    ),
    (
        r"same device|meta tensor|on device|\bmeta\b|different device",
        "bring x and the weights to one device that holds values",
    ),
)
_OTHER_ARGUMENTS = r"missing \d+ required|unexpected keyword|positional argument"
_BESIDES = (
    "pass what the function takes besides x through args= and kwargs= of JacobianOperator, or hold "
    "it fixed: lambda x: fn(x, mask); layer_map(model, x, to='output') takes a dict or tuple of all"
)


def first_line(error: BaseException, length: int = 200) -> str:
    """Return an exception in one line, no longer than so many characters.

    >>> first_line(ValueError("no  way"))
    'ValueError: no way'
    """
    text = " ".join(said(error).split()) or "no message"
    shown = text if len(text) <= length else f"{text[:length]}…"
    return f"{type(error).__name__}: {shown}"


def find_remedy(message: str, arguments: str = _BESIDES) -> str | None:
    """Return what to do about a message of torch, or None.

    Args:
        message: What torch said.
        arguments: What to do where arguments are missing, or there are too many.

    >>> find_remedy("Unable to call ExportedProgram directly")
    'pass program.module() instead of the program'
    """
    remedies = (*_REMEDIES, (_OTHER_ARGUMENTS, arguments))
    return next((remedy for pattern, remedy in remedies if re.search(pattern, message)), None)


@contextmanager
def failures_named(
    what: str, remedy: str | Callable[[], str], arguments: str = _BESIDES
) -> Iterator[None]:
    """Turn every exception that is not ours into one of one line.

    Errors of memory pass, since no argument is wrong, and so do warnings that the user has made
    errors.

    Args:
        what: What failed, as the subject of the sentence.
        remedy: What to do, for an exception without a remedy of its own.
        arguments: What to do where arguments are missing, or there are too many.

    Raises:
        ModelError: From what was raised.

    >>> with failures_named("fn", "call fn(x) yourself"):
    ...     1 // 0
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: fn raised ZeroDivisionError: integer division or modulo by zero; ...
    """
    try:
        yield
    except (JvpsvdError, MemoryError, torch.OutOfMemoryError, Warning):
        raise
    except Exception as error:
        advice = find_remedy(said(error), arguments) or (
            remedy if isinstance(remedy, str) else remedy()
        )
        raise ModelError(f"{what} raised {first_line(error)}; {advice}") from error


def remedy_at(fn: Callable[[Tensor], Any], x: object, batch_dims: int = 0) -> str:
    """Return what to do about a function that fails at a point.

    A network of batches is often given a point without a batch around it.

    Args:
        fn: The function.
        x: The point.
        batch_dims: 1 if it is one of a batch.

    >>> norm = torch.nn.BatchNorm1d(3).eval()
    >>> remedy_at(norm, torch.ones(3), batch_dims=1)
    'fn takes a batch, and batch_dims=1 gives it one point X[i] at a time: give X[:, None]'
    >>> remedy_at(norm, torch.ones(3))
    'fn takes a batch: give x[None], and for several points one at a time X[:, None]'
    """
    if can_be_called(fn, x):
        return "fn(x) by itself works: torch cannot differentiate an operation of it"
    if not takes_batch_of_one(fn, x):
        return "call fn(x) by itself first"
    if batch_dims:
        return (
            "fn takes a batch, and batch_dims=1 gives it one point X[i] at a time: give X[:, None]"
        )
    return "fn takes a batch: give x[None], and for several points one at a time X[:, None]"


def takes_batch_of_one(fn: Callable[[Tensor], Any], x: object) -> bool:
    """Return whether fn can be called at x[None].

    >>> takes_batch_of_one(torch.nn.BatchNorm1d(3).eval(), torch.ones(3))
    True
    """
    return isinstance(x, Tensor) and not x.is_nested and can_be_called(fn, x[None])


def can_be_called(fn: Callable[[Tensor], Any], x: object) -> bool:
    """Return whether fn can be called at x.

    >>> can_be_called(torch.sin, "x")
    False
    """
    try:
        with torch.no_grad():
            fn(x.detach().clone() if isinstance(x, Tensor) else x)  # type: ignore[arg-type]
    except Exception:
        return False
    return True
