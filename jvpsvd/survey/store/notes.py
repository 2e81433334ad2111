"""Small JSON files beside a run or a report that only help: a damaged one counts as empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jvpsvd.survey.store.files import is_regular, write_whole


def read_notes(file: Path) -> dict[str, Any]:
    """Return what a file of notes holds; nothing of one that is missing or damaged."""
    if not is_regular(file):
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_notes(file: Path, notes: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a file of notes, whole."""
    text = json.dumps(notes, indent=indent, sort_keys=True) + "\n"
    write_whole(file, lambda aside: aside.write_text(text, encoding="utf-8"))
