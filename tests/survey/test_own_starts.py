"""Each photo of a run is solved from a random start of its own, in whatever order and company."""

import numpy as np
import pytest
import torch
from support.older_runs import without_fields
from support.sampled import SIZE, sampled_network
from support.shards import sample_members, write_tar

from jvpsvd import survey
from jvpsvd.report import differing_fields, read_values, summarize, table

PHOTOS, COLUMNS = 6, ("s", "counts", "counts_error", "participation", "entropy")


@pytest.fixture(scope="module")
def network():
    return sampled_network()[0]


@pytest.fixture
def run(network, tmp_path):
    """A function that runs the network over inputs, all of which have the same Jacobian."""
    X = torch.randn(PHOTOS, 1, SIZE, generator=torch.Generator().manual_seed(0))

    def of(out="run", report=False, **options):
        defaults = {"inputs": X, "model": network, "layers": ["output"], "k": 3, "seed": 1}
        return survey.run(survey.Spec(**defaults | options, out=tmp_path / out), report)

    return of


def stop(progress):
    raise KeyboardInterrupt


def rows_of(outcome):
    table = outcome.results.table()
    return {
        key: {name: np.array(table[name][at].as_py()) for name in COLUMNS}
        for at, key in enumerate(table["key"].to_pylist())
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, columns in one.items():
        for name, numbers in columns.items():
            np.testing.assert_array_equal(numbers, other[key][name], err_msg=f"{key} {name}")


def test_rows_are_the_same_in_whatever_order_and_part_they_are_computed(run):
    whole = run("whole")
    for i in (1, 0):
        parts = run("parts", share=(i, 2))
    assert_same(rows_of(whole), rows_of(parts))
    few = rows_of(run("few", photos=survey.PhotoSelection(limit=2)))
    assert_same({key: rows_of(whole)[key] for key in few}, few)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", report=lambda progress: progress.photos_done == 3 and stop(progress))
    resumed = run("stopped")
    assert (resumed.computed, resumed.skipped) == (3, 3)
    assert_same(rows_of(whole), rows_of(resumed))


def test_what_starts_sample_differs_between_photos_and_between_seeds(run):
    outcomes = [run(f"{seed}", seed=seed) for seed in (1, 2)]
    found = [outcome.results.counts("output") for outcome in outcomes]
    values = np.concatenate([counts.value for counts in found])
    errors = np.concatenate([counts.standard_error for counts in found])
    assert len({*values}) == 2 * PHOTOS
    assert 0.5 * errors.mean() < values.std() < 1.6 * errors.mean()
    for counts in found:
        error = np.sqrt(np.square(counts.standard_error).sum()) / PHOTOS
        assert counts.mean().standard_error == pytest.approx(error)


def test_a_run_that_an_older_version_began_goes_on_with_one_start_for_all(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(report=stop)
    without_fields(tmp_path / "run", "own_starts")
    outcome = run()
    assert outcome.computed == PHOTOS
    assert not outcome.store.identity.own_starts
    assert survey.verify(outcome.store).problems == ()
    counts = outcome.results.counts("output")
    # Every input has the same Jacobian, and so with the same start nearly the same sample.
    assert values_agree(counts)
    assert counts.mean().standard_error == pytest.approx(counts.standard_error.mean())
    new = run("new")
    assert not values_agree(new.results.counts("output"))
    lines = differing_fields(*(read_values(one.store) for one in (outcome, new)))
    assert lines == ["random start: one for all inputs | one for each input"]
    shown = [str(table(one.store, summarize(one.store))) for one in (outcome, new)]
    assert ["which all inputs share" in text for text in shown] == [True, False]


def values_agree(counts):
    return bool(counts.value.std() < 0.05 * counts.standard_error.mean())


def test_photos_of_a_batch_have_the_starts_that_they_have_alone(surveyed, tmp_path):
    # One photo five times: all that counts differ in is the sample.
    members = [member for i in range(5) for member in sample_members(f"p{i}", 0, 0)]
    shard = write_tar(tmp_path / "s.tar", members)
    options = {"model": "tiny:wide", "layers": ["output"], "k": 2}
    alone, together = (
        surveyed([shard], batch=batch, out=f"{batch}", **options).results.counts("output", 0.6)
        for batch in (1, 4)
    )
    print(alone, together)
    error = alone.standard_error.mean()
    assert error > 0
    # Matrices of a batch take as many steps as the slowest.
    np.testing.assert_allclose(alone.value, together.value, atol=0.3 * error)
    assert alone.value.std() > 0.4 * error
