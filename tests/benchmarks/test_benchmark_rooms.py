"""A room of benchmarks/ imports only from rooms before it."""

import ast
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
ROOMS = ["problems", "solvers", "measure", "publish", "parts", "__main__"]
FILES = {str(file.relative_to(FOLDER).with_suffix("")): file for file in FOLDER.rglob("*.py")}


def rooms_imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("benchmarks."))


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"__init__"}))
def test_rooms_import_only_from_rooms_before(name):
    own = ROOMS.index(name.split("/")[0])
    assert all(ROOMS.index(room) <= own for room in rooms_imported(FILES[name]))


def test_no_file_is_longer_than_one_idea():
    lines = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    assert {name: n for name, n in lines.items() if n > 400} == {}
