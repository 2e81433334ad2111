import io
import re
import tarfile
from pathlib import Path

import pytest

from benchmarks.publish import readme
from jvpsvd.data import demo_photos

ROOT = Path(__file__).parents[1]
PAGES_OF_DOCS = [
    page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts
]


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


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


@pytest.mark.parametrize(
    "page", ["README.md", *(str(page.relative_to(ROOT)) for page in PAGES_OF_DOCS)]
)
def test_pages_link_to_files_that_exist(page):
    for name in re.findall(r"\]\(([a-zA-Z.][^):#]*)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / name).exists(), name


def test_readme_leads_to_every_page_on_the_first_level():
    """The other pages are reached from the site's home: Sphinx warns of one that is not."""
    linked = set(re.findall(r"\]\((docs/[^):#]*\.md)\)", (ROOT / "README.md").read_text()))
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - {"docs/index.md"} <= linked


@pytest.mark.parametrize(
    ("file", "parts", "more"),
    [
        ("docs/speed-and-safety.md", ["peers", "floors", "safety", "gpu"], ["--brief"]),
        ("benchmarks/README.md", [], []),
    ],
)
def test_figures_of_performance_are_those_that_were_measured(file, parts, more):
    results = sorted(str(path) for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    only = [word for part in parts for word in ("--only", part)]
    assert readme.main([*results, str(ROOT / file), *only, *more, "--check"]) == 0


def test_the_page_of_surveys_runs_one_block_after_another(tmp_path, monkeypatch):
    """The first makes the run that the second reads."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the demo extra")
    pytest.importorskip("foolbox", reason="needs the demo extra")
    for name in ("duckdb", "polars"):
        pytest.importorskip(name, reason="needs duckdb and polars")
    photo = demo_photos()[0]
    members = [("one.jpg", photo.file.read_bytes()), ("one.cls", str(photo.label).encode())]
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "one-0000.tar", "w") as tar:
        for member, data in members:
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "surveys.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 -- our own page
    assert names["logits"].s.shape == (1, 100)
    assert names["rows"].collect().height == 2
