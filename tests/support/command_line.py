"""The command line as a process of its own, to be stopped from outside."""

import subprocess
import time
from collections import Counter

from support.forks import Forked
from support.shards import sample_members, write_tar

from jvpsvd.survey import open_store, verify

MAIN = "from jvpsvd.cli import main; main()"
RUN = ("run", "--model", "tiny:net", "-k", "5", "--layers", "2,output", "--batch", "1")
LAYERS = ("2", "output")
LONGEST = 100
"""Seconds after which a process is given up: a hang is a failure."""


class CommandLine:
    """`jvpsvd run` over 40 photos, in a folder that every call shares."""

    def __init__(self, folder, photos=40):
        self.folder, self.photos = folder, photos
        self.out = folder / "out"
        members = [m for i in range(photos) for m in sample_members(f"photo{i:02}", i, i % 3)]
        self.shard = write_tar(folder / "s.tar", members)
        self.choice = ("--shards", "s.tar", "--out", "out")

    def start(self, *extra, main=MAIN, command=RUN):
        """Start it, and come back at once."""
        return Forked(main, *command, *self.choice, *extra, folder=self.folder)

    def complete(self, *extra, main=MAIN):
        """Run it to its end; return the exit code and what it wrote to stderr."""
        return ended(self.start(*extra, main=main))

    def finished(self):
        """Return how many tasks have their file."""
        return sum(1 for _ in self.out.glob("spectra/*.parquet"))

    def assert_whole(self):
        """Every row is there once, and nothing is wrong with it."""
        store = open_store(self.out)
        assert verify(store).problems == ()
        every = Counter((row.shard, row.key, row.layer, row.status) for row in store.rows())
        keys = [f"photo{i:02}" for i in range(self.photos)]
        assert every == Counter(("s.tar", key, layer, "ok") for key in keys for layer in LAYERS)


def ended(process):
    """Wait for a process; return its exit code and what it wrote to stderr."""
    try:
        _, output = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output


def reached(process, happened, look_every=0.005):
    """Wait until something has happened; False if the process ended before."""
    latest = time.monotonic() + LONGEST
    while process.poll() is None and time.monotonic() < latest:
        if happened():
            return True
        time.sleep(look_every)
    return happened()


def stopped(process, number):
    """Send a signal; return the exit code and what was written to stderr."""
    process.send_signal(number)
    return ended(process)
