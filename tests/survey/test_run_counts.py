"""The counts of a run in words."""

import pytest

from jvpsvd.survey.store.run_counts import RunCounts


@pytest.mark.parametrize(
    ("energy", "words"),
    [(0.5, "energy 50 %,"), (1.0, "energy 100 %,"), (1.013, "energy about 100 %,")],
)
def test_no_more_than_all_energy_is_said_to_be_held(energy, words):
    assert words in str(RunCounts(values=1, energy=energy, shares=1))


def test_where_no_row_has_values_no_residual_is_said():
    assert str(RunCounts(failures=5, failed=5)) == "5 failures"


def test_triplets_that_a_missing_value_may_displace_are_not_called_above_the_tolerance():
    told = str(RunCounts(values=1, unconverged=2))
    assert told == "0 failures, worst residual 0e+00 σ1, 2 triplets not certified"
