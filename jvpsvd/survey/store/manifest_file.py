"""The file `manifest.parquet`: the samples of a run, with a checksum over them and the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from jvpsvd.data import Sample
from jvpsvd.survey.store.checksums import checksum_table
from jvpsvd.survey.store.columns import nullable_columns, schema_of
from jvpsvd.survey.store.files import read_table, unreadable, write_table

_SCHEMA, _MAY_BE_NULL = schema_of(Sample), nullable_columns(Sample)
_CHECKSUM = b"jvpsvd.checksum"


def write_samples(file: Path, samples: Sequence[Sample], run: str | None) -> None:
    """Write the samples of the run that has this checksum."""
    records = [dataclasses.asdict(sample) for sample in samples]
    table = pa.Table.from_pylist(records, schema=_SCHEMA)
    checksum = checksum_table(table, run or "").encode()
    write_table(file, table.replace_schema_metadata({_CHECKSUM: checksum}))


def read_samples(file: Path, run: str | None) -> list[Sample]:
    """Return the samples of the run that has this checksum; None accepts those without one.

    Raises:
        RunError: If the file is missing, unreadable, changed, or of another run.
    """
    table = read_table(file, _SCHEMA, _MAY_BE_NULL)
    stored = (table.schema.metadata or {}).get(_CHECKSUM)
    if stored is None and run is not None:
        raise unreadable(file, "it has no checksum")
    if stored is not None and stored != checksum_table(table, run or "").encode():
        raise unreadable(file, "it was changed after it was written, or is of another run")
    return [Sample(**record) for record in table.to_pylist()]
