"""What processes of a process hold is seen while they run, and counted once where they share it."""

import subprocess
import sys
import time

from benchmarks.measure.descendants import watch_memory

HOLDING = "import sys; held = bytearray(b'1') * (200 << 20); print('there', flush=True); input()"
MIB = 1 << 20


def test_what_a_child_of_a_child_holds_is_seen():
    inner = [sys.executable, "-c", HOLDING]
    outer = f"import subprocess, sys; subprocess.run({inner!r}, stdin=sys.stdin, check=True)"
    with watch_memory(every=0.02) as peak:
        child = subprocess.Popen(
            [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "there\n"
        time.sleep(0.5)
        child.communicate("\n", timeout=30)
    assert child.returncode == 0
    assert 200 * MIB < peak() < 300 * MIB


def test_without_children_there_is_nothing():
    with watch_memory(every=0.01) as peak:
        time.sleep(0.1)
    assert peak() == 0
