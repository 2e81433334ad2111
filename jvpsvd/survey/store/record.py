"""The file `run.json`: what a run is, its depths, when and with which versions it began."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jvpsvd import __version__
from jvpsvd.errors import JvpsvdError, RunError
from jvpsvd.networks import Depth
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.checksums import CHECKSUM, checksum_record
from jvpsvd.survey.store.files import is_regular, refuse_other_kinds, write_first

RECORD = "run.json"

_LARGEST = 1 << 62


@dataclass(frozen=True)
class Record:
    """What run.json says."""

    identity: Identity
    depths: tuple[Depth, ...]
    checksum: str | None
    """Checksum of the file; None in a run that was begun before there were checksums."""


def write_record(folder: Path, identity: Identity, depths: Sequence[Depth]) -> None:
    """Write run.json, unless another process has already written it."""
    record: dict[str, Any] = {
        "identity": identity.to_json(),
        "depths": [asdict(depth) for depth in depths],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    # As it will be read: JSON turns tuples into lists.
    record[CHECKSUM] = checksum_record(json.loads(json.dumps(record)))
    text = json.dumps(record, indent=2) + "\n"
    write_first(folder / RECORD, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_record(folder: Path) -> Record:
    """Return what run.json of a folder says.

    Raises:
        RunError: If there is none, it cannot be read, or it was changed.
    """
    file = folder / RECORD
    refuse_other_kinds(file)
    if not is_regular(file):
        raise RunError(
            f"{folder} is not a run (no run.json); give the folder of 'jvpsvd run --out'"
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        checksum = record.get(CHECKSUM)
        if checksum is not None and checksum != checksum_record(record):
            raise ValueError("it was changed after it was written")
        identity = Identity.from_json(record["identity"])
        depths = tuple(_depth(depth) for depth in record["depths"])
        if tuple(depth.name for depth in depths) != identity.layers:
            raise ValueError("its depths are not its layers")
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
        JvpsvdError,
    ) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise RunError(
            f"{file} cannot be read ({reason}); restore it, or begin again in another folder"
        ) from error
    return Record(identity, depths, checksum)


def _depth(record: dict[str, Any]) -> Depth:
    name, kind, shape = record["name"], record["kind"], tuple(record["shape"])
    if not (isinstance(name, str) and isinstance(kind, str)):
        raise TypeError(f"depth {name!r} of kind {kind!r}")
    if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > _LARGEST:
        raise ValueError(f"shape {shape} of depth {name}")
    return Depth(name, kind, shape)


def _versions() -> dict[str, str]:
    return {
        "jvpsvd": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scipy", "pyarrow")},
    }
