"""The package and its command, before anything large is imported."""

import signal
import subprocess
import sys

import pytest

import jvpsvd

LOADING = """
import signal, sys, time

sys.argv = ["jvpsvd", *sys.argv[1:]]

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("loading", flush=True)
            time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.meta_path.insert(0, Slow())
from jvpsvd.__main__ import main
main()
"""


@pytest.mark.parametrize("command", ["run", "layers", "report nowhere", "verify nowhere"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_libraries_load_is_one_line(number, command):
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING, *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "jvpsvd: interrupted\n")


RUN = """
import sys, torch
from jvpsvd import survey

model = torch.nn.Linear(3, 2).eval()
spec = survey.Spec(
    inputs=[torch.ones(1, 3)], model=model, layers=["output"], k=2, out=sys.argv[1], device="cpu"
)
print(survey.run(spec, report=False).computed)
late = ("scipy", "matplotlib", "jvpsvd.geometry", "jvpsvd.report", "jvpsvd.studies")
print([name for name in late if name in sys.modules])
"""


def test_a_run_loads_no_more_than_its_rows_need(tmp_path):
    """Pandas is not in the list: pyarrow loads it with the first table, where it is installed."""
    command = [sys.executable, "-c", RUN, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n[]\n"


def test_importing_jvpsvd_waits_for_torch_until_a_name_is_used():
    code = "import sys, jvpsvd; print(jvpsvd.__version__, 'torch' in sys.modules, dir(jvpsvd))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{jvpsvd.__version__} False ")
    assert "'svds'" in done.stdout


ROOMS = [
    "data",
    "errors",
    "geometry",
    "networks",
    "operators",
    "plot",
    "report",
    "studies",
    "survey",
    "svd",
]


# A fork for each room: none is there because another one has loaded it.
EACH = """
import os, sys, jvpsvd
print('torch' in sys.modules, flush=True)
import torch
for room in sys.argv[1:]:
    if not os.fork():
        print(getattr(jvpsvd, room).__name__)
        break
    os.wait()
"""


def test_every_room_is_there_after_import():
    command = [sys.executable, "-c", EACH, *ROOMS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", *(f"jvpsvd.{room}" for room in ROOMS)]


@pytest.mark.parametrize("before", ["", "jvpsvd.svds, jvpsvd.survey;", "import jvpsvd.cli;"])
def test_dir_shows_what_is_public_and_nothing_else(before):
    code = f"import jvpsvd; {before} print(dir(jvpsvd))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted([*jvpsvd.__all__, *ROOMS])}\n"


def test_every_name_is_there_and_no_other():
    for name in jvpsvd.__all__:
        assert getattr(jvpsvd, name) is not None
    assert jvpsvd.operators.stack is jvpsvd.stack
    with pytest.raises(AttributeError, match="no attribute 'svd5'"):
        _ = jvpsvd.svd5
