"""Two runs beside each other, photo by photo where they have the same."""

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from support.terminal import WIDTHS, terminal
from torch import nn

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd import survey
from jvpsvd.cli import main
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Model
from jvpsvd.report import (
    compare_runs,
    comparison_table,
    differing_fields,
    read_values,
    summarize,
    write_report,
)
from jvpsvd.report.estimates import in_words
from jvpsvd.survey import open_store
from jvpsvd.text_table import cell_width


def made(folder, s, layers=1):
    """A run of random rows at one depth."""
    store = make_run(folder, photos=len(s), depths=layers, k=s.shape[1], classes=1)
    for depth in store.identity.layers:
        write_rows(store, depth, store.samples(), s, 1e-7 * s)
    return read_values(store)


@pytest.fixture
def spectra():
    generator = np.random.default_rng(0)
    base = np.sort(generator.uniform(1, 9, (6, 4)))[:, ::-1]
    return base, base * generator.uniform(1.1, 1.3, (6, 1))


def test_the_same_photos_are_compared_one_by_one(tmp_path, spectra):
    one, other = spectra
    differences = compare_runs(made(tmp_path / "a", one), made(tmp_path / "b", other))
    found = {each.quantity: each for each in differences}
    for quantity, index in (("σ1", 0), ("σ4", 3)):
        each, got = other[:, index] - one[:, index], found[quantity]
        assert (got.paired, got.photos) == (True, (6, 6))
        assert got.difference.value == pytest.approx(each.mean())
        assert got.difference.standard_error == pytest.approx(each.std(ddof=1) / math.sqrt(6))
        # Photos differ by far more than the runs do: means alone would say little.
        apart = math.sqrt(one[:, index].var(ddof=1) / 6 + other[:, index].var(ddof=1) / 6)
        assert got.difference.standard_error < 0.5 * apart
        assert got.errors == pytest.approx(got.difference.value / got.difference.standard_error)


def test_folders_of_runs_are_compared(tmp_path, spectra):
    first, second = (made(tmp_path / name, s) for name, s in zip("ab", spectra, strict=True))
    found = compare_runs(str(tmp_path / "a"), tmp_path / "b")
    assert str(found) == str(compare_runs(first, second))
    assert differing_fields(tmp_path / "a", tmp_path / "b") == differing_fields(first, second)
    with pytest.raises(ArgumentError, match="second is 3; give the folder of a run"):
        compare_runs(first, 3)


def test_photos_that_only_one_run_has_are_left_out(tmp_path, spectra):
    one, other = spectra
    (first, *_) = compare_runs(made(tmp_path / "a", one), made(tmp_path / "b", other[:4]))
    assert first.photos == (4, 4)
    assert first.difference.value == pytest.approx((other[:4, 0] - one[:4, 0]).mean())


def test_one_photo_has_no_error(tmp_path, spectra):
    one, other = spectra
    (first, *_) = compare_runs(made(tmp_path / "a", one[:1]), made(tmp_path / "b", other[:1]))
    assert math.isnan(first.difference.standard_error)
    assert math.isnan(first.errors)


def test_a_smaller_k_is_compared_to_its_own_last_value(tmp_path, spectra):
    one, other = spectra
    found = compare_runs(made(tmp_path / "a", one), made(tmp_path / "b", other[:, :2]))
    assert [each.quantity for each in found][:2] == ["σ1", "σ2"]
    assert found[1].difference.value == pytest.approx((other[:, 1] - one[:, 1]).mean())


def of_inputs(folder, X, model):
    spec = survey.Spec(inputs=X, model=model, layers=["output"], k=2, out=folder)
    return read_values(survey.run(spec, report=False).store)


def test_inputs_of_one_name_and_size_are_not_the_same(tmp_path):
    """Arrays of one shape, whose keys are their numbers, are not told apart by key and size."""
    net, X = nn.Tanh().eval(), torch.rand(4, 1, 3)
    other = torch.cat([X[:2], X[2:] + 1])
    runs = [of_inputs(tmp_path / name, each, net) for name, each in (("a", X), ("b", other))]
    (found, *_) = compare_runs(*runs)
    assert (found.paired, found.photos, found.difference.value) == (True, (2, 2), 0.0)
    assert differing_fields(*runs) == ["bytes of the shards: they differ"]
    third = of_inputs(tmp_path / "c", X + 2, net)
    (found, *_) = compare_runs(runs[0], third)
    assert (found.paired, found.photos) == (False, (4, 4))


def test_a_network_that_was_trained_after_it_was_hashed_is_told(tmp_path):
    net, X = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).eval(), torch.rand(2, 1, 3)
    model = Model.of(net)
    runs = [of_inputs(tmp_path / "a", X, model)]
    assert differing_fields(runs[0], of_inputs(tmp_path / "same", X, model)) == []
    with torch.no_grad():
        net[0].weight.mul_(2)
    (line,) = differing_fields(runs[0], of_inputs(tmp_path / "b", X, model))
    assert line.startswith("network: another one of the same weights sha256: its values at a test")


