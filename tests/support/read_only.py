"""A program to which a folder is read-only: a mount that it alone sees, and that ends with it."""

import ctypes
import os
import sys

import pytest
from support.forks import Forked

_PROGRAM = "from support.read_only import mount_read_only\nmount_read_only({folder!r})\n{program}"
_NOT_ALLOWED = 77
_NEW_USERS, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _REMOUNT, _BIND, _ALL_BELOW, _PRIVATE = 1, 32, 4096, 1 << 14, 1 << 18
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC if sys.platform == "linux" else 0
"""What a mount may not lose; these have the same numbers as flags of mount."""


def run_read_only(program, *arguments, folder, seconds=100):
    """Run a program where a folder is read-only; return its exit code, stdout and stderr.

    The test is skipped where no process may mount anything.
    """
    text = _PROGRAM.format(folder=str(folder), program=program)
    process = Forked(text, *arguments, folder=folder.parent)
    output, errors = process.communicate(timeout=seconds)
    if process.returncode == _NOT_ALLOWED:
        pytest.skip(f"no folder can be mounted read-only here: {errors.strip()}")
    return process.returncode, output, errors


def mount_read_only(folder):
    """Make a folder read-only to this process, or end it with an exit code of its own."""
    try:
        _enter_own_mounts()
        path = os.fsencode(folder)
        _call("mount", b"none", b"/", None, _ALL_BELOW | _PRIVATE, None)
        _call("mount", path, path, None, _BIND, None)
        kept = os.statvfs(folder).f_flag & _KEPT
        _call("mount", path, path, None, _BIND | _REMOUNT | _READ_ONLY | kept, None)
    except (OSError, AttributeError) as error:  # of another system, without unshare
        print(error, file=sys.stderr)
        sys.exit(_NOT_ALLOWED)


def _enter_own_mounts():
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:
        _call("unshare", _NEW_USERS | _NEW_MOUNTS)


def _call(name, *arguments):
    given = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*given):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
