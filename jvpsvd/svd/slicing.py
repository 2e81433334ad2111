"""Which triplets `result[…]` means, and what to say where it could mean several things."""

from __future__ import annotations

from typing import Never

import numpy as np

from jvpsvd.arguments import shown
from jvpsvd.errors import OperandError
from jvpsvd.svd.request import Which
from jvpsvd.text_table import count_noun

_FIELDS = ("U", "s", "Vh", "residuals", "converged")


def triplets_meant(
    key: object, k: int, shape: tuple[int, ...], which: Which
) -> tuple[slice, Which]:
    """Return the triplets that a key in brackets means, and whether they are the largest.

    Args:
        key: A slice that keeps the first or the last triplet's end of the spectrum; for a batch,
            with dots before it.
        k: How many triplets there are.
        shape: (m, n) of the operator; (B, m, n) of a batch.
        which: Whether the k triplets are the largest or the smallest.

    Raises:
        OperandError: If it means something else, or could mean several things.

    >>> triplets_meant(slice(10), 50, (80, 60), "largest")
    (slice(0, 10, None), 'largest')
    >>> triplets_meant(slice(5, 10), 50, (80, 60), "largest")
    Traceback (most recent call last):
    jvpsvd.errors.OperandError: result[5:10] are neither the largest nor the smallest triplets; ...
    """
    batch = len(shape) > 2
    dots = isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis
    part = key[1] if isinstance(key, tuple) and dots else key
    if not isinstance(part, slice):
        _refuse_other_keys(key, batch)
    text = _text(part)
    if batch and not dots:
        raise OperandError(
            f"result[{text}] of a batch could mean matrices or triplets; take result.of(i) for "
            f"matrix i, or result[..., {text}] for triplets of each"
        )
    try:
        chosen = range(*part.indices(k))
    except (TypeError, ValueError):
        _refuse_other_keys(key, batch)
    if not chosen:
        raise OperandError(f"result[{text}] holds none of the k={k} triplets; take one at least")
    start, stop, whole = chosen.start, chosen.stop, k == min(shape[-2:])
    if chosen.step == 1:
        if (start, stop) == (0, k):
            return slice(start, stop), which
        if start == 0 and (whole or which == "largest"):
            return slice(start, stop), "largest"
        if stop == k and (whole or which == "smallest"):
            return slice(start, stop), "smallest"
    raise OperandError(
        f"result[{text}] are neither the largest nor the smallest triplets; take "
        f"{_parts(text, batch)}"
    )


def refuse_length(k: int, batch: int | None) -> Never:
    """Refuse `len`, which could count the triplets, the matrices, or U, s and Vh.

    Raises:
        OperandError: Always. `list` and `tuple` need a TypeError, to go on without a length.
    """
    matrices = "" if batch is None else f" for each of {count_noun(batch, 'matrix', 'matrices')}"
    raise OperandError(
        f"a result has no len(): take result.k, {count_noun(k, 'triplet')}{matrices}; "
        "U, s, Vh = result unpacks three tensors"
    )


def refuse_membership() -> Never:
    """Refuse `in`, which would compare tensors as a whole.

    Raises:
        OperandError: Always.
    """
    raise OperandError(
        "a result cannot be asked what is in it; compare its values, as in (result.s > 1).any()"
    )


def _refuse_other_keys(key: object, batch: bool) -> Never:
    if isinstance(key, str) and key in _FIELDS:
        raise OperandError(f"result[{key!r}] is result.{key} here")
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if batch:
            raise OperandError(
                f"result[{key}] could mean a matrix or a triplet; take result.of({key}) for matrix "
                f"{key}, or {_parts(str(key), batch)}"
            )
        raise OperandError(
            f"result[{key}] could mean a triplet or one of U, s and Vh; take "
            f"{_parts(str(key), batch)}, or unpack U, s, Vh = result"
        )
    if isinstance(key, tuple):
        written = ", ".join("..." if part is Ellipsis else _text(part) for part in key)
    else:
        written = shown(key)
    first = "..., :10" if batch else ":10"
    raise OperandError(
        f"result[{written}] has no meaning: result[{first}] are the ten first triplets; for others "
        f"take {_parts('i', batch)}"
    )


def _parts(index: str, batch: bool) -> str:
    """Return how one writes the values and vectors of some triplets."""
    if batch:
        return f"result.s[..., {index}], result.U[..., {index}] and result.Vh[..., {index}, :]"
    return f"result.s[{index}], result.U[:, {index}] and result.Vh[{index}]"


def _text(part: object) -> str:
    """Return a slice, or another index, as it was written."""
    if not isinstance(part, slice):
        return shown(part)
    ends = [part.start, part.stop] + ([] if part.step is None else [part.step])
    return ":".join("" if end is None else shown(end) for end in ends)
