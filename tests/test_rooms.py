import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import jvpsvd

PACKAGE = Path(jvpsvd.__file__).parent
# A room imports only from rooms before it; those before operators stand below all of them.
ROOMS = [
    "errors",
    "imports",
    "arguments",
    "records",
    "scaling",
    "machine",
    "text_table",
    "plot",
    "operators",
    "svd",
    "networks",
    "data",
    "geometry",
    "studies",
    "survey",
    "report",
    "commands",
    "cli",
]
ROOMS += ["__main__"]
SURVEY = ["spec", "store", "progress", "work"]


@functools.cache
def modules():
    return {
        ".".join(("jvpsvd", *file.relative_to(PACKAGE).with_suffix("").parts)): file
        for file in PACKAGE.rglob("*.py")
    }


def imports(file):
    """The jvpsvd modules that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {file}"
            # `from jvpsvd import data` imports a room, `from jvpsvd.data import walk` a name.
            names = (
                [f"jvpsvd.{alias.name}" for alias in node.names]
                if node.module == "jvpsvd"
                else [node.module]
            )
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "jvpsvd")


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(modules()))
def test_rooms_import_only_from_rooms_above(module):
    if module == "jvpsvd.__init__":
        return
    own = ROOMS.index(room(module))
    for name in imports(modules()[module]):
        if name == "jvpsvd.__version__":
            continue
        if name == "jvpsvd":
            assert room(module) in ("cli", "commands")
            continue
        assert ROOMS.index(room(name)) <= own, f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(m for m in modules() if len(m.split(".")) == 4))
def test_folders_of_the_survey_import_only_from_folders_above(module):
    if room(module) != "survey":
        return
    own = SURVEY.index(module.split(".")[2])
    for name in imports(modules()[module]):
        if name.startswith("jvpsvd.survey"):
            assert SURVEY.index(name.split(".")[2]) <= own, f"{module} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for module, file in modules().items():
        if not module.endswith("__init__"):
            graph[module] = {n for n in imports(file) if n in modules() and n != module}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("jvpsvd.errors") < order.index("jvpsvd.operators.jacobian")


def test_the_check_sees_imports():
    assert "jvpsvd.operators" in set(imports(PACKAGE / "svd" / "svds.py"))


def test_importing_jvpsvd_does_not_import_the_survey_or_plotting():
    code = (
        "import sys, jvpsvd; jvpsvd.svds, jvpsvd.depths\n"
        "print([m for m in ('pyarrow', 'matplotlib', 'webdataset', 'PIL', 'rich', "
        "'click', 'scipy.sparse', 'jvpsvd.survey') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_file_is_longer_than_one_idea():
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 420, file


def test_validation_raises_and_never_asserts():
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), file


def test_no_two_test_files_share_a_name():
    """Pytest imports them by their names alone."""
    names = [file.name for file in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
