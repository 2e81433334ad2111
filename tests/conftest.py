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

TINY = """
import torch
from torch import nn
from jvpsvd.networks import PhotoInput

SIZE = PhotoInput(size=16, resize=18)


def net():
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 30),
    )
    torch.random.set_rng_state(generator)
    return model.eval(), SIZE


def other():
    model, size = net()
    with torch.no_grad():
        model[0].weight.mul_(2)
    return model, size


def repeating():
    model, size = net()
    with torch.no_grad():
        model[6].weight[20:] = model[6].weight[0]  # rank 20 at most
    return model, size


def training():
    model, size = net()
    return model.train(), size


def poisoned():
    model, size = net()
    with torch.no_grad():
        model[6].weight.fill_(float("nan"))
    return model, size


def quits():
    raise SystemExit("no network today")


class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()[0]

    def forward(self, x):
        y = self.inner(x)
        return y if y.sum() > -1e9 else -y


def looking():
    return Looking().eval(), SIZE
"""


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
