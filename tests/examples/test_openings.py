"""Each example opens with what one learns by it."""

import ast
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = [
    file for file in sorted(EXAMPLES.glob("*.py")) if "    python examples/" in file.read_text()
]


@pytest.mark.parametrize("file", SCRIPTS, ids=[file.stem for file in SCRIPTS])
def test_a_script_says_what_one_learns(file):
    title, _, learned = ast.get_docstring(ast.parse(file.read_text())).splitlines()[:3]
    assert title.endswith((".", "?"))
    assert learned.startswith("You learn: ")


def test_the_list_of_examples_has_every_script():
    readme = (EXAMPLES / "README.md").read_text()
    assert {file.name for file in SCRIPTS if f"]({file.name})" not in readme} == set()
