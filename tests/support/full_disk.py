"""A disk that is full for a while: no file of this process may grow beyond a few bytes."""

import contextlib
import resource


@contextlib.contextmanager
def files_up_to(size):
    """Let writes beyond `size` bytes fail, as on a full disk; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
