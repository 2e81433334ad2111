"""The wheel in fresh environments, with the core alone and with an extra; asks a registry."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tests" / "support" / "smoke.py"
pytestmark = pytest.mark.slow


def run(*command, cwd, code=0):
    """What a command prints; it sees nothing of this checkout."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(command, cwd=cwd, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", ".", str(ROOT), cwd=folder)
    (built,) = folder.glob("jvpsvd-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of an environment with the wheel and the pinned core."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    pip(folder, wheel)
    return folder


def pip(folder, requirement):
    command = ["venv/bin/pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    run(*command, str(requirement), cwd=folder)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jvpsvd"}
    assert {"jvpsvd/py.typed", "jvpsvd/report/assets/page.html"} <= set(names)


def test_the_core_alone_and_then_with_the_survey(wheel, installed):
    listed = run("venv/bin/pip", "list", "--format=freeze", cwd=installed)
    assert not {"click", "pyarrow", "rich", "pillow"} & {
        line.split("==")[0].lower() for line in listed.splitlines()
    }
    assert run("venv/bin/python", str(SMOKE), cwd=installed).endswith("5 passed, 0 failed\n")
    said = run("venv/bin/jvpsvd", "run", cwd=installed, code=2)
    assert said == "jvpsvd: the command jvpsvd needs click; pip install 'jvpsvd[survey]'\n"
    pip(installed, f"{wheel}[survey]")
    assert run("venv/bin/jvpsvd", "--version", cwd=installed).startswith("jvpsvd 0.")
    said = run("venv/bin/jvpsvd", "run", cwd=installed, code=2)
    assert said.endswith("pip install 'jvpsvd[demo]'\n")
    assert said.count("\n") == 1
    (installed / "mine.py").write_text(
        "from torch import nn\nfrom jvpsvd.networks import PhotoInput\n"
        "def net():\n    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())\n"
        "    return net.eval(), PhotoInput(size=8, resize=8)\n"
    )
    (installed / "photos" / "cat").mkdir(parents=True)
    image = "from PIL import Image; Image.new('RGB', (9, 9)).save('photos/cat/a.png')"
    run("venv/bin/python", "-c", image, cwd=installed)
    run("venv/bin/jvpsvd", "pack", "photos", "shards", cwd=installed)
    said = run(
        "venv/bin/python", "-m", "jvpsvd", "run", "--model", "mine:net",
        "--shards", "shards", "-k", "3", "--layers", "output", cwd=installed,
    )  # fmt: skip
    assert "1 photo computed" in said
