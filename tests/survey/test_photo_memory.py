"""A photo that memory does not hold costs its own rows, which another try may mend."""

import subprocess
import sys

import pytest
from PIL import Image

LIMITED = """
import re, resource, sys
from pathlib import Path
import torch
from torch import nn
from jvpsvd.data import Sample
from jvpsvd.networks import Model, PhotoInput, weights_sha256
from jvpsvd.survey import Identity
from jvpsvd.survey.work.photo_solver import PhotoSolver
from jvpsvd.survey.spec.tasks import make_tasks

net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval().requires_grad_(False)
model = Model("m", net, PhotoInput(size=4, resize=4), weights_sha256(net))
identity = Identity("m", "w", model.photo_input, ("s",), ("c",), ("output",), 2, 1e-5, batch=2)
solver = PhotoSolver(model, identity)
samples = [Sample("s", name, 0, 1, None, None) for name in ("large", "small")]
(task,) = make_tasks(identity, samples)
photos = [Path(name).read_bytes() for name in sys.argv[1:]]
solver.solve(solver.decode(task, photos[1:] * 2))
size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
rows = solver.solve(solver.decode(task, photos)).rows
print([(row.key, row.status) for row in rows])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_photo_that_memory_does_not_hold_is_a_row(tmp_path):
    Image.new("RGB", (9000, 9000)).save(tmp_path / "large.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", LIMITED, "large.png", "small.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[('large', 'out-of-memory'), ('small', 'ok')]\n", done.stderr[-900:]
