"""Workers of a real Ray cluster on this machine, some of which are killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support.shards import encoded, sample_members, write_tar

from jvpsvd.errors import EngineError, MissingPackageError
from jvpsvd.machine import granted_cores
from jvpsvd.survey import PhotoSelection, Spec, open_run, run, verify
from jvpsvd.survey.progress.journal import events, journals

pytestmark = [
    pytest.mark.ray,
    # Ray leaves sockets and processes to the end of the interpreter.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
pytest.importorskip("ray", reason="needs the ray extra")
psutil = pytest.importorskip("psutil", reason="finds the workers to kill")

DEADLY = """
import os
import signal

import torch
from tiny import SIZE, net


class Deadly(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()[0]

    def forward(self, x):
        if type(x) is torch.Tensor and float(x.detach().amin()) > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(x)


def deadly():
    return Deadly().eval(), SIZE
"""
CHOOSY = """
import os

import torch
from tiny import SIZE, net

if os.getpid() != int(os.environ["DRIVER"]):
    raise ImportError("not on this machine")


class Choosy(torch.nn.Sequential):
    pass


def choosy():
    return Choosy(*net()[0]).eval(), SIZE
"""
NOTING = """
import json
import os
from pathlib import Path

import torch
from tiny import SIZE, net


class Noting(torch.nn.Sequential):
    def forward(self, x):
        file = Path(os.environ["NOTES"], f"{os.getpid()}.json")
        file.write_text(json.dumps([os.environ.get("OMP_WAIT_POLICY"), torch.get_num_threads()]))
        return super().forward(x)


def noting():
    return Noting(*net()[0]).eval(), SIZE
"""
COUNT = 16


@pytest.fixture
def wanted(tiny, tmp_path):
    """The arguments of a spec over a few good photos."""
    members = [m for i in range(COUNT) for m in sample_members(f"photo{i:02}", i, i % 3)]
    shard = write_tar(tmp_path / "many.tar", members)
    return {"shards": [shard], "model": "tiny:net", "k": 10, "layers": ["2", "output"], "batch": 1}


def spectra(results):
    return {
        (row["key"], row["layer"]): np.array(row["s"])
        for row in results.table().to_pylist()
        if row["status"] == "ok"
    }


def observers():
    """The processes of the workers that hold a network."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if "ray::Worker" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def assert_whole(results, local):
    assert verify(results.store).problems == ()
    ours, theirs = spectra(results), spectra(local)
    assert ours.keys() == theirs.keys()
    assert all(np.allclose(ours[key], theirs[key], rtol=1e-5) for key in ours)


@pytest.fixture
def local(wanted, tmp_path):
    """The results of an undisturbed run in one process."""
    return run(Spec(**wanted, out=tmp_path / "local")).results


def test_two_workers_compute_what_one_process_does(wanted, local, tmp_path):
    outcome = run(Spec(**wanted, engine="ray", workers=2, out=tmp_path / "run"))
    assert (outcome.computed, outcome.failures) == (COUNT, 0)
    assert_whole(outcome.results, local)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [None, "active"])
def test_waiting_threads_of_a_worker_sleep_unless_the_user_chose(
    wanted, tiny, tmp_path, monkeypatch, chosen
):
    (tiny / "noting.py").write_text(NOTING)
    monkeypatch.setenv("NOTES", str(tiny))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    wanted["model"] = "noting:noting"
    assert run(Spec(**wanted, engine="ray", workers=1, out=tmp_path / "run")).failures == 0
    notes = {int(file.stem): json.loads(file.read_text()) for file in tiny.glob("*.json")}
    del notes[os.getpid()]  # the driver, which looks at the network first
    assert list(notes.values()) == [[chosen or "passive", granted_cores()]]


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(wanted, local, tmp_path):
    killed = []

    def report(progress):
        if progress.rows and not killed:
            victim = observers()[0]
            victim.kill()
            killed.append(victim.pid)

    outcome = run(Spec(**wanted, engine="ray", workers=2, out=tmp_path / "run"), report)
    assert killed
    assert outcome.failures == 0
    assert_whole(outcome.results, local)


