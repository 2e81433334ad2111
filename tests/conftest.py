import gc
import hashlib
import os
import shutil
import sys
from pathlib import Path

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


@pytest.fixture
def surveyed(tiny, tmp_path):
    """A function that runs the tiny net over shards, photo by photo, and returns the outcome."""
    from jvpsvd.survey import PhotoSelection, Spec, run

    def survey(shards, out="run", model="tiny:net", report=False, **wanted):
        defaults = {"k": 10, "layers": ["2", "output"], "batch": 1, "choice": "first"}
        options = {**defaults, **wanted}
        names = ("classes", "per_class", "limit", "choice")
        photos = PhotoSelection(**{name: options.pop(name) for name in names if name in options})
        spec = Spec(shards=shards, model=model, out=tmp_path / out, photos=photos, **options)
        return run(spec, report)

    return survey


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """A folder of runs that have ended, to be copied."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def finished(surveyed, shard, tmp_path, finished_runs):
    """A function that returns the store of a run over `shard`, as `surveyed` runs it.

    Of each kind one is computed in a session: what a test harms is a copy.
    """
    from jvpsvd.survey import open_store

    def find(**wanted):
        kept = finished_runs / hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()
        if not kept.exists():
            shutil.copytree(surveyed([shard], "computed", **wanted).store.folder, kept)
        return open_store(Path(shutil.copytree(kept, tmp_path / "run")))

    return find


@pytest.fixture
def count_recordings(caplog):
    """A function that returns how often `Derivatives` has recorded a network, as the log says."""
    caplog.set_level("INFO", logger="jvpsvd")
    return lambda: sum(": recorded at " in record.getMessage() for record in caplog.records)


@pytest.fixture
def only_new_objects():
    """Python collects and lists what the test makes alone: all the rest would take a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
