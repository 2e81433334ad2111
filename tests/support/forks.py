"""Processes of their own that begin at once: forks of a server that has imported what runs need.

The server never runs Arrow's threads or torch's: a fork of a process that has run them can hang.
"""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["jvpsvd.cli", "jvpsvd.report", "jvpsvd.survey.work.run", "matplotlib.figure",
     "pyarrow.dataset", "pyarrow.parquet", "torch._dynamo", "webdataset"]
)  # fmt: skip


class Forked:
    """A program in a folder, as `subprocess.Popen` has it; its text goes to pipes."""

    def __init__(self, program, *arguments, folder):
        pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
        self._readers, writers = zip(*pipes, strict=True)
        given = (program, arguments, str(folder), dict(os.environ), *writers)
        self._process = FORKS.Process(target=_act, args=given)
        self._process.start()
        for writer in writers:
            writer.close()  # of this process: reading ends when the other one does

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def communicate(self, timeout=None):
        """Wait for its end, and return what it wrote to stdout and stderr."""
        with ThreadPoolExecutor(2) as threads:
            texts = [threads.submit(_read, reader) for reader in self._readers]
            self._process.join(timeout)
            ended = self._process.exitcode is not None
            if not ended:
                self._process.kill()
        if not ended:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return tuple(text.result() for text in texts)


def _read(reader):
    parts = []
    while part := os.read(reader.fileno(), 1 << 16):
        parts.append(part)
    reader.close()
    return b"".join(parts).decode(errors="replace")


def _act(program, arguments, folder, environment, *writers):
    import torch

    for name, writer in zip(("stdout", "stderr"), writers, strict=True):
        os.dup2(writer.fileno(), getattr(sys, f"__{name}__").fileno())
        stream = os.fdopen(os.dup(writer.fileno()), "w", encoding="utf-8", buffering=1)
        setattr(sys, name, stream)
        writer.close()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = ["-c", *arguments]
    torch.set_num_threads(1)
    exec(program, {"__name__": "__main__"})  # noqa: S102 -- a test's own
