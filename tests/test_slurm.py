"""The example of a job array, run as SLURM would run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shards import sample_members, write_tar

from jvpsvd.survey import open_run, verify

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"


def test_job_array_is_one_run(tiny, tmp_path):
    if not (Path(sys.executable).parent / "jvpsvd").exists():
        pytest.skip("the command jvpsvd is not installed beside this Python")
    members = [m for i in range(5) for m in sample_members(f"photo{i}", i, i)]
    write_tar(tmp_path / "s.tar", members)
    arguments = ["--model", "tiny:net", "-k", "10", "--layers", "2", "--batch", "1"]
    jobs = [
        {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "1", "SHARES": "2"},  # once more
    ]
    for job in jobs:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments, "--shards", "s.tar", "--out", "run"],  # noqa: S607
            cwd=tmp_path,
            env={**os.environ, **job, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    results = open_run(tmp_path / "run")
    assert verify(results.store).problems == ()
    assert results.spectra("2").s.shape == (5, 10)
