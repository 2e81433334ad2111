"""Which samples a run visits."""

import itertools

import pytest
from support.shards import sample_members, write_tar

from jvpsvd.data import Sample
from jvpsvd.errors import ShardError
from jvpsvd.networks import PhotoInput
from jvpsvd.survey import Identity, PhotoSelection
from jvpsvd.survey.spec.manifest import list_samples
from jvpsvd.survey.spec.selection import select_samples


def identity(**wanted):
    needed = {"model": "m", "weights_sha256": "w", "photo_input": PhotoInput(), "shards": ("s",)}
    needed |= {"contents": ("c",), "layers": ("output",), "k": 5, "tol": 1e-5}
    seed = wanted.pop("seed", 0)
    return Identity(**needed, seed=seed, photos=PhotoSelection(**{"choice": "random", **wanted}))


def choose(samples, **wanted):
    chosen_by = identity(**wanted)
    return select_samples(samples, chosen_by.photos, chosen_by.seed)


def sample(shard, key, label=None, wnid=None):
    return Sample(shard, key, 0, 1, label, wnid)


EVERY = [sample(f"{s}.tar", f"photo{i}", i % 3) for s in "abc" for i in range(20)]
WNIDS = [sample("a.tar", f"photo{i}", None, f"n0000000{i % 4}") for i in range(20)]
MIXED = [*WNIDS[:8], sample("a.tar", "none0"), sample("a.tar", "none1"), *EVERY[:9]]


def chosen(samples, **wanted):
    return [(s.shard, s.key) for s in choose(samples, **wanted)]


@pytest.mark.parametrize("choice", ["random", "first"])
@pytest.mark.parametrize(
    "wanted", [{}, {"limit": 7}, {"per_class": 4}, {"limit": 7, "per_class": 3}]
)
def test_choice_is_in_the_order_of_the_shards_and_as_large_as_requested(choice, wanted):
    found = chosen(EVERY, choice=choice, **wanted)
    assert found == [key for key in chosen(EVERY) if key in set(found)]
    whole = {"limit": 60, "per_class": 60, **wanted}
    assert len(found) == len(set(found)) == min(whole["limit"], 3 * whole["per_class"], 60)


@pytest.mark.parametrize("wanted", [{"limit": 9}, {"per_class": 3}, {"limit": 7, "per_class": 3}])
def test_same_seed_is_the_same_choice_and_another_is_another(wanted):
    one = chosen(EVERY, seed=1, **wanted)
    assert one == chosen(EVERY, seed=1, **wanted)
    assert one != chosen(EVERY, seed=2, **wanted)
    assert one != chosen(EVERY, seed=1, choice="first", **wanted)


@pytest.mark.parametrize("wanted", [{"limit": 9}, {"per_class": 3}, {"limit": 7, "per_class": 3}])
def test_random_choice_does_not_depend_on_the_order_of_shards(wanted):
    parts = [list(part) for _, part in itertools.groupby(EVERY, key=lambda s: s.shard)]
    for order in itertools.permutations(parts):
        assert set(chosen(itertools.chain(*order), **wanted)) == set(chosen(EVERY, **wanted))


@pytest.mark.parametrize("name", ["limit", "per_class"])
@pytest.mark.parametrize("choice", ["random", "first"])
@pytest.mark.parametrize("other", [{}, {"per_class": 9}, {"classes": ("0", "2")}])
def test_smaller_choice_is_a_part_of_the_larger(name, choice, other):
    sizes = [chosen(EVERY, choice=choice, seed=3, **{**other, name: n}) for n in range(1, 21)]
    assert all(set(small) <= set(large) for small, large in itertools.pairwise(sizes))
    assert len(sizes[0]) < len(sizes[-1])


def test_random_choice_is_spread_over_shards():
    assert {shard for shard, _ in chosen(EVERY, limit=12)} == {"a.tar", "b.tar", "c.tar"}
    assert {shard for shard, _ in chosen(EVERY, limit=12, choice="first")} == {"a.tar"}


@pytest.mark.parametrize("choice", ["random", "first"])
def test_classes_are_indices_or_wnids(choice):
    found = choose(MIXED, classes=("1", "n00000002"), choice=choice)
    assert {(s.label, s.wnid) for s in found} == {(1, None), (None, "n00000002")}
    assert len(found) == 5


@pytest.mark.parametrize("name", ["None", "7", "", "n0000000"])
def test_name_that_is_no_class_chooses_nothing(name):
    assert choose(MIXED, classes=(name,)) == []


