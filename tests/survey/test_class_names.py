"""Classes are called by their names, from the shards to the tables."""

import csv
import dataclasses
import json

import pytest
from support.shards import encoded, write_tar

from jvpsvd.data import Sample, demo_photos, walk
from jvpsvd.errors import ArgumentError, ShardError
from jvpsvd.report import read_values
from jvpsvd.report.analysis import analyse
from jvpsvd.report.classes import find_classes
from jvpsvd.report.tables import write_tables
from jvpsvd.survey import open_store
from jvpsvd.survey.spec.tasks import make_tasks


def members(key, label, record):
    return [
        (f"{key}.jpg", encoded(label)),
        (f"{key}.cls", str(label).encode()),
        (f"{key}.json", json.dumps(record).encode()),
    ]


@pytest.fixture
def named(tmp_path):
    """Photos of four classes: two with a name, one of ILSVRC, and one named with digits."""
    records = [{"class": "circles"}, {"class": "grey squares"}, {"wnid": "n01440764"}]
    records += [{"class": "0"}]
    every = [m for i, record in enumerate(records) for m in members(f"p{i}", i, record)]
    return write_tar(tmp_path / "named.tar", every)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"class": "circles"}, "circles"),
        ({"class": " grey squares "}, "grey squares"),
        ({"class": "a\nb\x1b[31m"}, "a\\nb\\x1b[31m"),
        ({"class": ""}, None),
        ({"class": 7}, None),
        ({"class": "x" * 999}, "x" * 200),
        ([], None),
    ],
)
def test_the_name_of_a_class_is_read_and_is_no_more_than_text(tmp_path, record, name):
    (sample,) = walk(write_tar(tmp_path / "s.tar", members("p", 0, record)))
    assert (sample.problem, sample.class_name) == ("", name)


@pytest.mark.parametrize("choice", ["first", "random"])
@pytest.mark.parametrize(
    ("classes", "keys"),
    [
        (["circles"], {"p0"}),
        (["grey squares", "2"], {"p1", "p2"}),
        (["tench"], {"p2"}),
        (["label:0"], {"p0"}),
        (["name:0"], {"p3"}),
    ],
)
def test_a_run_takes_classes_by_name(surveyed, named, classes, keys, choice):
    store = surveyed([named], classes=classes, layers=["output"], k=3, choice=choice).store
    assert {row.key for row in store.rows()} == keys


def test_a_class_that_is_not_there_is_answered_by_those_that_are(surveyed, named):
    there = r"there are circles \(0\), grey squares \(1\), n01440764 \(2\), 0 \(3\)"
    with pytest.raises(ShardError, match=rf"no sample of the class triangles in 1 .*; {there}"):
        surveyed([named], classes=["triangles"])


@pytest.mark.parametrize("choice", ["first", "random"])
@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            ["circle", "2"],
            r"no sample of the class circle in 1 shard; did you mean circles\? there",
        ),
        (["2", "7"], "no sample of the class 7 in 1 shard; there are circles"),
        (["7", "1", "triangles"], "no sample of the classes 7, triangles in 1 shard; there"),
        (["n01440764", "n0144076"], "class n0144076 in 1 shard; did you mean n01440764"),
    ],
)
def test_one_class_of_several_that_is_not_there_is_refused(
    surveyed, named, classes, said, choice, tmp_path
):
    with pytest.raises(ShardError, match=said):
        surveyed([named], classes=classes, limit=1, choice=choice)
    assert not list((tmp_path / "run").glob("rows/*"))


def test_digits_that_are_a_label_and_a_name_are_refused(surveyed, named):
    said = "the label 0, or the name of the class with the label 3; write label:0 or name:0"
    with pytest.raises(ArgumentError, match=said):
        surveyed([named], classes=["0"], limit=1)


@pytest.mark.parametrize("choice", ["first", "random"])
def test_digits_that_are_only_a_name_are_that_name(surveyed, tmp_path, choice):
    years = ["2020", "2021"]
    every = [m for i, year in enumerate(years) for m in members(f"p{year}", i, {"class": year})]
    shard = write_tar(tmp_path / "years.tar", every)
    asked = {"classes": ["2021"], "layers": ["output"], "limit": 1, "choice": choice}
    store = surveyed([shard], **asked).store
    assert {row.key for row in store.rows()} == {"p2021"}


