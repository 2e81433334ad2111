"""Let glibc's allocator keep the large, short-lived blocks of automatic differentiation."""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks for this process instead of returning them to the kernel.

    By default every block over 32 MiB is mapped and unmapped at each use, and its pages are zeroed
    by the kernel again and again, which slows wide products on the CPU
    (``python -m benchmarks allocator`` prints how much). The command line calls this for its own
    process. A library should not: the setting is for the whole process and cannot be taken back.

    Returns:
        Whether it took effect; False where the C library is not glibc.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(threshold, _NEVER) == 1 for threshold in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    )