@pytest.mark.parametrize("choice", ["random", "first"])
def test_per_class_counts_wnids_where_there_is_no_index(choice):
    found = choose(WNIDS, per_class=2, choice=choice)
    assert sorted(s.wnid for s in found) == sorted(f"n0000000{i}" for i in range(4) for _ in "ab")


@pytest.mark.parametrize("choice", ["random", "first"])
def test_per_class_takes_samples_without_class_for_one_class(choice):
    found = choose(MIXED, per_class=1, choice=choice)
    assert sorted((str(s.label), str(s.wnid)) for s in found) == sorted(
        [("None", f"n0000000{i}") for i in range(4)]
        + [("None", "None")]
        + [(str(i), "None") for i in range(3)]
    )


FAILED = Sample("b.tar", "", -1, 0, None, None, "bad-shard", "not a tar")


@pytest.mark.parametrize("choice", ["random", "first"])
@pytest.mark.parametrize(
    "wanted", [{}, {"limit": 30}, {"per_class": 15}, {"classes": ("0",)}, {"classes": ("x",)}]
)
def test_failed_shards_are_always_listed_in_their_place(choice, wanted):
    samples = [*EVERY[:20], FAILED, *EVERY[40:]]
    found = choose(samples, choice=choice, **wanted)
    assert found.count(FAILED) == 1
    at = found.index(FAILED)
    assert {s.shard for s in found[:at]} <= {"a.tar"}
    assert {s.shard for s in found[at + 1 :]} <= {"c.tar"}


@pytest.fixture
def shards(tmp_path):
    """A good shard, one that is no tar, one that is not there, and a good one."""
    good = [
        write_tar(
            tmp_path / f"{s}.tar", [m for i in range(3) for m in sample_members(f"{s}{i}", i, i)]
        )
        for s in "ad"
    ]
    (tmp_path / "b.tar").write_bytes(b"no tar" * 999)
    return [good[0], tmp_path / "b.tar", tmp_path / "c.tar", good[1]]


def test_bad_and_missing_shards_are_samples_with_an_empty_key(shards):
    found = list_samples(identity(), shards)
    assert [s.key for s in found] == ["a0", "a1", "a2", "", "", "d0", "d1", "d2"]
    failed = [s for s in found if not s.key]
    assert [(s.shard, s.problem) for s in failed] == [
        ("b.tar", "bad-shard"),
        ("c.tar", "missing-shard"),
    ]
    assert all(s.message for s in failed)


def test_bad_and_missing_shards_are_rows(surveyed, shards):
    outcome = surveyed(shards, layers=["output"])
    assert [(r.shard, r.key, r.status) for r in outcome.store.rows()] == [
        *[("a.tar", f"a{i}", "ok") for i in range(3)],
        ("b.tar", "", "bad-shard"),
        ("c.tar", "", "missing-shard"),
        *[("d.tar", f"d{i}", "ok") for i in range(3)],
    ]
    assert surveyed(shards, layers=["output"]).computed == 0


@pytest.mark.parametrize(
    ("limit", "walked", "keys"),
    [(2, 1, ["a0", "a1"]), (3, 1, ["a0", "a1", "a2"]), (4, 4, ["a0", "a1", "a2", "", "", "d0"])],
)
def test_first_choice_does_not_walk_the_shards_that_follow(shards, limit, walked, keys):
    reported = []
    found = list_samples(identity(choice="first", limit=limit), shards, reported.append)
    assert [s.key for s in found] == keys
    assert reported == list(range(walked))


def test_random_choice_walks_every_shard(shards):
    reported = []
    found = list_samples(identity(limit=2), shards, reported.append)
    assert reported == [0, 1, 2, 3, 4]
    assert len([s for s in found if s.key]) == 2


@pytest.mark.parametrize("choice", ["random", "first"])
def test_no_sample_left_is_one_error(shards, choice):
    with pytest.raises(
        ShardError, match="no sample of the classes 8, n00000000 in 4 shards; there are 0"
    ):
        list_samples(identity(classes=("8", "n00000000"), choice=choice), shards)
    with pytest.raises(ShardError, match=r"no sample in 1 shard: .*c\.tar"):
        list_samples(identity(choice=choice), [shards[2]])


def test_run_over_classes_visits_them_alone(surveyed, shard):
    rows = surveyed([shard], classes=["1"], layers=["output"]).store.rows()
    assert [row.key for row in rows] == ["photo1", "photo3"]
    with pytest.raises(ShardError, match="no sample of the class 9"):
        surveyed([shard], "none", classes=["9"])
