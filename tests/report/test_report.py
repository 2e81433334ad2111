import csv
import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd import survey, svds
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.report import draw_spectra, read_values, summarize, table, write_report
from jvpsvd.report.estimates import in_words
from jvpsvd.survey import Spec, run, status
from jvpsvd.survey.store.whole_spectrum import THRESHOLDS, spectrum_columns
from jvpsvd.svd.estimate import mean_estimate


@pytest.fixture
def store(finished):
    return finished(model="tiny:poisoned", layers=["0", "3", "output"])


def test_summaries_are_means_over_the_rows(store):
    first, second, third = summarize(store)
    rows = [row for row in store.rows() if row.layer == "3"]
    assert (second.layer, second.shape, second.photos) == ("3", (72, 768), 4)
    np.testing.assert_allclose(second.s, [row.s for row in rows])
    assert second.products == np.mean([r.products_forward + r.products_reverse for r in rows])
    at = int(np.argmin(abs(THRESHOLDS - 1)))
    assert second.dimension == np.mean([row.counts[at] for row in rows])
    assert second.count.low <= second.dimension <= second.count.high
    assert 0 < first.energy < 1
    assert (third.photos, third.failed) == (0, 4)


def printed(made):
    return made.fitted(None)


def test_table_has_a_line_per_depth(store):
    text = printed(table(store, summarize(store)))
    for word in ("294 x 768", "72 x 768", "0 (+4 failed)", "σ10", "2k = 20", "or m or n if"):
        assert word in text
    assert "nan" not in text


def test_figure_is_drawn_as_png_and_svg(store, tmp_path):
    png, svg = draw_spectra(summarize(store), "tiny", tmp_path / "figures")
    assert png.read_bytes().startswith(b"\x89PNG")
    root = ET.parse(svg).getroot()  # noqa: S314 -- our own file
    assert root.tag.endswith("svg")


def test_every_depth_is_named_beside_its_line(store, tmp_path):
    # matplotlib leaves labels that begin with an underscore out of its legends.
    named = [dataclasses.replace(depth, layer=f"_{depth.layer}") for depth in summarize(store)]
    svg = draw_spectra(named, "tiny", tmp_path)[1].read_text()
    assert "<!-- _0  (294) -->" in svg
    assert "<!-- _3  (72) -->" in svg


def test_same_numbers_give_the_same_figure(store, tmp_path):
    one, two = (draw_spectra(summarize(store), "tiny", tmp_path / name)[1] for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_run_without_values_has_no_figure(store, tmp_path):
    empty = [s for s in summarize(store) if not s.photos]
    assert len(empty) == 1
    with pytest.raises(ArgumentError, match="no depth has values"):
        draw_spectra(empty, "tiny", tmp_path)


@pytest.mark.parametrize("kept", ["whole spectra", "k values"])
@pytest.mark.parametrize(
    ("size", "threshold", "whole", "alone"),
    [
        (4, 1.0, "3", "≥ 2"),  # 5, 3, 2.01 and 0.3
        (4, 4.0, "1", "1"),
        (2, 1.0, "2", "2"),  # both values are known
    ],
)
def test_a_count_is_of_the_whole_spectrum_where_rows_keep_it(
    tmp_path, kept, size, threshold, whole, alone
):
    s = torch.tensor([5.0, 3.0, 2.01, 0.3])[:size]
    columns = spectrum_columns(svds(torch.diag(s), "all").spectrum) if kept[0] == "w" else {}
    columns = {name: [number] * 2 for name, number in columns.items()}
    store = make_run(tmp_path / "run", photos=2, depths=1, k=2, classes=1, units=size)
    values = np.tile(s[:2].double().numpy(), (2, 1))
    write_rows(store, "output", store.samples(), values, 0 * values, **columns)
    (depth,) = summarize(store, threshold)
    made = table(store, [depth])
    cells = dict(zip([column.heading for column in made.columns], made.rows[0], strict=True))
    assert cells[f"σ ≥ {threshold:g}"] == (whole if kept[0] == "w" else alone)
    assert "nan" not in cells.values()


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([40.0, 39.0, 41.0, 2.0], "40 ± 2 (39 to 41)"),
        ([40.0, 20.0, 60.0, 2.0], "20 to 60 (± 2)"),
        ([40.0, 20.0, 60.0, 0.0], "20 to 60"),
        ([40.0, 40.0, 40.0, 0.0], "40"),
        ([40.0, 39.0, 41.0, 0.0], "40 (39 to 41)"),
    ],
)
def test_what_is_not_resolved_is_told_as_a_range(counts, shown):
    mean = mean_estimate(np.tile(counts, (2, 1)).T, own_starts=False)
    assert in_words(mean, at_least=False) == shown


