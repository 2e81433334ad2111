import io
import re
import tarfile
from pathlib import Path

import pytest

from benchmarks.publish import readme
from jvpsvd.data import demo_photos

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
    ("file", "parts", "more"),
    [
        ("README.md", ["peers", "floors", "safety", "gpu"], ["--brief"]),
        ("benchmarks/README.md", [], []),
    ],
)
def test_figures_of_performance_are_those_that_were_measured(file, parts, more):
    results = sorted(str(path) for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    only = [word for part in parts for word in ("--only", part)]
    assert readme.main([*results, str(ROOT / file), *only, *more, "--check"]) == 0


def test_blocks_of_python_run_one_after_another(tmp_path, monkeypatch):
    """Those that are no doctests; the first makes the run that the second reads."""
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
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    names = {}
    for block in blocks:
        if not block.startswith(">>>"):
            exec(block, names)  # noqa: S102 -- our own README
    assert names["logits"].s.shape == (1, 100)
    assert names["rows"].collect().height == 2
