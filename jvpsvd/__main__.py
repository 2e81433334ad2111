"""Where the command `jvpsvd` and `python -m jvpsvd` begin, before anything large is imported."""

from __future__ import annotations

import signal
import sys

from jvpsvd.commands.startup import ended_by_signals
from jvpsvd.errors import MissingPackageError
from jvpsvd.imports import require
from jvpsvd.machine import limit_threads, wait_passively

_MISTAKE = 2


def main() -> None:
    """Run the command line, with as many threads as fit, which sleep while they wait."""
    wait_passively()
    limit_threads()
    try:
        with ended_by_signals():
            require("the command jvpsvd", "survey", "click", "rich")
            from jvpsvd import cli
    except MissingPackageError as error:
        sys.stderr.write(f"jvpsvd: {error}\n")
        sys.exit(_MISTAKE)
    try:
        cli.main()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # all is said: no traceback at the very end


if __name__ == "__main__":
    main()
