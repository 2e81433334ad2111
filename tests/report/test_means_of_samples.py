"""Means over the photos of a run, and differences of runs, of what random starts have sampled."""

import csv
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from support.sampled import ABOVE_ONE, SIZE, root_mean_square, sampled_network

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd import survey
from jvpsvd.report import compare_runs, read_values, summarize
from jvpsvd.report.analysis import analyse
from jvpsvd.report.classes import average_classes, find_classes
from jvpsvd.report.estimates import BOUNDED, estimate, titles
from jvpsvd.report.tables import write_tables

PHOTOS, SEEDS = 9, 6


@pytest.fixture(scope="module")
def one_network(tmp_path_factory):
    """Runs of one network with several seeds, and its participation ratio."""
    net, participation = sampled_network()
    X = torch.randn(PHOTOS, 1, SIZE, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("seeds")
    runs = []
    for seed in range(SEEDS):
        out = folder / str(seed)
        spec = survey.Spec(inputs=X, model=net, layers=["output"], k=3, seed=seed, out=out)
        runs.append(read_values(survey.run(spec, report=False).store))
    return runs, participation


def with_starts(run, *, own):
    """The values of a run, as if it had been begun with such starts."""
    depths = tuple(dataclasses.replace(depth, own_starts=own) for depth in run.depths)
    return dataclasses.replace(run, depths=depths)


def error_of_mean(errors, *, own):
    return math.sqrt(np.square(errors).sum()) / len(errors) if own else errors.mean()


def test_more_photos_narrow_what_random_starts_of_their_own_have_sampled(one_network):
    runs, participation = one_network
    off = {"count": [], "participation": []}
    for run in runs:
        found = estimate(run.depths[0], 1e-5)
        for name, truth in (("count", ABOVE_ONE), ("participation", participation)):
            mean = found.mean(name)
            errors = found.ranges[name][2]
            assert errors.min() > 0
            assert mean.standard_error == pytest.approx(error_of_mean(errors, own=True))
            off[name].append((mean.value - truth) / mean.standard_error)
        (summary,) = summarize(run.store)
        assert summary.count == found.mean("count")
        assert survey.open(run.store.folder).counts("output").mean() == summary.count
        at = int(np.argmin(abs(summary.counts.grid - 1)))
        assert summary.counts.standard_error[at] == pytest.approx(summary.count.standard_error)
    for numbers in off.values():
        assert 0.5 < root_mean_square(numbers) < 1.8


def test_one_start_for_all_photos_leaves_the_error_of_one(one_network):
    runs, _ = one_network
    shared = estimate(with_starts(runs[0], own=False).depths[0], 1e-5)
    for name in ("count", "participation"):
        error = shared.mean(name).standard_error
        assert error == pytest.approx(shared.ranges[name][2].mean())


def test_the_same_seed_on_the_same_photos_of_one_network_differs_by_nothing(one_network):
    runs, _ = one_network
    for found in compare_runs(runs[0], runs[0]):
        assert (found.difference.value, found.difference.standard_error) == (0, 0)


def test_two_seeds_of_one_network_differ_by_few_errors(one_network):
    runs, _ = one_network
    for one, other in itertools.combinations(runs, 2):
        for paired in (True, False):
            first, second = (one, other) if paired else (one, renamed(other))
            for found in compare_runs(first, second):
                assert found.paired == paired
                # NaN where bounds leave the sign open, as residuals do of single values. The
                # scatter of nine photos gives the error, and Student's t for it.
                assert math.isnan(found.errors) or abs(found.errors) < 6


def renamed(run):
    """The values of a run, of photos that no other run has."""
    samples = tuple(dataclasses.replace(one, key=f"other {one.key}") for one in run.samples)
    return dataclasses.replace(run, samples=samples)


@pytest.mark.parametrize("own", [(True, True), (True, False), (False, False)])
def test_what_a_run_with_one_start_sampled_is_added_to_the_scatter_over_photos(tmp_path, own):
    first = read_values(make_run(tmp_path / "a", depths=1, whole=True))
    second = read_values(make_run(tmp_path / "b", depths=1, whole=True, classes=3))
    first, second = with_starts(first, own=own[0]), with_starts(second, own=own[1])
    one, other = (estimate(run.depths[0], 1e-5) for run in (first, second))
    differences = {
        paired: {each.quantity: each for each in compare_runs(first, run)}
        for paired, run in ((True, known_as(second, first)), (False, renamed(second)))
    }
    for name in BOUNDED:
        sampled = [of.ranges[name][2].mean() for of in (one, other)]
        assert min(sampled) > 0
        # With starts of their own, the values of photos scatter by what was sampled already.
        added = [error for error, mine in zip(sampled, own, strict=True) if not mine]
        values = one.values[name], other.values[name]
        scatter = {True: [values[1] - values[0]], False: values}
        for paired, by_name in differences.items():
            found = by_name[titles(1.0)[name]]
            assert found.paired == paired
            over_photos = [each.std(ddof=1) / math.sqrt(len(each)) for each in scatter[paired]]
            expected = math.hypot(*added, *over_photos)
            assert found.difference.standard_error == pytest.approx(expected)


def known_as(run, other):
    """The values of a run, of the photos of another one."""
    return dataclasses.replace(run, samples=other.samples, checksums=other.checksums)


@pytest.mark.parametrize("own", [True, False])
def test_bounds_of_a_class_have_the_errors_of_its_photos(tmp_path, own):
    run = with_starts(read_values(make_run(tmp_path / "run", depths=1, whole=True)), own=own)
    (depth,), classes = run.depths, find_classes(run.samples)
    found = estimate(depth, 1e-5)
    numbers = average_classes(depth, classes, found).numbers
    of = np.array(classes.of)[depth.photo]
    for name in BOUNDED:
        for number in range(len(classes)):
            lows, highs, errors = found.ranges[name][:, of == number]
            low, high, error = lows.mean(), highs.mean(), error_of_mean(errors, own=own)
            assert error > 0
            assert numbers[f"{name}_least"][number] == pytest.approx(low - 2 * error)
            assert numbers[f"{name}_most"][number] == pytest.approx(high + 2 * error)


@pytest.mark.parametrize("own", [True, False])
def test_the_table_of_counts_has_the_errors_of_its_photos(tmp_path, own):
    run = with_starts(read_values(make_run(tmp_path / "run", depths=1, whole=True)), own=own)
    files = {file.name: file for file in write_tables(analyse(run), tmp_path / "tables")}
    rows = list(csv.DictReader(files["counts.csv"].read_text().splitlines()))
    errors = np.array([error_of_mean(each, own=own) for each in run.depths[0].counts[:, 3].T])
    assert errors.max() > 0
    told = [float(row["standard_error"]) for row in rows]
    np.testing.assert_allclose(told, errors, rtol=1e-6)


def test_a_photo_without_any_change_counts_as_none_in_every_mean(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3, classes=1)
    s = np.array([[3.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    write_rows(store, "output", store.samples(), s, 1e-6 * s)
    (summary,), (depth,) = summarize(store), analyse(read_values(store)).depths
    assert summary.dimension == 1.0
    assert depth.estimates.values["count"].tolist() == [2.0, 0.0]
    assert depth.estimates.mean("count").value == 1.0
    assert float(depth.classes.numbers["count"][0]) == 1.0
    assert np.isnan(depth.estimates.values["participation"]).tolist() == [False, True]


def test_a_norm_that_is_no_photos_own_is_left_out_for_that_photo_alone(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3, classes=1)
    s = np.array([[3.0, 2.0, 0.5], [3.0, 2.0, 0.5]])
    norms = {}
    for name, fro2 in {"good": [25.0, 25.0], "one": [25.0, 1.0]}.items():
        write_rows(store, "output", store.samples(), s, 1e-6 * s, fro2=fro2)
        norms[name] = estimate(read_values(store).depths[0], 1e-4).values["participation"]
    assert norms["one"][0] == norms["good"][0]
    assert norms["one"][1] < norms["good"][1]
