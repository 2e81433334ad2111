"""Where the command `jvpsvd` and `python -m jvpsvd` begin, before anything large is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C and SIGTERM are one line while the libraries load, too."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)  # a run has its own, which ends between photos
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as it is under nohup
        signal.signal(signal.SIGINT, _end)
    from jvpsvd import cli

    signal.signal(signal.SIGINT, before)
    try:
        cli.main()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # all is said: no traceback at the very end


def _end(number: int, frame: FrameType | None) -> None:
    # An exception could be lost or changed on its way out of an import; nothing else has begun yet.
    sys.stderr.write("jvpsvd: interrupted\n")
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
