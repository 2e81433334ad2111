import contextlib
import signal
import subprocess
import sys

import pytest

from jvpsvd.survey import RunProgress, ignore_progress, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_swallowed_is_raised_at_the_next_check(number):
    """As where it arrives in a finaliser, whose exceptions Python prints and forgets."""
    with interruptible(ignore_progress) as report:
        report(RunProgress())
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            report(RunProgress())


def test_signals_are_as_they_were_afterwards():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with interruptible(ignore_progress):
        assert all(signal.getsignal(number) not in before for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_is_not_raised_while_the_first_is_handled(number):
    """Where it was, it left the handling of the first by its own way, as a traceback."""
    with interruptible(ignore_progress):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                pytest.fail("raised inside the handling of the first")
            return
    pytest.fail("not raised at all")


TWICE = """
import atexit, signal
import numpy
from jvpsvd.cli import main

# As a second Ctrl-C in the last instants of the process.
atexit.register(signal.raise_signal, signal.SIGINT)
main(["run", "--model", "interrupting:net", "--shards", "nowhere.tar"])
"""


def test_a_second_signal_at_the_end_of_the_process_prints_nothing(tmp_path):
    code = "import signal\n\ndef net():\n    signal.raise_signal(signal.SIGINT)\n"
    (tmp_path / "interrupting.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    said = "jvpsvd: interrupted; the same command continues\n"
    assert (done.returncode, done.stderr) == (130, said)