@pytest.mark.slow
def test_a_task_that_kills_its_workers_ends_as_a_row(wanted, tmp_path):
    (tmp_path / "code" / "deadly.py").write_text(DEADLY)
    members = [m for i in range(3) for m in sample_members(f"photo{i:02}", i, 0)]
    members.insert(2, ("white.jpg", _white()))
    shard = write_tar(tmp_path / "white.tar", members)
    options = {**wanted, "shards": [shard], "model": "deadly:deadly", "layers": ["output"]}
    outcome = run(Spec(**options, engine="ray", workers=2, out=tmp_path / "run"))
    rows = {row.key: row for row in outcome.store.rows()}
    assert {key for key, row in rows.items() if row.status == "ok"} == {
        "photo00",
        "photo01",
        "photo02",
    }
    assert rows["white"].status == "worker-died"
    assert "3 times, the last time alone" in rows["white"].message
    events_logged = [e for file in journals(tmp_path / "run") for e in events(file)]
    assert [e["deaths"] for e in events_logged if e["event"] == "worker died"] == [1, 2, 3]
    assert verify(outcome.store).problems == ()


@pytest.mark.slow
def test_a_killed_driver_is_resumed(wanted, local, tmp_path):
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-c", "from jvpsvd.cli import main; main()", "run"),
        *("--model", "tiny:net", "-k", "10", "--layers", "2,output", "--batch", "1"),
        *("--shards", str(tmp_path / "many.tar"), "--out", str(out)),
        *("--engine", "ray", "--workers", "2"),
    ]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and not list((out / "spectra").glob("*.parquet")):
        time.sleep(0.02)
    assert driver.poll() is None
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = run(Spec(**wanted, engine="ray", workers=2, out=out))
    assert again.skipped >= 1
    assert again.skipped + again.computed == COUNT
    assert_whole(again.results, local)


@pytest.mark.slow
def test_a_lost_node_costs_nothing(wanted, local, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = []
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

        def report(progress):
            if progress.photos_done >= 3 and not lost:
                lost.append(node)
                for process in node.all_processes["raylet"]:
                    for child in psutil.Process(process.process.pid).children(recursive=True):
                        child.kill()
                cluster.remove_node(node, allow_graceful=False)

        spec = Spec(
            **wanted, engine="ray", address=cluster.address, workers=2, out=tmp_path / "run"
        )
        outcome = run(spec, report)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost
    assert outcome.failures == 0
    assert_whole(outcome.results, local)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_no_cluster_is_one_error(wanted, tmp_path, address):
    spec = Spec(**wanted, engine="ray", address=address, out=tmp_path / "run")
    with pytest.raises(EngineError, match=rf"no Ray cluster at {address}"):
        run(spec)
    assert not (tmp_path / "run").exists()


def test_what_ray_lacks_is_told_before_a_folder_is_made(wanted, tmp_path, monkeypatch):
    """A run that was begun would refuse the next one with other options."""
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="no GPU"):
            run(Spec(**wanted, engine="ray", device="cuda", out=tmp_path / "run"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match="engine 'ray' needs ray"):
        run(Spec(**wanted, engine="ray", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert run(Spec(**{**wanted, "k": 2}, out=tmp_path / "run"), report=False).failures == 0


@pytest.mark.slow
def test_workers_that_cannot_start_are_one_error(wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    (tmp_path / "code" / "choosy.py").write_text(CHOOSY)
    options = {**wanted, "model": "choosy:choosy", "layers": ["output"]}
    with pytest.raises(EngineError, match=r"workers do not start .*not on this machine"):
        run(Spec(**options, engine="ray", workers=1, out=tmp_path / "run"))


def _white():
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (24, 20), "white").save(file, "PNG")
    assert encoded(0)
    return file.getvalue()


@pytest.mark.slow
def test_open_run_of_a_ray_run_is_like_any_other(wanted, tmp_path):
    run(
        Spec(
            **wanted, engine="ray", workers=1, photos=PhotoSelection(limit=2), out=tmp_path / "run"
        )
    )
    assert open_run(tmp_path / "run").spectra("output").s.shape == (2, 10)
