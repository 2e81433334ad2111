"""What every command prints fits the terminal, and neither a number nor a name is cut."""

import io
import os
import re
import sys
from contextlib import redirect_stdout

import pytest
import torch
from support.shards import encoded, sample_members, write_tar
from support.terminal import WIDTHS, terminal
from support.thinned import thinned
from support.tiny_models import TINY
from torch import nn

import jvpsvd
from jvpsvd.cli import main
from jvpsvd.text_table import Column, TextTable, cell_width

RUN = ("run", "--model", "tiny:net", "-k", "10", "--layers", "2,output", "--out", "out")
# A path is one line, however long; so is a command that one copies.
WHOLE = ("page: ", "file: ", "figure: ", "check: ", "shards: ", "continue: jvpsvd ", "in: ")


@pytest.fixture
def photos(tmp_path):
    """A folder of photos of two classes, and one that is left out."""
    for index, name in enumerate(["circles", "a class of a rather long name"]):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        (folder / "one.png").write_bytes(encoded(index, "PNG"))
    (tmp_path / "photos" / "loose.jpg").touch()
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run `out`."""
    made = tmp_path_factory.mktemp("finished")
    (made / "tiny.py").write_text(TINY)
    members = [m for i in range(2) for m in sample_members(f"photo{i}", i, i)]
    write_tar(made / "good-0000.tar", members)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.syspath_prepend(str(made))
        with pytest.raises(SystemExit):
            main((*RUN, "--shards", "good-0000.tar"))
        yield made
    sys.modules.pop("tiny", None)


@pytest.fixture
def finished(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def on_terminal(width, monkeypatch, arguments):
    with terminal(width, monkeypatch) as made, pytest.raises(SystemExit):
        main(arguments)
    return made.text


@pytest.fixture(scope="module")
def in_a_pipe(folder):
    """What each command prints where stdout is no terminal."""
    found = {}
    for name, arguments in COMMANDS.items():
        with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
            main(arguments)
        found[name] = out.getvalue()
    return found


def assert_fits(text, width, names):
    for line in text.splitlines():
        assert cell_width(line) <= width or line.startswith(WHOLE) or " " not in line.strip(), line
    for name in names:
        assert re.search(rf"(?<!\S){re.escape(name)}(?!\S)", text), name
    assert not re.search(r"\S…", text)


COMMANDS = {
    "run": (*RUN, "--shards", "good-0000.tar"),
    "report": ("report", "out"),
    "verify": ("verify", "out"),
    "status": ("run", "--status", "out"),
    "layers on a device": (
        *("layers", "--model", "tiny:net", "-k", "5", "--device", "16GiB 10TFLOPS", "--all"),
    ),
    "layers": ("layers", "--model", "tiny:net", "-k", "20"),
}


@thinned("command, width", list(COMMANDS), WIDTHS, keep=2)
def test_what_a_command_prints_fits(finished, in_a_pipe, monkeypatch, command, width):
    arguments = COMMANDS[command]
    text = on_terminal(width, monkeypatch, arguments)
    tables = command not in ("verify", "status")
    assert_fits(text, width, ["output", "2"] if tables else [])
    if tables:
        rule = next(line for line in text.splitlines() if line.startswith("──"))
        assert cell_width(rule) <= width
    whole = {word for line in in_a_pipe[command].splitlines() for word in line.split()}
    if command != "layers":  # which measures anew
        numbers = {word for word in text.split() if re.fullmatch(r"[\d.e+-]*\d", word)}
        assert numbers - {str(width)} <= whole


@pytest.mark.parametrize("width", WIDTHS)
def test_what_pack_prints_fits(photos, tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    text = on_terminal(width, monkeypatch, ("pack", "photos", "shards"))
    assert_fits(text, width, ["circles", "a class of a rather long name", "shards: shards"])


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_a_printed_result_fits(monkeypatch, capsys, width):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10)).eval()
    S = jvpsvd.spectra(net, torch.rand(3, 30), layers=["0", "2"], k=5, progress=False)
    result = jvpsvd.svds(torch.diag(torch.arange(1.0, 9.0)), 3)
    if width is None:
        print(S, result, sep="\n")
        text = capsys.readouterr().out
    else:
        with terminal(width, monkeypatch) as made:
            print(S, result, sep="\n")
        text = made.text
    assert_fits(str(text), width or 120, ["0", "2", "depth", "σ1", "certified"])
    assert "\x1b" not in text


def test_a_pipe_has_plain_text_and_every_column(in_a_pipe):
    text = in_a_pipe["report"]
    assert "\x1b" not in text
    assert "not shown" not in text
    for heading in ("m x n", "energy", "residual", "J moves", "products"):
        assert heading in text


NAMES = [
    "model.layers.14.post_attention_layernorm.and.something.that.is.longer.than.a.terminal",
    "写真の深さ",
]


@pytest.mark.parametrize("width", [20, *WIDTHS])
def test_rows_are_stacked_where_no_column_can_give_way(width):
    columns = [Column("depth", left=True), Column("σ1"), Column("σ ≥ 1"), Column("s", drop=1)]
    rows = [[name, "8.123e+04", "52467 to 75264 (± 35)", "0.021"] for name in NAMES]
    text = TextTable("net", columns, rows).fitted(width)
    for word in ("8.123e+04", "52467 to 75264 (± 35)", *NAMES):
        assert text.count(word) == (1 if word in NAMES else 2)
    for line in text.splitlines():
        assert cell_width(line) <= width or line in NAMES or line == "  σ ≥ 1 52467 to 75264 (± 35)"
    assert ("0.021" in text) == ("not shown" not in text)


def test_columns_give_way_in_their_order_and_the_table_says_which():
    columns = [Column("depth", left=True), *(Column(f"number{i}", drop=i) for i in (3, 1, 2))]
    table = TextTable("net", columns, [["output", "30", "10", "20"]])
    said = {}
    for width in range(1, 60):
        match = re.search("columns: ([^;]*);", table.fitted(width).replace("\n", " "))
        said[width] = match[1] if match else ""
    assert list(dict.fromkeys(said.values())) == [
        "", "number1, number2, number3", "number1, number2", "number1",
    ]  # fmt: skip


def test_paths_with_spaces_are_one_line_and_commands_can_be_copied(
    tiny, shard, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = os.path.join("a long folder of runs " * 4, "and my run")  # noqa: PTH118
    arguments = (*RUN[:-1], out, "--shards", str(shard))
    lines = on_terminal(60, monkeypatch, arguments).splitlines()
    assert f"page: {os.path.join(out, 'report', 'index.html')}" in lines  # noqa: PTH118
    assert f"check: jvpsvd verify '{out}'" in lines
