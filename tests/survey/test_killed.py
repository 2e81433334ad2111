"""Runs that are killed, interrupted, or find the disk full, and then continued."""

import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.command_line import MAIN, CommandLine, ended, reached, stopped
from support.shards import encoded

from jvpsvd.data import decode_photo
from jvpsvd.networks import layer_map, load_model
from jvpsvd.survey import open, open_store

KILLED_WITHIN_A_PHOTO = """
import os, signal, time
from pathlib import Path
from jvpsvd import survey

solved = []

def report(progress):
    if progress.layer == "output":
        os.kill(os.getpid(), signal.SIGKILL)
    if progress.layer and not solved:
        solved.append(progress.layer)
        time.sleep(1.1)

asked = {"model": "tiny:net", "shards": [Path("s.tar")], "out": "out", "k": 5, "batch": 1}
survey.run(survey.Spec(layers=("2", "output"), **asked), report=report)
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (%d, %d)); " + MAIN


@pytest.fixture
def line(tiny, tmp_path):
    return CommandLine(tmp_path)


@pytest.fixture
def undisturbed(surveyed, line):
    """A function that returns the values of a run in one piece, by photo and depth."""

    def values():
        rows = surveyed([line.shard], "undisturbed", k=5).store.rows()
        return {(row.key, row.layer): row.s for row in rows}

    return values


def values_of(line):
    return {(row.key, row.layer): row.s for row in open_store(line.out).rows()}


def assert_close(one, two):
    """To rounding: how many vectors go through at once is timed, and differs under load."""
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=0, atol=2e-6 * two[key][0])


def kill_after(line, dice, *extra):
    """Kill a run at a random instant after it has begun to finish photos; return its signal."""
    process = line.start(*extra)
    enough = line.finished() + dice.randrange(1, 6)
    assert reached(process, lambda: line.finished() >= enough)
    time.sleep(dice.uniform(0, 0.1))
    return stopped(process, signal.SIGKILL)[0]


def kill_when(line, pattern, *extra):
    """Kill a run as soon as a file of this name is there."""
    process = line.start(*extra)
    assert reached(process, lambda: any(line.folder.glob(pattern)), look_every=0)
    return stopped(process, signal.SIGKILL)[0]


@pytest.mark.slow
def test_run_killed_at_random_instants_holds_every_row_once(line, undisturbed):
    dice = random.Random(5)
    assert kill_when(line, "out/run.json*") == -signal.SIGKILL
    assert kill_when(line, "out/manifest*") == -signal.SIGKILL
    assert kill_after(line, dice) == -signal.SIGKILL
    assert kill_when(line, "out/spectra/*.part") == -signal.SIGKILL
    assert 1 <= line.finished() < line.photos
    code, output = line.complete()
    assert code == 0, output
    line.assert_whole()
    assert_close(values_of(line), undisturbed())
    check = [sys.executable, "-c", MAIN, "verify", "out"]
    said = subprocess.run(check, cwd=line.folder, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout.split()[0]) == (0, "80")


def test_run_killed_within_a_photo_computes_what_it_stored_not_again(tiny, tmp_path):
    line = CommandLine(tmp_path, photos=2)
    assert ended(line.start(main=KILLED_WITHIN_A_PHOTO))[0] == -signal.SIGKILL
    (stored,) = open_store(line.out).rows()
    assert stored.layer == "2"
    code, output = line.complete()
    assert code == 0, output
    line.assert_whole()
    assert stored in open_store(line.out).rows()


@pytest.mark.slow
@pytest.mark.parametrize("again", [0, 1])
def test_run_with_vectors_killed_while_it_writes_has_them_all(line, undisturbed, again):
    dice = random.Random(7)
    assert kill_when(line, "out/vectors/*.part", "--vectors") == -signal.SIGKILL
    for _ in range(again):
        assert kill_after(line, dice, "--vectors") == -signal.SIGKILL
    code, output = line.complete("--vectors")
    assert code == 0, output
    line.assert_whole()
    assert_close(values_of(line), undisturbed())
    assert_vectors(line)


def assert_vectors(line):
    """Every row has vectors of its own that are orthonormal and go with its values."""
    results = open(line.out)
    assert len(list((line.out / "vectors").glob("*.safetensors"))) == 2 * line.photos
    for file in (line.out / "vectors").glob("*.safetensors"):
        load_file(file)
    model = load_model("tiny:net")
    for row in results.store.rows()[::13]:
        found = results.vectors(row.shard, row.key, row.layer)
        U, s, Vh = (found[name] for name in ("U", "s", "Vh"))
        np.testing.assert_allclose(s.double(), row.s, rtol=1e-6)
        for vectors in (U.T @ U, Vh @ Vh.T):
            torch.testing.assert_close(vectors, torch.eye(5), atol=1e-4, rtol=0)
        photo = decode_photo(encoded(int(row.key[-2:])), model.photo_input)
        f, z = layer_map(model.module, photo, to=row.layer)
        J = torch.func.jacrev(f)(z).reshape(-1, z.numel())
        torch.testing.assert_close(J @ Vh.T, U * s, atol=1e-4 * float(s[0]), rtol=0)


@pytest.mark.slow
def test_two_shares_killed_and_continued_are_one_run(line, undisturbed):
    dice = random.Random(11)
    both = [line.start("--share", f"{i}/2") for i in range(2)]
    assert reached(both[0], lambda: line.finished() >= 6)
    time.sleep(dice.uniform(0, 0.1))
    assert [stopped(process, signal.SIGKILL)[0] for process in both] == [-signal.SIGKILL] * 2
    both = [line.start("--share", f"{i}/2") for i in range(2)]
    codes = [ended(process) for process in both]
    assert [code for code, _ in codes] == [0, 0], codes
    line.assert_whole()
    assert_close(values_of(line), undisturbed())


@pytest.mark.slow
def test_signal_at_random_instants_is_130_and_one_line(line, undisturbed):
    dice = random.Random(3)
    for number, enough in ((signal.SIGTERM, 0), (signal.SIGINT, dice.randrange(1, 9))):
        process = line.start()
        enough += line.finished()
        assert reached(process, lambda: line.out.exists() and line.finished() >= enough)  # noqa: B023
        time.sleep(dice.uniform(0, 0.1))
        code, output = stopped(process, number)
        assert (code, others(output)) == (130, ["jvpsvd: interrupted; the same command continues"])
        assert list(line.out.rglob("*.part")) == []
    code, output = line.complete()
    assert code == 0, output
    line.assert_whole()
    assert_close(values_of(line), undisturbed())


def others(output):
    """The lines that do not say which photo is done."""
    return [text for text in output.splitlines() if not re.match(r"photo \d+/\d+ ", text)]


FULL = ((600, "."), (2000, "run.json"), (4000, "manifest.parquet"), (9000, "log"))


@pytest.mark.parametrize("limits", [FULL[2:3], pytest.param(FULL, marks=pytest.mark.slow)], ids=len)
def test_full_disk_is_one_line_and_the_same_command_continues(tiny, tmp_path, limits):
    line = CommandLine(tmp_path, photos=8)
    for limit, whole in limits:
        code, output = line.complete("--vectors", main=LIMITED % (limit, limit))
        assert (code, len(others(output))) == (2, 1), output
        assert "File too large" in output.splitlines()[-1]
        assert list(line.out.rglob("*.part")) == []
        assert (line.out / whole).exists()
        assert line.finished() == 0
    code, output = line.complete("--vectors")
    assert code == 0, output
    line.assert_whole()
    assert_vectors(line)
