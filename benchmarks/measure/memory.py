"""Resident memory of this process."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def reset_peak() -> int:
    """Forget this process's peak of resident memory, and return what it holds now, in bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return resident_bytes()


def resident_bytes() -> int:
    """Return the resident memory of this moment."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the peak of resident memory since `reset_peak`, or since the process began."""
    return _status("VmHWM")


def _status(name: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
