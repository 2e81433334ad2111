import csv
import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.report import DepthSummary, draw_spectra, read_values, summarize, table, write_report
from jvpsvd.report.summary import depth_cells
from jvpsvd.survey import Spec, run, status


@pytest.fixture
def store(tiny, shard, tmp_path):
    layers = ["0", "3", "output"]
    spec = Spec(shards=[shard], model="tiny:poisoned", k=10, layers=layers, out=tmp_path / "run")
    return run(spec).store


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
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(made)
    console.file.close()
    return console.export_text()


def test_table_has_a_line_per_depth(store):
    text = printed(table(store, summarize(store)))
    for word in ("294 x 768", "72 x 768", "0 (+4 failed)", "σ10", "2k = 20"):
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
    store = make_run(tmp_path / "run", photos=2, depths=1, k=2, classes=1, units=size)
    values = np.tile(s[:2].double().numpy(), (2, 1))
    write_rows(store, "output", store.samples(), values, 0 * values, **columns)
    (depth,) = summarize(store, threshold)
    cells = depth_cells(depth)
    assert cells[5] == (whole if kept[0] == "w" else alone)
    assert "nan" not in cells
    assert f"σ ≥ {threshold:g}" in printed(table(store, [depth]))


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([40.0, 39.0, 41.0, 2.0], "40.0 ± 1.4 (39.0 to 41.0)"),
        ([40.0, 20.0, 60.0, 2.0], "20.0 to 60.0 (± 1.4)"),
        ([40.0, 20.0, 60.0, 0.0], "20 to 60"),
        ([40.0, 40.0, 40.0, 0.0], "40"),
        ([40.0, 39.0, 41.0, 0.0], "40 (39 to 41)"),
    ],
)
def test_what_is_not_resolved_is_told_as_a_range(tmp_path, counts, shown):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3, classes=1)
    value, low, high, error = (np.full(81, number) for number in counts)
    columns = {"counts": value, "counts_low": low, "counts_high": high, "counts_error": error}
    s = np.full((2, 3), 2.0)
    write_rows(store, "output", store.samples(), s, 0 * s, size=100, **columns)
    run_values = read_values(store)
    faults = {failure.message for failure in run_values.failures}
    assert faults == {"a dimension outside of its bounds"} or not run_values.failures
    assert in_words(mean_estimate(np.tile(counts, (2, 1)).T), at_least=False) == shown


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
    assert f"{below} values below their residual" in status(noisy).lines()[0]
    files = {file.name: file for file in write_report(read_values(noisy)).files}
    for name, column in (("spectra.csv", "below_residual"), ("classes.csv", "below")):
        lines = csv.DictReader(files[name].read_text().splitlines())
        assert sum(int(line[column]) for line in lines if line["layer"] == "output") == below


def test_rows_of_another_k_are_refused(store):
    wrong = dataclasses.replace(store, identity=dataclasses.replace(store.identity, k=9))
    with pytest.raises(RunError, match="rows of another k"):
        summarize(wrong)
