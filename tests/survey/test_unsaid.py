"""A run goes on as it was begun in what its caller leaves open."""

import json
import subprocess
import sys

import pytest
from support.shards import sample_members, write_tar

from jvpsvd.errors import RunError
from jvpsvd.survey import verify


@pytest.fixture
def shard(tmp_path):
    members = [m for i in range(4) for m in sample_members(f"photo{i}", i, i % 2)]
    return write_tar(tmp_path / "s.tar", members)


def stop_after(photos):
    def stop(progress):
        if progress.photos_done == photos:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize(
    ("begun", "field", "value"),
    [
        ({"vectors": 2}, "small_vectors", 2),
        ({"vectors": True}, "vectors", True),
        ({"batch": 2}, "batch", 2),
    ],
)
def test_an_unfinished_run_goes_on_with_what_it_was_begun_with(
    surveyed, shard, begun, field, value
):
    with pytest.raises(KeyboardInterrupt):
        surveyed([shard], report=stop_after(2), **begun)
    outcome = surveyed([shard], **dict.fromkeys(begun))
    assert (outcome.computed, outcome.skipped) == (2, 2)
    assert getattr(outcome.store.identity, field) == value
    assert verify(outcome.store).problems == ()


def test_a_demo_of_a_version_without_small_vectors_goes_on(surveyed, tmp_path):
    """Version 0.1 wrote no such field, and its demo kept no vectors; today's keeps four."""
    with pytest.raises(KeyboardInterrupt):
        surveyed(None, vectors=False, limit=3, report=stop_after(1))
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    for name in ("small_vectors", "density", "inputs", "start", "start_shape", "probe"):
        del record["identity"][name]
    del record["checksum"]
    file.write_text(json.dumps(record))
    outcome = surveyed(None, limit=3)
    assert (outcome.computed, outcome.skipped) == (2, 1)
    assert not outcome.store.identity.has_vector_files


@pytest.mark.parametrize(
    ("begun", "said", "message"),
    [
        ({"batch": 2}, {"batch": 3}, "batch = 2, now 3"),
        ({"vectors": 2}, {"vectors": 3}, "small_vectors = 2, now 3"),
        ({"vectors": True}, {"vectors": False}, "vectors = True, now False"),
    ],
)
def test_what_is_said_must_be_what_it_was_begun_with(surveyed, shard, begun, said, message):
    surveyed([shard], **begun)
    with pytest.raises(RunError, match=message):
        surveyed([shard], **said)


@pytest.mark.parametrize(
    "broken", ["raise ImportError('built for another\\nPython')", "raise TypeError('descriptors')"]
)
def test_ray_that_cannot_be_imported_is_told_in_one_line(tiny, shard, tmp_path, broken):
    (tiny / "ray").mkdir()
    (tiny / "ray" / "__init__.py").write_text(broken)
    command = [sys.executable, "-m", "jvpsvd", "run", "--engine", "ray", "--model", "tiny:net"]
    command += ["--layers", "output", "-k", "3", "--shards", str(shard)]
    command += ["--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("jvpsvd: engine 'ray' cannot import ray (")
