"""Files of a report: each is the old one or the new one at every instant, a full disk included."""

from __future__ import annotations

from pathlib import Path

from jvpsvd.survey.store.files import write_whole


def write_data(file: Path, data: bytes) -> None:
    """Write a file of a report as a whole, or leave the one of that name as it is.

    Raises:
        DiskError: If it cannot be written.
        RunError: If a link, a pipe or a folder stands in its place.
    """
    write_whole(file, lambda aside: aside.write_bytes(data))
