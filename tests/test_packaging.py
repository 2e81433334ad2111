"""What a wheel must hold, and what pyproject.toml and the messages say of it."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import jvpsvd

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DATA = {
    "py.typed": "",
    "data/wordnet30/LICENSE": "Princeton University",
    "data/wordnet30/nouns.tsv": "n02084071",
    "report/assets/page.css": "{",
    "report/assets/page.html": "<html",
    "report/assets/chart.js": "function",
    "report/assets/page.js": "function",
    "report/assets/photos.js": "function",
    "report/assets/tables.js": "function",
}


@pytest.mark.parametrize("name", DATA)
def test_data_is_read_from_the_package(name):
    assert DATA[name] in files("jvpsvd").joinpath(name).read_text("utf-8")


def test_every_file_of_data_is_in_the_list_above():
    package = Path(jvpsvd.__file__).parent
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert found == set(DATA)


def test_paths_of_pyproject_are_there():
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()
    for pattern in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert list(ROOT.glob(pattern.lstrip("/"))), pattern


def test_one_version_is_stated_everywhere():
    version = PROJECT["project"]["version"]
    assert jvpsvd.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_extra_that_a_message_names_exists():
    extras = set(PROJECT["project"]["optional-dependencies"])
    named = set()
    for file in Path(jvpsvd.__file__).parent.rglob("*.py"):
        for list_of_extras in re.findall(r"jvpsvd\[([\w,]+)\]", file.read_text("utf-8")):
            named |= set(list_of_extras.split(","))
    assert {"demo", "plot", "report", "ray", "caffe", "remote"} <= named <= extras
