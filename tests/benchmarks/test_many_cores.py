"""Photos per hour, by a model of threads and workers that is fitted to three rates."""

import pytest

from benchmarks.parts import many_cores
from benchmarks.parts.many_cores import Measured, Model, environment_of, fit, forecast, rate_of


@pytest.mark.parametrize("parallel", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kept", [0.6, 1.0])
def test_the_model_is_found_again_from_its_rates(parallel, kept):
    model = Model(80.0, parallel, kept)
    found = fit(model.rate(1, 1), model.rate(1, 2), model.rate(2, 1))
    assert found.one == 80.0
    assert found.parallel == pytest.approx(parallel)
    assert found.kept == pytest.approx(kept)


def test_noise_does_not_leave_the_model():
    assert fit(100.0, 90.0, 230.0) == Model(100.0, 0.0, 1.0)
    assert fit(100.0, 250.0, 150.0) == Model(100.0, 1.0, 0.75)


def test_a_rate_leaves_out_the_start():
    assert rate_of([100.0, 110.0, 120.0], 1) == 360.0
    assert rate_of([5.0, 6.0, 15.0, 16.0], 2) == 720.0
    with pytest.raises(ValueError, match="2 photos of 2 workers"):
        rate_of([1.0, 2.0], 2)


def test_the_forecast_goes_from_one_worker_to_one_for_each_core():
    rows = forecast(Model(100.0, 0.5, 0.9), 64, 1 << 30)
    assert [(row["workers"], row["threads"]) for row in rows][:2] == [(1, 64), (2, 32)]
    assert (rows[-1]["workers"], rows[-1]["threads"]) == (64, 1)
    assert rows[-1]["per_hour"] == pytest.approx(5760.0)
    assert rows[-1]["memory"] == 64 << 30


def test_threads_are_chosen_and_nothing_else_of_openmp():
    chosen = environment_of(2, {"A": "b", "OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "9"})
    assert chosen == {"A": "b", "OMP_NUM_THREADS": "2"}


def test_tables_name_every_way(capsys):
    best = {way.name: Measured(100.0, 20.0, 1 << 30) for way in many_cores.WAYS}
    many_cores.print_tables(best, Model(100.0, 0.5, 0.9), 1 << 30, 64)
    printed = capsys.readouterr().out
    assert "| 2 Ray workers x 1 thread | 100 | 20 s | – |" in printed
    assert "| 64 x 1 | 5760 | 64 GiB |" in printed
