"""Fits of decay, and the energy that the first values hold."""

import csv

import numpy as np
import pytest

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd.report import read_values, write_report
from jvpsvd.report.analysis import analyse
from jvpsvd.report.decay import fit_decay
from jvpsvd.report.page_tables import decay_rows

K = 30
INDEX = np.arange(1, K + 1)


def fitted(tmp_path, s, **columns):
    store = make_run(tmp_path / "run", photos=len(s), depths=1, k=s.shape[1])
    write_rows(store, "output", store.samples(), s, np.zeros_like(s), **columns)
    return fit_decay(read_values(store).depths[0], store.identity.tol)


def test_a_power_law_gives_its_exponent(tmp_path):
    found = fitted(tmp_path, np.stack([5.0 * INDEX**-0.75, 2.0 * INDEX**-1.5]))
    np.testing.assert_allclose(found.power, [0.75, 1.5], rtol=1e-9)
    np.testing.assert_allclose(found.power_fit, 1.0)
    assert (found.length_fit < 0.95).all()


def test_an_exponential_gives_its_length(tmp_path):
    found = fitted(tmp_path, np.stack([5.0 * np.exp(-INDEX / 12.5)]))
    np.testing.assert_allclose(found.length, [12.5], rtol=1e-9)
    np.testing.assert_allclose(found.length_fit, 1.0)
    assert found.power_fit[0] < 0.95


def test_noise_below_the_tolerance_enters_no_fit(tmp_path):
    s = 5.0 * INDEX**-2.0
    s[20:] = 1e-7 * s[0]
    assert fitted(tmp_path, s[None]).power[0] == pytest.approx(2.0)


def test_energy_is_cumulated_and_its_half_is_found(tmp_path):
    s = np.ones((1, 10))
    found = fitted(tmp_path, s, fro2=[16.0])
    np.testing.assert_allclose(found.energy, np.arange(1, 11) / 16)
    assert (found.reaches(0.5), found.reaches(0.9)) == (8, None)


@pytest.mark.parametrize("k", [1, 2])
def test_too_few_values_have_no_fit_and_a_page(tmp_path, k):
    store = make_run(tmp_path / "run", photos=3, depths=1, k=k)
    assert np.isnan(fit_decay(read_values(store).depths[0], 1e-5).power).all()
    assert write_report(read_values(store)).page.exists()


def test_equal_values_do_not_fall(tmp_path):
    found = fitted(tmp_path, np.full((1, 8), 2.0))
    assert found.power[0] == pytest.approx(0.0, abs=1e-12)
    assert np.isinf(found.length[0])


def test_lengths_of_slow_decay_are_told_without_exponents(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=K)
    s = np.stack([5.0 * np.exp(-INDEX / length) for length in (1234.0, 2345.0)])
    write_rows(store, "output", store.samples(), s, np.zeros_like(s))
    (row,) = decay_rows(analyse(read_values(store)))
    assert row["cells"][2]["text"] == "1789 ± 555"


def test_the_file_has_a_row_for_each_photo(tmp_path):
    store = make_run(tmp_path / "run", photos=4, depths=2)
    files = {file.name: file for file in write_report(read_values(store)).files}
    rows = list(csv.DictReader(files["decay.csv"].read_text().splitlines()))
    assert [row["layer"] for row in rows] == ["block.0"] * 4 + ["output"] * 4
    assert all(float(row["tau"]) > 0 for row in rows)
