"""Rows with values near the smallest numbers."""

import numpy as np
import pytest

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd.report import read_values
from jvpsvd.report.estimates import estimate


def test_a_norm_far_above_tiny_values_is_not_taken_and_no_warning_is_issued(tmp_path):
    store = make_run(tmp_path / "run", photos=1, depths=1, k=2)
    s = np.array([[1e-200, 5e-201]])
    write_rows(store, "output", store.samples(), s, np.full((1, 2), 1e-210), fro2=[1.0])
    (depth,) = read_values(store).depths
    found = estimate(depth, 1e-5)
    assert found.values["participation"][0] == pytest.approx(1.25**2 / (1 + 1 / 16))
    assert found.bounds("participation")