def test_what_differs_in_the_options_is_told(tmp_path, spectra):
    one, other = spectra
    lines = differing_fields(made(tmp_path / "a", one), made(tmp_path / "b", other[:, :2]))
    assert "k: 4 | 2" in lines


def run(out, *more):
    with pytest.raises(SystemExit) as stop:
        main(("run", "-k", "5", "--choice", "first", "--batch", "1", "--out", out, *more))
    assert stop.value.code == 0


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of runs that have ended, to be copied."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def runs(tiny, shard, tmp_path, monkeypatch, kept):
    """A network and one whose first layer is twice as large."""
    monkeypatch.chdir(tmp_path)
    for name, model in (("trained", "tiny:net"), ("doubled", "tiny:other")):
        if not (kept / name).exists():
            run(name, "--model", model, "--shards", shard.name, "--layers", "0,output")
            (tmp_path / name).rename(kept / name)
        shutil.copytree(kept / name, name)
    return tmp_path


def test_the_command_compares_runs_and_run_does_at_its_end(runs, shard, capsys):
    options = ("--model", "tiny:other", "--shards", shard.name, "--layers", "0,output")
    run("doubled", *options, "--compare", "trained")
    at_the_end = capsys.readouterr().out
    assert "Beside trained" in (runs / "doubled" / "report" / "index.html").read_text("utf-8")
    with pytest.raises(SystemExit):
        main(("compare", "trained", "doubled"))
    text = capsys.readouterr().out
    assert at_the_end.endswith(text)
    assert text.splitlines()[:2] == ["first: trained", "second: doubled"]
    assert "model: tiny:net | tiny:other" in text
    row = next(line.split() for line in text.splitlines() if re.match(r"0 +σ1 ", line))
    assert float(row[3]) == pytest.approx(2 * float(row[2]), rel=1e-3)
    with pytest.raises(SystemExit) as stop:
        main(("compare", "trained", "nowhere"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main(("run", "--out", "third", *options, "--compare", "nowhere"))
    assert (stop.value.code, (runs / "third").exists()) == (2, False)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_fits_the_terminal(runs, capsys, monkeypatch, width):
    with terminal(width, monkeypatch) as shown, pytest.raises(SystemExit):
        main(("compare", "trained", "doubled"))
    table = shown.text[shown.text.index("second less first") :]
    assert all(cell_width(line) <= width for line in table.splitlines())
    assert table.count("output") == 5


def test_runs_without_values_are_not_a_table(runs, capsys):
    for file in (runs / "doubled" / "spectra").iterdir():
        file.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(("compare", "trained", "doubled"))
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert "no values at the same depth yet; 'jvpsvd run --status RUN' tells" in printed.err


def test_other_depths_are_compared_in_their_order_or_refused(runs, shard):
    shards = ("--shards", shard.name)
    run("elsewhere", "--model", "tiny:net", *shards, "--layers", "2,5")
    run("few", "--model", "tiny:net", *shards, "--layers", "3")
    read = {name: read_values(open_store(runs / name)) for name in ("trained", "elsewhere", "few")}
    found = compare_runs(read["trained"], read["elsewhere"])
    assert {each.layers for each in found} == {("0", "2"), ("output", "5")}
    assert "0 | 2" in comparison_table(found, "two depths").fitted(None)
    with pytest.raises(ArgumentError, match="no depth is in both runs: 0, output in the first"):
        compare_runs(read["trained"], read["few"])


def known_as(values, **names):
    """The values of a run whose photos have other names."""
    samples = tuple(
        dataclasses.replace(sample, **{name: of[index] for name, of in names.items()})
        for index, sample in enumerate(values.samples)
    )
    return dataclasses.replace(values, samples=samples)


def test_photos_whose_keys_repeat_are_told_apart_by_their_shards(tmp_path, spectra):
    one, other = (made(tmp_path / name, s) for name, s in zip("ab", spectra, strict=True))
    names = {"key": ["0", "1", "2"] * 2, "shard": ["a.tar"] * 3 + ["b.tar"] * 3}
    (first, *_) = compare_runs(known_as(one, **names), known_as(other, **names))
    assert (first.paired, first.photos) == (True, (6, 6))
    assert first.difference.value == pytest.approx((spectra[1] - spectra[0])[:, 0].mean())


def test_photos_that_cannot_be_told_apart_all_count(tmp_path, spectra):
    one, other = (made(tmp_path / name, s) for name, s in zip("ab", spectra, strict=True))
    same = {"key": ["0"] * 6, "shard": ["a.tar"] * 6, "size": [1] * 6}
    (first, *_) = compare_runs(known_as(one, **same), known_as(other, **same))
    assert (first.paired, first.photos) == (False, (6, 6))
    assert first.first == pytest.approx(spectra[0][:, 0].mean())


@pytest.mark.parametrize("differing", [{"label": [7] * 6}, {"size": range(1, 7)}])
def test_the_same_key_of_another_photo_is_no_pair(tmp_path, spectra, differing):
    one, other = (made(tmp_path / name, s) for name, s in zip("ab", spectra, strict=True))
    (first, *_) = compare_runs(one, known_as(other, **differing))
    assert not first.paired


def test_means_are_over_the_photos_that_are_compared(tmp_path, spectra):
    one, other = spectra
    without = other.copy()
    without[0] = np.nan
    before, after = made(tmp_path / "a", one), made(tmp_path / "b", other)
    (depth,) = after.depths
    after = dataclasses.replace(after, depths=(dataclasses.replace(depth, s=without),))
    (first, *_) = compare_runs(before, after)
    assert first.second - first.first == pytest.approx(first.difference.value)


def test_the_page_shows_the_comparison_that_was_asked_for(tmp_path, spectra):
    pytest.importorskip("jinja2")
    before, after = (made(tmp_path / name, s) for name, s in zip("ab", spectra, strict=True))
    alone = write_report(after).page.read_text("utf-8")
    assert "compared-table" not in alone
    html = write_report(after, against=before).page.read_text("utf-8")
    (section,) = re.findall(r'<section aria-labelledby="compared">.*?</section>', html, re.DOTALL)
    table = comparison_table(compare_runs(before, after), "")
    assert "Beside a" in section
    for name, *cells in table.rows:
        assert f">{name}</th>" in section
        assert all(f">{cell}</td>" in section for cell in cells)
    assert "Paired over the same photos" in section


def test_a_run_that_cannot_be_compared_has_its_page_all_the_same(tmp_path, spectra):
    one = made(tmp_path / "a", spectra[0], layers=1)
    other = made(tmp_path / "b", spectra[1], layers=2)
    renamed = [dataclasses.replace(d, layer=f"other.{i}") for i, d in enumerate(other.depths)]
    other = dataclasses.replace(other, depths=tuple(renamed))
    written = write_report(one, against=other)
    assert any("no depth is in both runs" in line for line in written.missing)
    assert written.page is None or "compared-table" not in written.page.read_text("utf-8")


def test_numbers_of_either_run_are_ranges_where_the_table_of_the_run_has_them(runs):
    values = read_values(open_store(runs / "trained"))
    found = compare_runs(values, values, 0.3)
    rows = dict(zip([(d.layers[0], d.quantity) for d in found],
                    comparison_table(found, "").rows, strict=True))  # fmt: skip
    counts = {depth.layer: depth.count for depth in summarize(values.store, 0.3)}
    assert not counts["0"].resolved
    for layer, count in counts.items():
        row = rows[layer, "count σ ≥ 0.3"]
        assert row[2] == row[3] == in_words(count, at_least=False)
    notes = " ".join(column.note for column in comparison_table(found, "").columns)
    assert "do not cancel" in notes


def test_weights_are_told_by_twelve_digits_and_the_seed_that_drew_them(runs, shard):
    options = ("--model", "tiny:net", "--shards", shard.name, "--layers", "0,output")
    run("drawn", *options, "--random-weights", "7")
    read = [read_values(open_store(runs / name)) for name in ("trained", "drawn")]
    (line,) = [each for each in differing_fields(*read) if each.startswith("weights")]
    first, second = (one.store.identity.weights_sha256[:12] for one in read)
    assert line == f"weights sha256: {first} | {second} (random weights, seed 7)"


CALLED = "jvpsvd run --random-weights {} --out a"
JOURNALS = {
    "a line without its end": ([{"command": "jvpsvd run --out 'a"}], ""),
    "a command without its end": ([("called", "jvpsvd --random-weights 7 --out 'a"), "began"], ""),
    "a command that is none": ([("called", 7), "began"], ""),
    "a seed that is none": ([("called", CALLED.format("'\x1b[2J'")), "began"], ""),
    "a call that was refused": ([("called", CALLED.format(7)), "stopped"], ""),
    "one refused, then another": (
        [("called", CALLED.format(7)), "stopped", ("called", "jvpsvd run --out a"), "began"],
        "",
    ),
    "two seeds": (
        [("called", CALLED.format(7)), "began", ("called", CALLED.format(8)), "began"],
        " (random weights)",
    ),
    "a seed": ([("called", CALLED.format(7)), "began", "ended"], " (random weights, seed 7)"),
}


@pytest.mark.parametrize("name", JOURNALS)
def test_weights_are_called_random_where_a_journal_of_a_run_that_began_says_so(
    tmp_path, spectra, name
):
    lines, said = JOURNALS[name]
    one, other = (made(tmp_path / folder, s) for folder, s in zip("ab", spectra, strict=True))
    identity = dataclasses.replace(other.store.identity, weights_sha256="f" * 64)
    other = dataclasses.replace(other, store=dataclasses.replace(other.store, identity=identity))
    log = other.store.folder / "log"
    log.mkdir()
    with (log / "20260101-000000-host-1.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            if isinstance(line, tuple):
                line = {"event": line[0], "command": line[1]}
            event = {"event": line} if isinstance(line, str) else line
            file.write(json.dumps(event) + "\n")
    (told,) = [each for each in differing_fields(one, other) if each.startswith("weights")]
    assert told.endswith(f"| {'f' * 12}{said}")
