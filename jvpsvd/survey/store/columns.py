"""Columns of a Parquet file, from the fields of the dataclass that a row of it is."""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa

_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    list[float]: pa.list_(pa.float64()),
}


def schema_of(record: type) -> pa.Schema:
    """Return a column for each field of a dataclass, in their order.

    >>> from jvpsvd.data import Sample
    >>> schema_of(Sample).field("label")
    pyarrow.Field<label: int64>
    """
    hints = get_type_hints(record)
    columns = []
    for field in dataclasses.fields(record):
        (kind,) = {*_alternatives(hints[field.name])} - {NoneType}
        columns.append((field.name, _TYPES[kind]))
    return pa.schema(columns)


def nullable_columns(record: type) -> frozenset[str]:
    """Return the fields of a dataclass that may be None.

    >>> from jvpsvd.data import Sample
    >>> sorted(nullable_columns(Sample))
    ['class_name', 'label', 'wnid']
    """
    hints = get_type_hints(record)
    names = (field.name for field in dataclasses.fields(record))
    return frozenset(name for name in names if NoneType in _alternatives(hints[name]))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if annotation in _TYPES else get_args(annotation)
