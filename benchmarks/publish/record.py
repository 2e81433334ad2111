"""Results as JSON: one record per part and machine, in benchmarks/results/NAME-MACHINE.json.

A file holds one record, or a list of them (`python -m benchmarks --json FILE`). A record is

    schema     1
    part       name of the part, as `python -m benchmarks --list` prints it
    quick      whether sizes were those of --quick: such figures are no claims
    created    ISO 8601, UTC
    commit     of the tree; + where it was changed
    seconds    wall time of the whole part
    machine    processor, cores, threads, memory, versions, BLAS, load at start; see
               `measure/machine.py`
    settings   the options of the part: k, tol, rounds, budgets
    rows       a list of objects; their fields by part:

  peers    one for each problem and solver:
           problem, shape [m, n] or [B, m, n], dtype, k, tol, solver, version (of its package),
           outcome (see `measure/judging.py`), seconds (spread, solve alone), setup_seconds
           (spread: making the operator, recording included), forward, reverse (products),
           product_seconds (spread), peak_bytes (spread: resident memory that the solve added),
           value_error (worst of k, over s1), excess (the most that a value is above the true
           one), residual (worst of k by our own products, over s1; null without vectors),
           said_converged, note, own_tol (the tolerance that the solver got), budget (seconds it
           had), attempts (runs with looser tolerances, which missed), reference ("exact", "dense"
           or "certified"), refuted_by (solvers that show the reference to be wrong)
  floors   one for each problem: problem, shape, k, tol, method, wall (seconds), floor (seconds of k
           JVPs and k VJPs), jvp_ms, vjp_ms, parts {name: seconds; they add up to wall}, products,
           dense_floor (seconds of one full orthogonalisation at the GEMM peak), gemm_gflops,
           copy_gbs, missing (named functions that the engine no longer has)
  growth   one for each axis and x: axis, x, seconds (spread), peak_bytes, products, note; and
           one for each axis with "fit": {"seconds": exponent, "peak_bytes": …} and x null
  safety   one for each case and solver: case, solver, outcome, value_error, residual,
           said_converged, note, version
  large_models  one for each model and length: problem, parameters, weight_bytes,
           inference_seconds, making_seconds, evaluations (of the model, while making), kept_bytes
           (resident, above the weights), tensor_bytes (the same by storages of tensors),
           peak_bytes, jvp_seconds and vjp_seconds (one vector of a block of 8), note
  gpu      rows by kind: "check" (name, right, error), "peaks", "time" (problem, solver, outcome,
           seconds, product_seconds, peak_bytes of torch's allocator, …; tf32 where products were
           in TF32), "width" (widths/problem: ours with one block_size), "survey" (survey/depth
           of one run: seconds a photo, photos that were solved together), "together" (photos in
           one batch: seconds, phases and products of a photo, checks of the batch), "step" (one
           step: seconds, kernels, waiting, waits, launches), "decompositions" (of projected
           problems: seconds each, on_device and on_threads), "graph" (a product: seconds as it is
           called, replay_seconds as a CUDA graph, ratio, error), "failure" (problem, note)
  others   report (what the script returns) and printed (the lines that it prints)

Each row has the commit and the time (created) of its own run: a run that is narrowed to some
problems, axes or cases replaces these in the file, and leaves the others as they are. A spread is
{"median", "least", "most", "rounds"}. An absent solver is a row with outcome "absent" and its
reason in note, and no figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure.machine import slug

SCHEMA = 1
FOLDER = Path(__file__).parents[1] / "results"
ROW_KEYS: dict[str, frozenset[str]] = {
    "peers": frozenset({"problem", "shape", "k", "tol", "solver", "outcome", "note"}),
    "floors": frozenset({"problem", "shape", "k", "tol", "wall", "floor", "parts"}),
    "growth": frozenset({"axis", "x"}),
    "safety": frozenset({"case", "solver", "outcome", "note"}),
    "gpu": frozenset({"kind"}),
    "large_models": frozenset({"problem", "note"}),
}


IDENTITY: dict[str, tuple[str, ...]] = {
    "peers": ("problem", "k"),
    "floors": ("problem", "k"),
    "growth": ("axis",),
    "safety": ("case",),
    "gpu": ("problem", "name"),
    "large_models": ("problem",),
}
"""The fields that rows of one run share; a new run replaces all rows that share them."""


class RecordError(ValueError):
    """The file holds no record of this schema; one line says why."""


@dataclass(frozen=True)
class Record:
    """The results of one part on one machine."""

    part: str
    quick: bool
    created: str
    commit: str | None
    seconds: float
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise RecordError(f"{self.part}: schema {self.schema}; this reads schema {SCHEMA}")
        needed = ROW_KEYS.get(self.part, frozenset())
        for index, row in enumerate(self.rows):
            missing = needed - row.keys()
            if missing:
                raise RecordError(f"{self.part}: row {index} lacks {', '.join(sorted(missing))}")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON stores it; NaN and infinity become null."""
        return remove_nan(asdict(self))

    @classmethod
    def from_json(cls, stored: Any, where: str = "the record") -> Record:
        """Return the record that `to_json` stored.

        Raises:
            RecordError: If a field is missing or unknown, or a row lacks one.
        """
        fields = set(cls.__dataclass_fields__)
        if not isinstance(stored, dict) or stored.keys() != fields:
            keys = set(stored) if isinstance(stored, dict) else set()
            wrong = ", ".join(sorted(keys ^ fields))
            raise RecordError(f"{where} is no record of schema {SCHEMA}: {wrong}")
        return cls(**stored)

    def file(self, folder: Path = FOLDER) -> Path:
        """Return where the record is kept."""
        return folder / f"{self.part}-{slug(self.machine)}.json"


def merge(kept: Record, new: Record) -> Record:
    """Return the new record, with the rows of the kept one that it did not measure again.

    No rows are kept from another torch or another number of threads.
    """
    keys = IDENTITY.get(new.part)
    if keys is None or _setup(kept) != _setup(new):
        return new
    measured = {tuple(map(row.get, keys)) for row in new.rows}
    still = [row for row in kept.rows if tuple(map(row.get, keys)) not in measured]
    return replace(new, rows=[*still, *new.rows])


def _setup(record: Record) -> tuple[Any, ...]:
    machine = record.machine
    return machine["cpu"], machine["threads"], machine["versions"].get("torch")


def write_records(records: Sequence[Record], file: Path) -> None:
    """Write one record as an object, several as a list."""
    stored = [record.to_json() for record in records]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stored[0] if len(stored) == 1 else stored, indent=1, allow_nan=False)
    file.write_text(text + "\n")


def read_records(file: Path) -> list[Record]:
    """Return the records of a file.

    Raises:
        RecordError: If it cannot be read or holds something else.
    """
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{file} cannot be read: {error}") from error
    return [
        Record.from_json(one, str(file))
        for one in (stored if isinstance(stored, list) else [stored])
    ]


def remove_nan(value: Any) -> Any:
    """Return the value with None for every number that JSON cannot store."""
    if isinstance(value, dict):
        return {str(key): remove_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [remove_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
