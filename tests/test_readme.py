import re
from pathlib import Path

import pytest

from benchmarks import readme

ROOT = Path(__file__).parents[1]


def commands():
    return re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.M)


def test_two_commands_do_all_the_set_up():
    run, test = commands()
    assert run.endswith(".venv/bin/jvpsvd run")
    assert test.endswith(".venv/bin/pytest -q -n auto")
    assert all("-c constraints.txt" in command for command in (run, test))


def test_ci_calls_exactly_the_test_command():
    assert commands()[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_figure_of_the_architecture_shows_every_room():
    figure = (ROOT / "examples" / "figures" / "architecture.svg").read_text()
    rooms = {path.stem for path in (ROOT / "jvpsvd").iterdir() if not path.name.startswith("__")}
    shown = set(re.findall(r'font-weight="bold" fill="#111">(\w+)<', figure))
    assert shown == rooms - {"py"}  # py.typed


def test_readme_names_files_that_exist():
    for name in re.findall(r"\]\(([a-z][^):#]*)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("file", "parts"), [("README.md", ["peers", "floors", "safety"]), ("benchmarks/README.md", [])]
)
def test_figures_of_performance_are_those_that_were_measured(file, parts):
    results = sorted(str(path) for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    only = [word for part in parts for word in ("--only", part)]
    assert readme.main([*results, str(ROOT / file), *only, "--check"]) == 0
