"""A row of the results: one sample at one depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from jvpsvd.data import Sample
from jvpsvd.survey.store.checksums import CHECKSUM, checksum_rows
from jvpsvd.survey.store.columns import nullable_columns, schema_of
from jvpsvd.survey.store.whole_spectrum import spectrum_columns
from jvpsvd.text_table import count_noun

if TYPE_CHECKING:
    from jvpsvd.svd import SVDResult

PASSING = ("refused", "out-of-memory", "error", "undelivered")
"""Failures that another try may mend: more memory, another device, a disk that is back."""
WORKED_ON = ("ok", "non-finite", "out-of-memory", "refused", "error")
"""What comes of a sample that was read; all others fail before any work."""


@dataclass(frozen=True)
class Row:
    """One sample at one depth: its singular values, or the reason why there are none.

    The fields are the columns of the files, in their order.
    """

    shard: str
    """File name of the shard."""
    key: str
    """Name of the sample in the shard, up to its first dot."""
    label: int | None
    """Index of the class; None where there is none."""
    wnid: str | None
    """Name of the class in WordNet; None where there is none."""
    layer: str
    """Name of the depth."""
    status: str
    """"ok", or the kind of failure."""
    message: str
    """The failure, or what could not be certified, in words."""
    s: list[float] = field(default_factory=list, kw_only=True)
    """Singular values, descending."""
    residuals: list[float] = field(default_factory=list, kw_only=True)
    """Their residuals, in the same units."""
    converged: int = field(default=0, kw_only=True)
    """Triplets whose residual meets the tolerance and that no missing value can displace."""
    k: int
    """Triplets at this depth; of a failure, those that the run asks for."""
    method: str = ""
    """Method of the solve."""
    products_forward: int = 0
    """JVPs taken."""
    products_reverse: int = 0
    """VJPs taken."""
    fro2: float | None = None
    """Squared Frobenius norm of the Jacobian, exact or estimated."""
    seconds: float = 0.0
    """Wall time of the solve, divided evenly among photos that were solved together."""
    defined_to: float | None = None
    """How well the Jacobian itself is defined, over σ₁ (`Certificate.defined_to`); None where that
    was not measured."""
    size: int | None = None
    """Number of all singular values, min(m, n); None, as all that follows from the whole spectrum,
    in rows of versions that did not know it."""
    counts: list[float] | None = None
    """Numbers of singular values ≥ each of `THRESHOLDS`; see `Spectrum.counts`."""
    counts_low: list[float] | None = None
    """Lower bounds of `counts`, apart from sampling."""
    counts_high: list[float] | None = None
    """Upper bounds of `counts`, apart from sampling."""
    counts_error: list[float] | None = None
    """Standard errors of `counts`, of what the sample's random start is off by."""
    participation: list[float] | None = None
    """(Σσ²)² / Σσ⁴ of the whole spectrum: value, low, high, standard error."""
    entropy: list[float] | None = None
    """Entropy of σ² / Σσ² in nats: value, low, high, standard error."""
    nuclear_norm: list[float] | None = None
    """Σσ: value, low, high, standard error."""
    photo_checksum: str | None = None
    """Checksum of the bytes of the photo; None where there were none."""
    vectors_checksum: str | None = None
    """Checksum of the file of the vectors; None without one."""
    checksum: str | None = None
    """Checksum of all the rest; `to_table` fills it in."""


SCHEMA = schema_of(Row)
"""Columns of `spectra/*.parquet`. A column that is added is null in older rows; their checksums
cover it as soon as it is not."""

MAY_BE_NULL = nullable_columns(Row)
"""Columns that need no value, as every one that is added later."""


def count_unread(rows: Iterable[Row]) -> int:
    """Return how many samples of some rows failed before any work.

    >>> rows = [Row("s.tar", "a", 0, None, d, "bad-photo", "cut", k=5) for d in ("one", "two")]
    >>> count_unread(rows), count_unread([dataclasses.replace(rows[0], status="refused")])
    (1, 0)
    """
    return len({(row.shard, row.key) for row in rows if row.status not in WORKED_ON})


def row_of(sample: Sample, layer: str, result: SVDResult) -> Row:
    """Return the row of a solved depth; with an unsound certificate, a failure without values."""
    k = result.s.shape[0]
    if not result.certificate.sound:
        return failure(sample, layer, k, "unsound", str(result.certificate))
    converged = int(result.converged.sum())
    missed = f"{k - converged} of {count_noun(k, 'triplet')} not certified"
    message = "" if converged == k else missed
    return dataclasses.replace(
        _without_values(sample, layer, k, "ok", message),
        s=result.s.tolist(),
        residuals=result.residuals.tolist(),
        converged=converged,
        method=result.method,
        products_forward=result.products.forward,
        products_reverse=result.products.reverse,
        fro2=result.certificate.fro2,
        seconds=result.seconds,
        defined_to=result.certificate.defined_to,
        **spectrum_columns(result.spectrum),
    )


def failure(sample: Sample, layer: str, k: int, status: str, message: str) -> Row:
    """Return the row of a depth that has no values, with the reason in one line."""
    return _without_values(sample, layer, k, status, " ".join(message.split())[:500])


def _without_values(sample: Sample, layer: str, k: int, status: str, message: str) -> Row:
    return Row(
        shard=sample.shard,
        key=sample.key,
        label=sample.label,
        wnid=sample.wnid,
        layer=layer,
        status=status,
        message=message,
        k=k,
    )


def to_table(rows: Sequence[Row], task: str) -> pa.Table:
    """Return the rows of a task as an Arrow table of `SCHEMA`, with their checksums."""
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)
    return with_checksums(table, [task] * len(rows))


def with_checksums(table: pa.Table, tasks: Sequence[str]) -> pa.Table:
    """Return a table of `SCHEMA` with the checksum of each row, given the task of each."""
    column = pa.array(checksum_rows(table, tasks), pa.string())
    return table.set_column(SCHEMA.get_field_index(CHECKSUM), SCHEMA.field(CHECKSUM), column)


def from_table(table: pa.Table) -> list[Row]:
    """Return the rows of an Arrow table of `SCHEMA`."""
    return [Row(**record) for record in table.to_pylist()]
