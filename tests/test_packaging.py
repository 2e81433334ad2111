"""What a wheel must hold, and what pyproject.toml and the messages say of it."""

import ast
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import jvpsvd

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES, RAW = (
    "https://github.com/jvpsvd/jvpsvd/blob/main/",
    "https://raw.githubusercontent.com/jvpsvd/jvpsvd/main/",
)
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


def with_absolute_links(text):
    """Return a text as the build publishes it."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


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


def test_the_version_is_stated_once():
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
    file = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert file == Path(jvpsvd.__file__)
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {jvpsvd.__version__}\n" in cited
    assert re.search(r"\ndate-released: 20\d\d-\d\d-\d\d\n", cited)


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("![Spectra](docs/a.png)", f"![Spectra]({RAW}docs/a.png)"),
        ("[page](docs/a.md)", f"[page]({PAGES}docs/a.md)"),
        ("[part](docs/a.md#b)", f"[part]({PAGES}docs/a.md#b)"),
        ("[here](#below)", "[here](#below)"),
        ("[there](https://x.org/a)", "[there](https://x.org/a)"),
        ("![there](https://x.org/a.png)", "![there](https://x.org/a.png)"),
        ("`S[0](x)`", "`S[0](x)`"),
    ],
)
def test_links_of_readme_become_absolute(text, published):
    assert with_absolute_links(text) == published


def test_no_link_of_the_published_readme_is_relative():
    text = with_absolute_links((ROOT / "README.md").read_text("utf-8"))
    links = re.findall(r"\]\(([^)\s]*)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL))
    assert len(links) > 10
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


CORE = {"torch", "numpy", "scipy", "safetensors"}


def requirements(entries):
    return {re.match(r"[\w-]+", entry)[0].lower() for entry in entries}


def test_the_core_is_small_and_all_holds_every_extra_of_users():
    assert requirements(PROJECT["project"]["dependencies"]) == CORE
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = re.findall(r"\[([\w,]+)\]", " ".join(extras["all"]))
    reached, ahead = set(), set(everything.split(","))
    while ahead:
        name = ahead.pop()
        reached.add(name)
        for entry in extras[name]:
            if match := re.match(r"jvpsvd\[([\w,]+)\]", entry):
                ahead |= set(match[1].split(",")) - reached
    developers = {"all", "cuda", "peers", "test", "dev", "docs"}
    assert reached == set(extras) - developers


def test_every_extra_that_a_message_names_exists():
    extras = set(PROJECT["project"]["optional-dependencies"])
    named = set()
    for file in Path(jvpsvd.__file__).parent.rglob("*.py"):
        for list_of_extras in re.findall(r"jvpsvd\[([\w,]+)\]", file.read_text("utf-8")):
            named |= set(list_of_extras.split(","))
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Name("require" | "importing" | "package_folder"),
                    args=[_, ast.Constant(str(extra)), *_],
                ):
                    named.add(extra)
    assert {"demo", "plot", "report", "ray", "caffe", "remote"} <= named <= extras