@pytest.mark.parametrize("threshold", [1.0, 0.05])
def test_every_file_tells_the_counts_of_whole_spectra(tmp_path, threshold):
    store = make_run(tmp_path / "run", whole=True)
    assert not read_values(store).failures  # nothing is implausible
    found = survey.open(store.folder).counts("output", threshold)
    mean = summarize(store, threshold)[-1].count
    assert found.mean() == mean
    files = {one.name: one for one in write_report(read_values(store), (), threshold).files}
    rows = {
        name: list(csv.DictReader(file.read_text().splitlines()))
        for name, file in files.items()
        if file.suffix == ".csv"
    }
    of_photos = [row for row in rows["dimensions.csv"] if row["layer"] == "output"]
    for column, numbers in (("count", found.value), ("count_high", found.high)):
        np.testing.assert_allclose([float(row[column]) for row in of_photos], numbers, rtol=1e-6)
    classes = [row for row in rows["classes.csv"] if row["layer"] == "output"]
    assert all(
        float(c["count_least"]) <= float(c["count"]) <= float(c["count_most"]) for c in classes
    )
    assert np.mean([float(c["count"]) for c in classes]) == pytest.approx(mean.value, rel=1e-5)
    counts = [row for row in rows["counts.csv"] if row["layer"] == "output"]
    np.testing.assert_allclose([float(row["threshold"]) for row in counts], THRESHOLDS, rtol=1e-6)
    svg = files["dimensions.svg"].read_text()
    assert f"count σ ≥ {threshold:g}" in svg
    assert "at least" not in svg


@pytest.fixture
def noisy(tiny, shard, tmp_path):
    """A run at a depth of rank 20 at most, with 30 values."""
    spec = Spec(
        shards=[shard], model="tiny:repeating", k=30, layers=["3", "output"], out=tmp_path / "noisy"
    )
    return run(spec).store


def test_values_below_their_residual_are_counted_in_every_table(noisy):
    rows = [row for row in noisy.rows() if row.layer == "output"]
    below = sum(np.less(row.s, row.residuals).sum() for row in rows)
    assert 4 <= below <= 40
    before, last = summarize(noisy)
    assert (before.below_residual, last.below_residual) == (0, below)
    text = printed(table(noisy, [before, last]))
    assert "σ < r: values below their own residual" in text
    assert "σ < r" not in printed(table(noisy, [before]))
    assert f"{below} values below the residual" in status(noisy).lines()[0]
    files = {file.name: file for file in write_report(read_values(noisy)).files}
    for name, column in (("spectra.csv", "below_residual"), ("classes.csv", "below")):
        lines = csv.DictReader(files[name].read_text().splitlines())
        assert sum(int(line[column]) for line in lines if line["layer"] == "output") == below


def test_rows_of_another_k_are_refused(store):
    wrong = dataclasses.replace(store, identity=dataclasses.replace(store.identity, k=9))
    with pytest.raises(RunError, match="rows of another k"):
        summarize(wrong)


def test_why_there_is_no_tree_of_the_classes_is_said(tmp_path):
    store = make_run(tmp_path / "run", photos=6, depths=1, k=3, classes=3)
    s = np.tile([3.0, 2.0, 1.0], (6, 1))
    s[2::3] = 0
    write_rows(store, "output", store.samples(), s, 0 * s)
    missing = write_report(read_values(store)).missing
    assert any("the tree of the classes: 2 classes have a wnid" in line for line in missing)
    few = make_run(tmp_path / "few", photos=4, depths=1, k=3, classes=2)
    assert write_report(read_values(few)).missing == ()
