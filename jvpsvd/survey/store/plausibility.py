"""Whether rows can be what a solve returned: the rules that values, residuals and counts obey."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jvpsvd.errors import RunError
from jvpsvd.survey.store.whole_spectrum import COUNT_COLUMNS, SUM_COLUMNS, THRESHOLDS

Array = np.ndarray[Any, np.dtype[Any]]

# Counts are good to this share of all values (`krylov.quadrature.QUADRATURE_ERROR`, with a margin),
# sums to this share of themselves.
_ROUNDING = 1e-5
# A sampled count may be off by so many standard errors, and one, just above the last known value.
_ERRORS = 6.0


def find_faults(
    table: pa.Table, counts: Mapping[str, int], sizes: Mapping[str, int], k: int, tol: float
) -> list[str]:
    """Return for each row what makes it impossible; "" for a row that is possible.

    Args:
        table: Rows, of the schema of `Row`.
        counts: Triplets of the rows of each depth; those of other depths are not judged by it.
        sizes: All singular values of each depth, min(m, n).
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
        converged = values["converged"].to_numpy()
        found = _faults_of_values(*numbers, converged, tol)
        stored = pc.is_valid(values["size"]).to_numpy()
        whole = np.full(len(rows), "", dtype=object)
        if stored.any():
            of_stored = values.filter(pa.array(stored))
            exact = (converged == count)[stored]
            ends = numbers[0][stored], numbers[1][stored]
            whole[stored] = _faults_of_whole_spectra(of_stored, sizes, *ends, exact)
        for row, fault, other in zip(rows, found, whole, strict=True):
            faults[row] = fault or other
    return faults


def read_counts(table: pa.Table) -> Array:
    """Return counts (rows, 4, thresholds) of `COUNT_COLUMNS`; NaN where a row keeps none."""
    return np.stack([_fill(table[name], len(THRESHOLDS)) for name in COUNT_COLUMNS], axis=1)


def read_sum(table: pa.Table, name: str) -> Array:
    """Return (rows, 4) value, low, high, standard error; NaN where a row keeps none."""
    return _fill(table[name], 4)


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


def _fill(lists: pa.ChunkedArray, length: int) -> Array:
    """Return a column of lists of `length` numbers as (rows, length); NaN for all others."""
    there = (pc.list_value_length(lists).fill_null(0).to_numpy() == length).astype(bool)
    found: Array = np.full((len(lists), length), np.nan)
    found[there] = as_matrix(lists.filter(pa.array(there)), length)
    return found


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


def _faults_of_whole_spectra(
    table: pa.Table, sizes: Mapping[str, int], s: Array, residuals: Array, exact: Array
) -> list[str]:
    """Return what makes the whole spectrum of each row impossible.

    Args:
        table: Solved rows that keep one.
        sizes: See `find_faults`.
        s: (rows, k).
        residuals: (rows, k).
        exact: (rows,) bool: all k values are certified.
    """
    layers, size = table["layer"].to_pylist(), table["size"].to_numpy().astype(float)
    expected = np.array([sizes.get(layer, own) for layer, own in zip(layers, size, strict=True)])
    value, low, high, error = (counts := read_counts(table)).swapaxes(0, 1)
    off = _ROUNDING * (1 + size[:, None])
    with np.errstate(invalid="ignore"):
        falls = (np.diff(counts[:, :3], axis=2) <= off[:, None]).all(axis=(1, 2))
        sums = np.stack([read_sum(table, name) for name in SUM_COLUMNS], axis=1)
        ordered = _are_between(*sums[:, :, :3].transpose(2, 0, 1)) & (sums[:, :, 3] >= 0)
        known, least, most = _counts_of_known(s, residuals)
        slack = np.where(error > 0, _ERRORS * error + 1, off)
        agrees = ~known | ((value >= least - slack) & (value <= most + slack))
    rules = (
        (size == expected, "{size} singular values, not {expected}"),
        (np.isfinite(counts).all(axis=(1, 2)), "counts that are missing or not finite"),
        (falls, "counts that rise with the threshold"),
        (
            ((low <= value + off) & (value <= high + off)).all(axis=1),
            "counts outside of their bounds",
        ),
        (((low >= -off) & (high <= size[:, None] + off)).all(axis=1), "counts outside of 0 to p"),
        ((error >= 0).all(axis=1), "counts with negative errors"),
        (agrees.all(axis=1) | ~exact, "counts that differ from those of the values"),
        (ordered.all(axis=1) | (s[:, 0] == 0), "a dimension outside of its bounds"),
    )
    faults = [""] * len(s)
    for obeyed, words in reversed(rules):
        for row in np.flatnonzero(~obeyed):
            faults[row] = words.format(size=int(size[row]), expected=int(expected[row]))
    return faults


def _are_between(value: Array, low: Array, high: Array) -> Array:
    off = _ROUNDING * np.abs(value)
    between: Array = (low <= value + off) & (value <= high + off)
    return between


def _counts_of_known(s: Array, residuals: Array) -> tuple[Array, Array, Array]:
    """Return where k values decide the counts (rows, thresholds), and the bounds that they give."""

    def counts(values: Array) -> Array:
        ascending = np.sort(values, axis=1)
        return np.array([len(row) - np.searchsorted(row, THRESHOLDS) for row in ascending])

    known: Array = (s[:, -1] + residuals[:, -1])[:, None] < THRESHOLDS
    return known, counts(s - residuals), counts(s + residuals)
