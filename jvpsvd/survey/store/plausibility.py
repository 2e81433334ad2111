"""Whether rows can be what a solve returned: the rules that values, residuals and counts obey."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jvpsvd.errors import RunError

Array = np.ndarray[Any, np.dtype[Any]]


def find_faults(table: pa.Table, counts: Mapping[str, int], k: int, tol: float) -> list[str]:
    """Return for each row what makes it impossible; "" for a row that is possible.

    Args:
        table: Rows, of the schema of `Row`.
        counts: Triplets of the rows of each depth; those of other depths are not judged by it.
        k: Triplets that the run was to take, which a row without values may name.
        tol: Tolerance of the run.
    """
    if not len(table):
        return []
    names = ("layer", "k", "status", "message")
    lengths = _lengths(table, "s")
    columns = zip(
        *(table[name].to_pylist() for name in names),
        lengths,
        _lengths(table, "residuals"),
        strict=True,
    )
    faults = [
        _fault_of_form(counts.get(layer, row_k), k, row_k, *cells)
        for layer, row_k, *cells in columns
    ]
    solved = pc.equal(table["status"], "ok").to_numpy() & np.array([not fault for fault in faults])
    for count in np.unique(lengths[solved]).tolist():
        rows = np.flatnonzero(solved & (lengths == count))
        values = table.take(pa.array(rows))
        numbers = as_matrix(values["s"], count), as_matrix(values["residuals"], count)
        found = _faults_of_values(*numbers, values["converged"].to_numpy(), tol)
        for row, fault in zip(rows, found, strict=True):
            faults[row] = fault
    return faults


def values_and_residuals(table: pa.Table, k: int, folder: Path) -> tuple[Array, Array]:
    """Return the singular values and residuals of solved rows, (rows, k) each.

    Raises:
        RunError: If a row has another number of them.
    """
    if any((_lengths(table, name) != k).any() for name in ("s", "residuals")):
        raise RunError(f"{folder} holds rows of another k; see 'jvpsvd verify'")
    return as_matrix(table["s"], k), as_matrix(table["residuals"], k)


def as_matrix(lists: pa.ChunkedArray, k: int) -> Array:
    """Return a column of lists of k numbers as an array of shape (rows, k)."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in lists.chunks]
    return np.concatenate([np.empty(0), *chunks]).reshape(-1, k)


def _lengths(table: pa.Table, name: str) -> Array:
    lengths: Array = pc.list_value_length(table[name]).to_numpy()
    return lengths


def _fault_of_form(
    expected: int, asked: int, k: int, status: str, message: str, values: int, residuals: int
) -> str:
    if k != expected and (status == "ok" or k != asked):
        return f"k = {k}, not {expected}"
    if status != "ok":
        return "" if message else "a failure without a reason"
    if not values == residuals == k:
        return f"{values} values and {residuals} residuals for k = {k}"
    return ""


def _faults_of_values(s: Array, residuals: Array, converged: Array, tol: float) -> list[str]:
    k = s.shape[1]
    met = (residuals <= tol * s[:, :1]).sum(axis=1)
    usable = np.isfinite(s) & np.isfinite(residuals) & (s >= 0) & (residuals >= 0)
    rules = (
        (usable.all(axis=1), "a value or residual that is negative or not finite"),
        ((converged >= 0) & (converged <= k), "{converged} triplets of {k} are called converged"),
        ((np.diff(s, axis=1) <= 0).all(axis=1), "values that do not descend"),
        # Fewer may count than meet it: what could not be shown complete does not. One at the edge
        # may fall on either side, since residuals were compared in the operator's dtype.
        (converged <= met + 1, "{met} residuals meet the tolerance, the row says {converged}"),
    )
    faults = [""] * len(s)
    for obeyed, words in reversed(rules):
        for row in np.flatnonzero(~obeyed):
            faults[row] = words.format(k=k, met=met[row], converged=converged[row])
    return faults
