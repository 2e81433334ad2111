"""A depth of fewer units than k gives all the values it has, and every table says so."""

import base64
import json

import numpy as np
import pytest

from jvpsvd import report, survey
from jvpsvd.cli import main
from jvpsvd.networks import load_model
from jvpsvd.report.analysis import analyse
from jvpsvd.report.payload import make_payload


@pytest.fixture
def run(finished):
    """Depths of 72 and 30 units, k = 40."""
    return finished(k=40, layers=["5", "output"], vectors=True)


def test_rows_hold_all_the_values_there_are(run):
    rows = run.rows()
    assert {row.layer: (row.k, len(row.s), row.converged) for row in rows} == {
        "5": (40, 40, 40),
        "output": (30, 30, 30),
    }
    assert run.counts == {"5": 40, "output": 30}
    results = survey.open(run.folder)
    assert results.spectra("5").s.shape == (4, 40)
    assert results.spectra("output").s.shape == (4, 30)


def test_the_run_verifies_and_continues(run, surveyed, shard):
    assert survey.verify(run).problems == ()
    again = surveyed([shard], k=40, layers=["5", "output"], vectors=True)
    assert (again.computed, again.skipped) == (0, 4)


def test_the_table_says_how_many_were_taken(run):
    made = report.table(run, report.summarize(run))
    heading = [column.heading for column in made.columns]
    at = heading.index("k")
    assert [row[at] for row in made.rows] == ["40", "30"]
    assert "σk" in heading
    assert {len(row) for row in made.rows} == {len(heading)}


def test_the_table_of_equal_depths_is_as_it_was(finished):
    store = finished()
    text = report.table(store, report.summarize(store)).fitted(None)
    assert "σ10" in text
    assert "σk" not in text


def test_the_report_is_drawn_from_depths_of_different_sizes(run):
    pytest.importorskip("matplotlib", reason="needs the plot extra")
    written = report.write_report(report.read_values(run), ())
    names = {file.name for file in written.files}
    assert {"spectra.png", "heat-map.png", "spectra.csv"} <= names
    rows = (run.folder / "report" / "spectra.csv").read_text().splitlines()[1:]
    assert sum(row.startswith("output,") for row in rows) == 30
    page = (run.folder / "report" / "index.html").read_text()
    assert "30 × 768, k = 30" in page
    assert "or all of one that has fewer" in page


def test_the_page_has_no_values_where_there_are_none(run):
    record = make_payload(analyse(report.read_values(run))).record
    assert record["k"] == 40
    json.dumps(record, allow_nan=False)
    means = [np.frombuffer(base64.b64decode(one), dtype="<f4") for one in record["mean"]]
    assert np.isfinite(means[0][:30]).all()
    assert np.isfinite(means[1]).sum() == 30
    health = report.health.count_rows(report.read_values(run))
    assert health.unconverged == 0
    assert [depth.certified for depth in health.depths] == [4, 4]


@pytest.mark.parametrize("layers", [None, ["all"]])
def test_a_k_that_no_depth_has_takes_what_there_is(tiny, layers):
    chosen = survey.choose_depths(load_model("tiny:net"), 10_000, layers)
    assert chosen[-1].name == "output"


def test_the_command_line_takes_what_a_small_depth_has(tiny, shard, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([
            "run", "--model", "tiny:net", "--shards", str(shard), "--layers", "output", "-k", "50",
            "--limit", "1", "--out", str(tmp_path / "run"),
        ])  # fmt: skip
    assert ended.value.code == 0
    assert "σ30" in capsys.readouterr().out
