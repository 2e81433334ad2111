"""The whole spectrum in the rows of a run: what it takes, says, and costs old runs."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jvpsvd import survey, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.survey.store.rows import to_table
from jvpsvd.survey.store.whole_spectrum import (
    COUNT_COLUMNS,
    SUM_COLUMNS,
    THRESHOLDS,
    counts_at,
    spectrum_columns,
)


def rotated(values):
    torch.manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(len(values), len(values))).Q for _ in range(2))
    return (U * values) @ V


@pytest.fixture(scope="module")
def power_law():
    """A result of 10 of 300 values, and all of them."""
    values = 30 / torch.arange(1.0, 301)
    return svds(rotated(values), 10, method="golub-kahan"), values.numpy()


def stored(result):
    """The counts of a result as a row keeps them, and its values."""
    columns = spectrum_columns(result.spectrum)
    counts = np.array([[columns[name] for name in COUNT_COLUMNS]])
    s, residuals = (one.double().numpy()[None] for one in (result.s, result.residuals))
    return counts, s, residuals, np.array([int(result.converged.sum())]), columns["size"]


def test_one_is_a_threshold_and_there_are_ten_per_decade():
    assert THRESHOLDS[[0, 40, 80]].tolist() == [1e-4, 1.0, 1e4]
    np.testing.assert_allclose(THRESHOLDS[10:] / THRESHOLDS[:-10], 10)


def test_counts_and_spectra_print_themselves_short(finished):
    results = survey.open(finished().folder)
    counts, spectra = repr(results.counts("output", 1.0)), repr(results.spectra("output"))
    assert counts.startswith("<Counts of σ ≥ 1 at 'output': ")
    assert f"mean {results.counts('output', 1.0).mean()}" in counts
    assert spectra.startswith("<Spectra at 'output': ")
    assert max(len(counts), len(spectra)) < 120


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_keep_the_whole_spectrum_in_less_than_four_kibibytes(finished, batch):
    store = finished(batch=batch)
    for row in store.rows():
        assert row.size == {"2": 294, "output": 30}[row.layer]
        table = to_table([row], "task").select(["size", *COUNT_COLUMNS, *SUM_COLUMNS])
        assert table.nbytes < 4096
    assert survey.verify(store).problems == ()


@pytest.mark.parametrize("threshold", [0.1, 0.11, 0.9, 1.0, 1.1, 2.5, 4.9, 29.0, 31.0])
def test_counts_bound_the_truth_at_and_between_thresholds(power_law, threshold):
    result, values = power_law
    value, low, high, error = counts_at(threshold, *stored(result))[:, 0]
    truth = (values >= threshold * (1 - 1e-6)).sum()
    assert low <= value <= high
    assert low - 4 * error - 0.01 <= truth <= high + 4 * error + 0.01
    if threshold > values[9]:
        assert value == low == high == truth
    else:
        assert abs(value - truth) < 0.3 * truth


@pytest.mark.parametrize("threshold", [1e-6, 1e-5])
def test_below_the_grid_the_upper_bound_is_all_values(power_law, threshold):
    value, low, high, _ = counts_at(threshold, *stored(power_law[0]))[:, 0]
    assert low <= value <= high == 300


def test_beyond_the_grid_the_lower_bound_is_that_of_the_values(power_law):
    counts, s, _, converged, size = stored(power_law[0])
    value, low, high, _ = counts_at(2e4, counts + 11, 1e4 * s, 0 * s, converged, size)[:, 0]
    assert (value, low, high) == (10, 10, 11)


def test_all_values_give_exact_counts_between_thresholds():
    result = svds(torch.diag(torch.tensor([3.0, 1.15, 1.05, 0.2])), "all")
    assert counts_at(1.1, *stored(result))[:, 0].tolist() == [2, 2, 2, 0]


def test_values_that_equal_a_threshold_are_counted():
    result = svds(torch.diag(torch.tensor([3.0, 1 - 1e-7, 1 + 1e-7, 0.2])), "all")
    assert counts_at(1.0, *stored(result))[:, 0].tolist() == [3, 1, 3, 0]


def test_the_last_of_k_values_within_rounding_of_the_threshold_leaves_the_count_open():
    s = np.array([[2.0, 1.5, 1 - 1.5e-6]])
    nothing = np.full((1, 4, 81), np.nan)
    found = counts_at(1.0, nothing, s, 0 * s, np.array([3]), 10)[:, 0]
    assert found.tolist() == [3, 2, 10, 0]


def test_a_run_tells_the_counts_of_every_photo(finished):
    results = survey.open(finished().folder)
    for layer, size in (("2", 294), ("output", 30)):
        found = results.counts(layer, 0.5)
        assert (found.size, found.threshold, found.layer) == (size, 0.5, layer)
        assert found.samples["key"].to_pylist() == [f"photo{i}" for i in range(4)]
        assert found.whole.all()
        assert (found.low <= found.value).all()
        assert (found.value <= found.high).all()
        assert (found.high <= size).all()
    # 30 values are all found where 10 are wanted of so small a matrix.
    rows = [row for row in results.store.rows() if row.layer == "output"]
    at = int(np.argmin(abs(THRESHOLDS - 1)))
    found = results.counts("output")
    np.testing.assert_array_equal(found.value, [row.counts[at] for row in rows])
    assert found.mean().value == found.value.mean()


@pytest.mark.parametrize("threshold", [0, -1, float("nan"), "1", True])
def test_a_threshold_is_a_positive_number(finished, threshold):
    results = survey.open(finished().folder)
    with pytest.raises(ArgumentError, match="threshold"):
        results.counts("output", threshold)


def test_counts_of_a_depth_that_is_not_there_are_one_error(finished):
    with pytest.raises(ArgumentError, match="no depth 'x'"):
        survey.open(finished().folder).counts("x")


def without_whole_spectra(store):
    """Make the files of a run those of a version that kept no whole spectra."""
    for file in (store.folder / "spectra").glob("*.parquet"):
        rows = [
            row.__class__(**{**vars(row), **dict.fromkeys(("size", *COUNT_COLUMNS, *SUM_COLUMNS))})
            for row in survey.store.rows.from_table(pq.ParquetFile(file).read())
        ]
        table = to_table(rows, file.stem)
        pq.write_table(table.drop_columns(["size", *COUNT_COLUMNS, *SUM_COLUMNS]), file)


def test_rows_of_older_versions_stay_readable_and_give_bounds(surveyed, finished, shard):
    store = finished()
    without_whole_spectra(store)
    assert survey.verify(store).problems == ()
    results = survey.open(store.folder)
    s = results.spectra("2").s
    found = results.counts("2", float(s[:, -1].min()) / 2)
    assert not found.whole.any()
    np.testing.assert_array_equal(found.value, 10)
    np.testing.assert_array_equal(found.low, 10)
    np.testing.assert_array_equal(found.high, 294)
    known = results.counts("2", float(s[:, 4].mean()))
    np.testing.assert_array_equal(known.low, known.high)
    again = surveyed([shard], k=10)
    assert (again.computed, again.skipped) == (0, 4)
