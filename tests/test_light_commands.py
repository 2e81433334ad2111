"""Commands that only tell something answer without torch, which takes seconds to load."""

import os
import subprocess
import sys

import pytest
from support.shards import sample_members, write_tar

from jvpsvd.cli import main

NAMING = """
import sys
from jvpsvd.__main__ import main

try:
    main()
finally:
    print([name for name in ("torch", "scipy", "pandas") if name in sys.modules], file=sys.stderr)
"""
COMPLETION = {
    "COMP_WORDS": "jvpsvd run --en",
    "COMP_CWORD": "2",
    "_JVPSVD_COMPLETE": "bash_complete",
}


def call(arguments, **variables):
    return subprocess.run(
        [sys.executable, "-c", NAMING, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


HELP = [
    [],
    ["--help"],
    *([name, "--help"] for name in ("run", "layers", "verify", "report", "pack")),
]


@pytest.mark.parametrize("arguments", [*HELP, ["--version"]], ids=" ".join)
def test_help_and_version(arguments):
    done = call(arguments)
    assert done.stderr == "[]\n"
    assert done.stdout.startswith(("Usage: jvpsvd", "jvpsvd 0."))


def test_completion():
    done = call([], **COMPLETION)
    assert (done.stdout, done.stderr) == ("plain,--engine\n", "[]\n")


def test_status(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shard = write_tar(tmp_path / "s.tar", sample_members("photo", 0, 0))
    wanted = ["run", "--model", "tiny:net", "-k", "3", "--layers", "output", "--shards", str(shard)]
    with pytest.raises(SystemExit):
        main([*wanted, "--vectors", "--out", "run"])
    done = call(["run", "--status", "run"])
    assert done.stdout.startswith("1 of 1 photo done")
    assert done.stderr == "[]\n"


def test_the_version_is_that_of_the_libraries():
    import numpy
    import torch

    import jvpsvd

    said = call(["--version"]).stdout
    for version in (jvpsvd.__version__, torch.__version__, numpy.__version__):
        assert f" {version}" in said