def test_a_folder_is_free_after_a_refusal(surveyed, named):
    with pytest.raises(ArgumentError, match="write label:0 or name:0"):
        surveyed([named], classes=["0"], layers=["output"])
    store = surveyed([named], classes=["name:0"], layers=["output"]).store
    assert {row.key for row in store.rows()} == {"p3"}


def test_a_class_that_may_be_in_a_shard_that_cannot_be_read_is_told(
    surveyed, named, caplog, tmp_path
):
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(b"no tar" * 200)
    store = surveyed([named, damaged], classes=["circles", "cubes"], layers=["output"]).store
    assert "no sample of the class cubes in 2 shards" in caplog.text
    assert [row.key for row in store.rows()] == ["p0", ""]


def test_names_are_kept_and_tables_have_them(surveyed, named, tmp_path):
    store = open_store(surveyed([named], layers=["output"], k=3).store.folder)
    assert [sample.class_name for sample in store.samples()][:2] == ["circles", "grey squares"]
    files = {file.name: file for file in write_tables(analyse(read_values(store)), tmp_path / "t")}
    rows = csv.DictReader(files["classes.csv"].read_text().splitlines())
    assert [row["name"] for row in rows] == ["circles", "grey squares", "tench", "class 0"]


def test_a_run_begun_without_names_has_the_same_tasks(surveyed, named):
    store = surveyed([named], layers=["output"], k=3).store
    samples = store.samples()
    nameless = [dataclasses.replace(sample, class_name=None) for sample in samples]
    assert make_tasks(store.identity, samples) != make_tasks(store.identity, nameless)
    ids = [[task.id for task in make_tasks(store.identity, one)] for one in (samples, nameless)]
    assert ids[0] == ids[1]
    store.layout.manifest.unlink()
    store.write_manifest(nameless)
    again = surveyed([named], layers=["output"], k=3)
    assert (again.computed, again.skipped) == (0, 4)


def test_photos_of_the_demo_are_of_named_classes():
    photos = demo_photos()
    assert {photo.record["class"] for photo in photos} >= {"bull mastiff", "folding chair"}
    assert all(photo.record["wnid"].startswith("n") for photo in photos)


@pytest.fixture
def apart(tmp_path):
    """Shards that were packed from two folders: each counts its classes from 0."""
    files = []
    for shard, names in (("cats", ["persian", "siamese"]), ("dogs", ["beagle", "poodle"])):
        every = [m for i, n in enumerate(names) for m in members(f"{shard}{i}", i, {"class": n})]
        files.append(write_tar(tmp_path / f"{shard}.tar", every))
    return files


def test_classes_of_one_label_and_two_names_are_told_and_stay_apart(surveyed, apart, caplog):
    store = surveyed(apart, layers=["output"]).store
    assert "label 0 is persian in cats.tar and beagle in dogs.tar (and 1 label more)" in caplog.text
    classes = find_classes(store.samples())
    assert classes.names == ("beagle", "persian", "poodle", "siamese")
    assert classes.of == (1, 3, 0, 2)
    assert classes.keys == ((0, None), (0, None), (1, None), (1, None))
    means = analyse(read_values(store)).depths[-1].classes
    assert means.photos.tolist() == [1, 1, 1, 1]


def test_one_class_with_a_name_here_and_none_there_is_one(surveyed, named, caplog):
    samples = surveyed([named], layers=["output"]).store.samples()
    assert "label" not in caplog.text
    nameless = [dataclasses.replace(s, key=f"{s.key}b", class_name=None) for s in samples]
    assert find_classes([*samples, *nameless]).names == find_classes(samples).names


def test_a_wnid_with_two_names_is_one_class(caplog):
    one = Sample("a.tar", "a", 0, 1, 0, "n01440764", class_name="tench")
    other = dataclasses.replace(one, shard="b.tar", class_name="Tinca tinca")
    assert find_classes([one, other]).names == ("tench",)


def test_a_label_without_a_name_is_not_taken_for_a_class_of_that_name():
    nameless, named = Sample("a.tar", "a", 0, 1, 3, None), Sample("a.tar", "b", 0, 1, 4, None)
    named = dataclasses.replace(named, class_name="3")
    assert set(find_classes([nameless, named]).names) == {"label 3", "class 3"}
