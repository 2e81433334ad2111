import os
import sys

if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
    # Before torch is imported, here and by the processes that tests start: see `wait_passively`.
    os.environ["OMP_WAIT_POLICY"] = "passive"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes side by side, each with as many threads as there are cores, wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from support.shards import sample_members, write_tar
from support.tiny_models import TINY


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a module `tiny` with small models, on the import path."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tiny.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    yield folder
    sys.modules.pop("tiny", None)


@pytest.fixture
def shard(tmp_path):
    """A shard of four good samples of two classes."""
    members = [m for i in range(4) for m in sample_members(f"photo{i}", i, i % 2)]
    return write_tar(tmp_path / "good-0000.tar", members)


@pytest.fixture(autouse=True)
def _one_thread(request):
    """Small problems on a shared machine: threads would only wait for each other."""
    if request.node.get_closest_marker("slow"):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
