"""Classes of a run against WordNet, from the library and beside the page."""

import csv

import numpy as np
import pytest
import torch

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd import survey
from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import class_means, log_spectra, mantel, nearest_class, row_distances
from jvpsvd.report import read_values, write_report

COUNT = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Five photos of each of twelve classes, two depths; at "block.0" distances are WordNet's."""
    made = make_run(tmp_path_factory.mktemp("classes") / "run", 60, 2, 10, COUNT)
    samples = made.samples()
    hierarchy = ilsvrc_hierarchy()
    wnids = hierarchy.classes[:COUNT]
    D = hierarchy.distance_matrix(wnids).numpy()
    # Coordinates whose distances are about D: the leading axes of classical scaling.
    centre = np.eye(COUNT) - 1 / COUNT
    values, axes = np.linalg.eigh(-0.5 * centre @ D**2 @ centre)
    place = axes[:, -9:] * np.sqrt(values[-9:].clip(0))
    noise = np.random.default_rng(0).normal(0, 0.2, (60, 9))
    of = [wnids.index(sample.wnid) for sample in samples]
    logs = np.concatenate([np.zeros((60, 1)), 0.01 * (place[of] + noise)], axis=1)
    s = np.exp(logs - 0.5 * np.arange(10))
    write_rows(made, "block.0", samples, s, 1e-6 * s)
    return made


@pytest.fixture(scope="module")
def compared(store):
    return survey.open(store.folder).classes()


def test_it_says_what_the_functions_of_geometry_say(store, compared):
    there = survey.open(store.folder).spectra("output")
    wnids = there.samples["wnid"].to_pylist()
    rows = log_spectra(there.s, floor=store.identity.tol)
    means = class_means(rows, wnids)
    order = [means.classes.index(wnid) for wnid in compared.wnids]
    distances = row_distances(means.means[order])
    found = compared.depths[-1]
    torch.testing.assert_close(found.distances, distances)
    assert found.test == mantel(distances, compared.wordnet, permutations=999)
    assert found.nearest.precision == nearest_class(rows, wnids, permutations=99).precision
    assert found.interval.low <= found.test.correlation <= found.interval.high


def test_a_depth_that_holds_the_hierarchy_is_told_from_shuffled_labels(compared):
    held, other = compared.depths
    assert held.test.correlation > 0.9
    assert held.test.p_value == 0.001
    assert abs(held.shuffled[0]) < 0.3
    assert held.shuffled[0] + 3 * held.shuffled[1] < held.test.correlation
    assert held.nearest.precision > 0.9 > 5 * held.nearest.chance
    assert other.test.correlation < held.test.correlation


def test_fewer_classes_are_chosen_by_a_fixed_rule(store, compared):
    some = survey.open(store.folder).classes(at_most=5)
    assert (len(some.wnids), some.total) == (5, COUNT)
    assert set(some.wnids) < set(compared.wnids)
    assert some.wnids == survey.open(store.folder).classes(at_most=5).wnids
    place = [compared.wnids.index(wnid) for wnid in some.wnids]
    torch.testing.assert_close(some.wordnet, compared.wordnet[place][:, place])


def test_files_beside_the_page_hold_every_pair(store, compared):
    files = {file.name: file for file in write_report(read_values(store)).files}
    rows = {
        name: list(csv.DictReader(files[name].read_text().splitlines()))
        for name in ("class-tree.csv", "class-distances.csv", "wordnet-distances.csv")
    }
    pairs = COUNT * (COUNT - 1) // 2
    assert len(rows["class-distances.csv"]) == 2 * pairs
    assert len(rows["wordnet-distances.csv"]) == pairs
    index = {wnid: number for number, wnid in enumerate(compared.wnids)}
    depths = {depth.layer: depth for depth in compared.depths}
    for row in rows["class-distances.csv"]:
        distance = depths[row["layer"]].distances[index[row["wnid"]], index[row["other_wnid"]]]
        assert float(row["distance"]) == pytest.approx(float(distance), rel=1e-5)
    for row in rows["class-tree.csv"]:
        found = depths[row["layer"]]
        assert float(row["spearman"]) == pytest.approx(found.test.correlation, rel=1e-5)
        assert float(row["low_95"]) == pytest.approx(found.interval.low, rel=1e-5)
        assert float(row["nearest_precision"]) == pytest.approx(found.nearest.precision, rel=1e-5)
        assert float(row["shuffled_mean"]) == pytest.approx(found.shuffled[0], rel=1e-4)


def test_a_run_without_wnids_says_what_shards_need(tmp_path):
    store = make_run(tmp_path / "run", named=False)
    with pytest.raises(ArgumentError, match="0 classes have a wnid of ILSVRC"):
        survey.open(store.folder).classes()


def test_classes_of_one_photo_have_no_nearest_class(tmp_path):
    store = make_run(tmp_path / "run", photos=6, depths=1, classes=6)
    (depth,) = survey.open(store.folder).classes().depths
    assert depth.test is not None
    assert depth.nearest is None
    assert "nearest to their own class" not in write_report(read_values(store)).page.read_text()
