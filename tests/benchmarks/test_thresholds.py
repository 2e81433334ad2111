"""Each threshold of the solvers can be scaled, and is as it was afterwards."""

import pytest

from benchmarks.parts.thresholds import count, find_thresholds, main


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_thresholds_are_scaled_and_restored(factor):
    found = find_thresholds()
    assert len(found) > 20
    for one in found:
        with one.scaled(factor):
            scaled = getattr(one.module, one.name)
            assert type(scaled) is type(one.value)
            assert (
                scaled == pytest.approx(max(1, round(factor * one.value)))
                or type(one.value) is float
            )
        assert getattr(one.module, one.name) == one.value


def test_a_threshold_that_decides_changes_what_is_counted():
    (safety,) = find_thresholds(["_SAFETY"])
    seeds = range(300_000, 300_060)
    today = count(seeds)
    with safety.scaled(1e-3):
        strict = count(seeds)
    assert strict["products"] > today["products"]
    assert count(seeds) == today


def test_the_table_leaves_out_what_changes_nothing(capsys):
    assert main(["_MAX_PASSES", "--problems", "3"]) == 0
    assert "1 others of 1 changed nothing" in capsys.readouterr().out
