"""Jacobians of a rank below k: nothing is made of values below their residual."""

import base64

import numpy as np
import pytest

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd.plot.axes import load_matplotlib
from jvpsvd.report import figures, read_values, summarize, write_report
from jvpsvd.report.analysis import analyse
from jvpsvd.report.page_tables import decay_rows
from jvpsvd.report.payload import make_payload


@pytest.fixture
def store(tmp_path):
    """Two photos of rank 3 and 4, k = 6."""
    made = make_run(tmp_path / "run", photos=2, depths=1, k=6)
    s = np.array([[4, 3, 2, 1e-17, 1e-20, 1e-34], [4, 3, 2, 1, 1e-17, 0]])
    write_rows(made, "output", made.samples(), s, np.full((2, 6), 1e-7))
    return made


@pytest.fixture
def axes(store, tmp_path, monkeypatch):
    """The axes of a figure, as it is written."""
    kept = []
    save = figures.save_figure

    def keep(figure, *rest):
        kept.append(figure.axes)
        return save(figure, *rest)

    monkeypatch.setattr(figures, "save_figure", keep)

    def draw(function, **options):
        function(summarize(store), "net", tmp_path / "figures", **options)
        return kept.pop()

    return draw


def test_means_below_the_residual_are_not_drawn(axes):
    load_matplotlib()
    (found, *_) = axes(figures.draw_spectra)
    assert len(found.lines[0].get_xdata()) == 4
    assert found.get_ylim()[0] > 1e-4
    assert "such means are not drawn" in found.get_title()


def test_they_have_no_colour_and_set_no_scale(axes):
    found, bar = axes(figures.draw_heat_map)
    assert bar.get_ylim() == pytest.approx((0.5, 4.0))
    assert "no colour where the mean is below the residual" in found.get_title()


def test_the_line_is_at_the_threshold_that_is_counted(axes):
    (found, *_) = axes(figures.draw_spectra, threshold=0.1)
    assert [text.get_text() for text in found.texts] == ["σ = 0.1"]
    assert any(list(line.get_ydata()) == [0.1, 0.1] for line in found.lines)


def test_the_page_draws_the_same(store):
    record = make_payload(analyse(read_values(store), 0.1)).record
    assert record["threshold"] == 0.1
    assert drawn(record["mean"]) == [4]
    assert drawn(record["classMean"]) == [3, 4]


@pytest.mark.parametrize(
    ("top", "residuals", "of_all"), [(4, (1e-7, 1e-7), 6), (4e6, (10, 1e-6), 3)]
)
def test_each_class_is_drawn_as_far_as_its_own_residuals(tmp_path, top, residuals, of_all):
    made = make_run(tmp_path / "run", photos=2, depths=1, k=6, classes=2)
    s = np.array([[top, top / 2, top / 4, 1e-17, 1e-20, 1e-34], [4, 3, 2, 1, 0.9, 0.8]])
    write_rows(made, "output", made.samples(), s, np.repeat(residuals, 6).reshape(2, 6))
    record = make_payload(analyse(read_values(made))).record
    assert drawn(record["mean"]) == [of_all]
    assert drawn(record["classMean"]) == [3, 6]


def drawn(packed, k=6):
    """How many of k means are drawn, from the first on: the others are NaN."""
    (text,) = packed
    curves = np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(-1, k)
    counts = np.isfinite(curves).sum(axis=1)
    assert (np.isfinite(curves) == (np.arange(k) < counts[:, None])).all()
    return counts.tolist()


def test_a_ratio_to_a_value_below_its_residual_is_a_bound(store):
    (row,) = decay_rows(analyse(read_values(store)))
    assert row["cells"][-1]["text"] == "> 4e+07" or row["cells"][-1]["text"] == "> 40000000"


def test_participation_whose_bounds_differ_by_rounding_is_no_lower_bound(tmp_path):
    store = make_run(tmp_path / "run", photos=1, depths=1, k=6)
    s = np.array([[3.0, 0, 0, 0, 0, 0]])
    sums = {"participation": [[1.0, 1.0, 1.0000007, 0.0]], "entropy": [[0.0, 0.0, 7e-7, 0.0]]}
    write_rows(store, "output", store.samples(), s, np.full((1, 6), 1e-7), **sums)
    (depth,) = analyse(read_values(store)).depths
    assert not depth.estimates.bounds("participation")
    assert depth.estimates.mean("participation").high == pytest.approx(1.0)
    assert "older versions" not in write_report(read_values(store)).page.read_text()
