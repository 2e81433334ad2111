import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wordnet_distances import min_depth, path_distance, wu_palmer

from jvpsvd.data.hierarchy import Hierarchy
from jvpsvd.data.wordnet import (
    SUPERCLASSES,
    ilsvrc_hierarchy,
    read_hierarchy,
    read_wordnet,
    write_hierarchy,
)
from jvpsvd.errors import ArgumentError, DataError

QUICK = settings(max_examples=100, deadline=None, derandomize=True)
ROOT = "n00001740"
TENCH, GOLDFISH, TABBY, GREYHOUND = "n01440764", "n01443537", "n02123045", "n02091032"
PIZZA, VOLCANO, BALLPLAYER, LAPTOP = "n07873807", "n09472597", "n09835506", "n03642806"
FISH, ANIMAL, DOG, RACER, ARTIFACT = (
    "n02512053", "n00015388", "n02084071", "n01317391", "n00021939",
)  # fmt: skip
# NLTK 3.10's shortest_path_distance and wup_similarity, on WordNet 3.0.
NLTK = [
    (TENCH, GOLDFISH, 2, 0.9411764705882353),
    (DOG, TABBY, 3, 0.8),
    (TENCH, LAPTOP, 22, 0.26666666666666666),
    (PIZZA, VOLCANO, 11, 0.26666666666666666),
    (LAPTOP, TABBY, 15, 0.34782608695652173),
    (BALLPLAYER, LAPTOP, 15, 0.34782608695652173),
    (TENCH, ROOT, 16, 0.1111111111111111),
]
BUILDER = Path(__file__).parents[2] / "examples" / "build_wordnet.py"


@pytest.fixture(scope="module")
def nouns():
    return ilsvrc_hierarchy()


def data_noun(entries):
    """The bytes of a data.noun: (name, words, [(symbol, name of what it points to)])."""
    head = b"".join(b"  %d a line of the licence  \n" % i for i in range(1, 4))
    gloss = "| a gloss, with words @ 00000001 n 0000 in it  \n"
    draft = []
    for name, words, pointers in entries:
        fields = [f"{len(words):02x}", *(f"{word} 0" for word in words), f"{len(pointers):03d}"]
        draft.append((name, fields, pointers))
    offsets, at = {}, len(head)
    for name, fields, pointers in draft:  # every offset has eight digits, so lengths are known
        offsets[name] = at
        at += len(f"00000000 03 n {' '.join(fields)} ")
        at += sum(len(f"{symbol} 00000000 n 0000 ") for symbol, _ in pointers) + len(gloss)
    lines = [
        f"{offsets[name]:08d} 03 n {' '.join(fields)} "
        + "".join(f"{symbol} {offsets[to]:08d} n 0000 " for symbol, to in pointers)
        + gloss
        for name, fields, pointers in draft
    ]
    return head + "".join(lines).encode(), {name: f"n{at:08d}" for name, at in offsets.items()}


SMALL = [
    ("entity", ["entity"], [("~", "animal")]),
    ("animal", ["animal", "living_creature"], [("@", "entity"), ("+", "entity")]),
    ("pet", ["pet"], [("@", "animal"), ("~i", "rex")]),
    ("dog", ["dog"], [("@", "animal")]),
    ("poodle", ["poodle"], [("@", "dog"), ("@", "pet"), ("#m", "entity")]),
    ("rex", ["Rex"], [("@i", "dog")]),
]


@pytest.fixture
def folder(tmp_path):
    data, _ = data_noun(SMALL)
    (tmp_path / "data.noun").write_bytes(data)
    return tmp_path


@pytest.fixture
def wnids():
    return data_noun(SMALL)[1]


def test_all_1000_classes_are_there_and_lead_up_to_entity(nouns):
    assert len(nouns.classes) == 1000 == len(set(nouns.classes))
    assert nouns.roots == (ROOT,)
    assert nouns.name(ROOT) == "entity"
    for wnid in nouns.classes:
        assert ROOT in nouns.ancestors(wnid)
    # Nothing is there that is not above a class.
    assert set(nouns.parents) == {c for wnid in nouns.classes for c in nouns.ancestors(wnid)}


def test_classes_are_in_the_order_of_classifiers(nouns):
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 985: "daisy"}
    assert {i: nouns.name(nouns.classes[i]) for i in known} == known
    assert nouns.classes[0] == TENCH
    assert nouns.classes[999] == "n15075141"  # toilet tissue
    assert sorted(nouns.classes) == list(nouns.classes)


def test_known_facts_of_the_real_hierarchy(nouns):
    assert FISH in nouns.ancestors(TENCH)
    assert ANIMAL in nouns.ancestors(FISH)
    assert ARTIFACT in nouns.ancestors(LAPTOP)
    assert ARTIFACT not in nouns.ancestors(TENCH)
    assert nouns.lemmas[TENCH] == ("tench", "Tinca tinca")
    # tench is a cyprinid, goldfish too.
    assert path_distance(nouns, TENCH, GOLDFISH) == 2
    assert path_distance(nouns, TENCH, FISH) == nouns.ancestors(TENCH)[FISH]
    assert (min_depth(nouns, ROOT), nouns.max_depth(ROOT)) == (0, 0)
    assert min_depth(nouns, DOG) == 8  # by domestic animal
    assert nouns.max_depth(DOG) == 13  # by carnivore


@pytest.mark.parametrize(("first", "second", "path", "similarity"), NLTK)
def test_distances_are_those_of_nltk(nouns, first, second, path, similarity):
    assert path_distance(nouns, first, second) == path
    assert wu_palmer(nouns, first, second) == pytest.approx(similarity, abs=1e-12)


def test_the_lowest_common_ancestor_counts_where_nltk_takes_a_higher_one(nouns):
    """In NLTK these are 0.58, by way of domestic animal, 0.81 and 0.87."""
    assert wu_palmer(nouns, TENCH, TABBY) == pytest.approx(18 / 33)
    assert wu_palmer(nouns, GREYHOUND, DOG) == 2 * 14 / (2 * 14 + 4)
    working_dog = "n02103406"
    assert wu_palmer(nouns, working_dog, working_dog) == 1
    assert any(  # a parent of it has the longer shortest way
        min_depth(nouns, parent) > min_depth(nouns, working_dog)
        for parent in nouns.ancestors(working_dog)
    )


def test_superclasses_sort_all_classes(nouns):
    found = {wnid: nouns.superclass(wnid, SUPERCLASSES) for wnid in nouns.classes}
    assert set(found.values()) == set(SUPERCLASSES)
    assert list(found.values()).count(DOG) == 118
    names = {wnid: nouns.name(found[wnid]) for wnid in (TENCH, TABBY, PIZZA, VOLCANO, LAPTOP)}
    assert names == {
        TENCH: "fish", TABBY: "mammal", PIZZA: "food", VOLCANO: "geological formation",
        LAPTOP: "device",
    }  # fmt: skip
    assert nouns.name(found[BALLPLAYER]) == "person"


def test_the_most_specific_superclass_counts_not_the_nearest(nouns):
    above = nouns.ancestors(GREYHOUND)
    assert above[ANIMAL] < above[DOG]
    assert nouns.superclass(GREYHOUND, [ANIMAL, DOG]) == DOG
    assert nouns.superclass(DOG, [ANIMAL, DOG]) == DOG
    assert nouns.superclass(TENCH, [DOG, ARTIFACT]) is None
    assert nouns.superclass(TENCH, []) is None


@QUICK
@given(st.data())
def test_distances_are_symmetric_and_zero_only_to_itself(data):
    nouns = ilsvrc_hierarchy()
    known = st.sampled_from(sorted(nouns.parents))
    first, second = data.draw(known), data.draw(known)
    assert path_distance(nouns, first, second) == path_distance(nouns, second, first)
    assert wu_palmer(nouns, first, second) == wu_palmer(nouns, second, first)
    assert (path_distance(nouns, first, second) == 0) == (first == second)
    assert (wu_palmer(nouns, first, second) == 1) == (first == second)
    assert 0 < wu_palmer(nouns, first, second) <= 1
    # No path is longer than the one by the root.
    assert path_distance(nouns, first, second) <= min_depth(nouns, first) + min_depth(nouns, second)


@QUICK
@given(st.data())
def test_the_triangle_inequality_holds_in_a_tree(data):
    count = data.draw(st.integers(3, 30))
    parents = {"0": ()}
    for i in range(1, count):
        parents[str(i)] = (str(data.draw(st.integers(0, i - 1))),)
    tree = Hierarchy({name: (name,) for name in parents}, parents)
    a, b, c = (str(data.draw(st.integers(0, count - 1))) for _ in range(3))
    assert path_distance(tree, a, c) <= path_distance(tree, a, b) + path_distance(tree, b, c)


def test_the_triangle_inequality_need_not_hold_with_two_parents():
    parents = {"top": (), "a": ("top",), "b": ("a",), "c": ("top",), "d": ("c",), "ab": ("b", "d")}
    graph = Hierarchy({name: (name,) for name in parents}, parents)
    assert path_distance(graph, "b", "d") == 4
    assert path_distance(graph, "b", "ab") + path_distance(graph, "ab", "d") == 2


@pytest.mark.parametrize("kind", ["path", "wu-palmer"])
def test_matrices_hold_the_distances_of_pairs(nouns, kind):
    chosen = [*nouns.classes[::53], FISH, TENCH]  # tench twice
    matrix = nouns.distance_matrix(chosen, kind)
    assert matrix.dtype == torch.float64
    assert torch.equal(matrix, matrix.T)
    assert not matrix.diagonal().any()
    for i, first in enumerate(chosen):
        for j, second in enumerate(chosen):
            pair = {
                "path": path_distance(nouns, first, second),
                "wu-palmer": 1 - wu_palmer(nouns, first, second),
            }
            assert float(matrix[i, j]) == pytest.approx(pair[kind], abs=1e-12)


def test_wu_palmer_by_hand():
    parents = {"root": (), "a": ("root",), "b": ("a",), "c": ("a",), "d": ("c",)}
    tree = Hierarchy({name: (name,) for name in parents}, parents)
    # a has 2 nodes on its way; b is 1 below it, d is 2.
    assert wu_palmer(tree, "b", "d") == 2 * 2 / (2 * 2 + 1 + 2)
    assert wu_palmer(tree, "root", "d") == 2 / (2 + 3)
    # p lies 2 below the root by one way and 3 by the other: 4 nodes.
    parents |= {"p": ("a", "c"), "q": ("p",), "r": ("p",)}
    graph = Hierarchy({name: (name,) for name in parents}, parents)
    assert wu_palmer(graph, "q", "r") == 2 * 4 / (2 * 4 + 1 + 1)


def test_the_lowest_common_ancestor_counts_though_a_higher_one_is_more_similar():
    parents = {"root": (), "near": ("root",), "1": ("root",), "2": ("1",), "low": ("2",)}
    for side in "xy":
        parents |= {f"{side}1": ("low",), f"{side}2": (f"{side}1",), f"{side}3": (f"{side}2",)}
        parents[side] = ("near", f"{side}3")
    graph = Hierarchy({name: (name,) for name in parents}, parents)
    assert path_distance(graph, "x", "y") == 2
    assert wu_palmer(graph, "x", "y") == 2 * 4 / (2 * 4 + 4 + 4) < 2 * 2 / (2 * 2 + 1 + 1)
    assert float(graph.distance_matrix(["x", "y"], "wu-palmer")[0, 1]) == 0.5


def test_an_unknown_wnid_is_one_error(nouns):
    message = "'n99999999' is no synset among these"
    for ask in (
        lambda: path_distance(nouns, TENCH, "n99999999"),
        lambda: wu_palmer(nouns, "n99999999", TENCH),
        lambda: nouns.distance_matrix([TENCH, "n99999999"]),
        lambda: nouns.superclass("n99999999", SUPERCLASSES),
        lambda: nouns.superclass(TENCH, ["n99999999"]),
        lambda: nouns.name("n99999999"),
        lambda: nouns.max_depth("n99999999"),
        lambda: nouns.above(["n99999999"]),
    ):
        with pytest.raises(ArgumentError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_distances_need_a_common_ancestor_and_a_known_kind(nouns):
    apart = Hierarchy({"a": ("a",), "b": ("b",)}, {"a": (), "b": ()})
    assert apart.roots == ("a", "b")
    for kind in ("path", "wu-palmer"):
        with pytest.raises(ArgumentError, match="a and b have no common ancestor"):
            apart.distance_matrix(["a", "b"], kind)
    with pytest.raises(ArgumentError, match="kind='lin' must be"):
        nouns.distance_matrix([TENCH], "lin")


def test_a_wordnet_folder_is_read(folder, wnids):
    found = read_wordnet(folder)
    assert len(found) == 6
    assert found.classes == ()
    assert found.roots == (wnids["entity"],)
    assert found.lemmas[wnids["animal"]] == ("animal", "living creature")
    # Only @ and @i lead up.
    assert found.parents[wnids["animal"]] == (wnids["entity"],)
    assert found.parents[wnids["poodle"]] == (wnids["dog"], wnids["pet"])
    assert found.parents[wnids["rex"]] == (wnids["dog"],)


def test_what_is_built_is_read_again(folder, wnids, tmp_path):
    built = read_wordnet(folder).above([wnids["rex"], wnids["pet"]])
    assert wnids["poodle"] not in built
    write_hierarchy(built, tmp_path / "nouns.tsv", "a notice\nof two lines")
    read = read_hierarchy(tmp_path / "nouns.tsv")
    assert read == built
    assert read.classes == (wnids["rex"], wnids["pet"])
    assert read.distance_matrix(read.classes)[0, 1] == 3


def test_the_script_builds_it(folder, wnids, tmp_path):
    (tmp_path / "order.txt").write_text(f"{wnids['rex']}\n{wnids['pet']}\n")
    command = [sys.executable, BUILDER, folder, tmp_path / "order.txt", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 classes, 5 synsets")
    assert read_hierarchy(tmp_path / "out" / "nouns.tsv").classes == (wnids["rex"], wnids["pet"])
    assert (tmp_path / "out" / "LICENSE").read_text() == "a line of the licence\n" * 3


def test_the_licence_is_beside_the_shipped_file():
    import jvpsvd.data

    folder = Path(jvpsvd.data.__file__).parent / "wordnet30"
    licence = (folder / "LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in licence
    assert "Permission to use, copy, modify and distribute this software" in licence
    assert (folder / "nouns.tsv").read_text().startswith("# The classes of ILSVRC-2012")


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(DataError, match=r"data\.noun cannot be read \(No such file"):
        read_wordnet(tmp_path)
    with pytest.raises(DataError, match=r"nouns\.tsv cannot be read"):
        read_hierarchy(tmp_path / "nouns.tsv")
    (tmp_path / "data.noun").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_wordnet(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"animal 0 living", b"animal 0 liv\xffng", "line 5 is not as"),
        (b" 02 animal", b" 03 animal", "line 5 is not as"),
        (b" 02 animal", b" zz animal", "line 5 is not as"),
        (b" 002 @", b" 009 @", "line 5 is not as"),
        (b" 01 dog", b" 00 dog", "line 7 is not as"),
        (b"03 n 01 dog", b"03 v 01 dog", "line 7 is not as"),
        (b"| a gloss", b"  a gloss", "line 4 is not as"),
        (b"entity 0 001", b"entities 0 001", "line 5 begins at byte"),
        (b"  3 a line of the licence  \n", b"", "line 3 begins at byte"),
    ],
)
def test_a_damaged_line_is_one_error_that_names_it(folder, old, new, message):
    file = folder / "data.noun"
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        read_wordnet(folder)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@QUICK
@given(st.integers(0, 700), st.binary(max_size=3), st.integers(0, 3))
def test_no_damage_is_a_traceback(tmp_path_factory, at, put, cut):
    folder = tmp_path_factory.mktemp("damaged")
    data = data_noun(SMALL)[0]
    (folder / "data.noun").write_bytes(data[:at] + put + data[at + cut :])
    try:
        read_wordnet(folder)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_file_cut_short_is_found(folder):
    file = folder / "data.noun"
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b" n 01 poodle")])
    with pytest.raises(DataError, match="line 8 is not as"):
        read_wordnet(folder)
    file.write_bytes(data[:90])
    with pytest.raises(DataError, match=r"data\.noun"):
        read_wordnet(folder)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="holds no synset"):
        read_wordnet(folder)


def test_a_pointer_to_nothing_is_found(folder, wnids):
    file = folder / "data.noun"
    data = file.read_bytes()
    gone = f"@ {wnids['dog'][1:]}".encode()
    file.write_bytes(data.replace(gone, b"@ 00000007"))
    with pytest.raises(DataError, match="has the parent n00000007, which is not there"):
        read_wordnet(folder)


def test_a_cycle_is_found(tmp_path):
    data, wnids = data_noun([("a", ["a"], [("@", "b")]), ("b", ["b"], [("@", "a")])])
    (tmp_path / "data.noun").write_bytes(data)
    with pytest.raises(DataError, match="is above itself") as caught:
        read_wordnet(tmp_path)
    assert any(wnid in str(caught.value) for wnid in wnids.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with the columns"),
        ("wnid\tparents\n", "does not begin with the columns"),
        ("wnid\tclass\tparents\tlemmas\n", "holds no synset"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t\t\n", "line 2 is not as"),
        ("wnid\tclass\tparents\tlemmas\nn1\t\t\tentity\n", "line 2 is not as"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\tx\t\tentity\n", "line 2 is not as"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t²\t\tentity\n", "line 2 is not as"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t1\t\tentity\n", "number its 1 classes"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t0_0\t\tentity\n", "line 2 is not as it"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t٠\t\tentity\n", "line 2 is not as it"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t\t\t\n", "n00000001 has no name"),
        ("wnid\tclass\tparents\tlemmas\nn00000001\t\tn00000002\tone\n", "n00000002, which is not"),
        ("# c\nwnid\tclass\tparents\tlemmas\n" + "n00000001\t\t\tone\n" * 2, "line 4 is not as"),
    ],
)
def test_a_damaged_table_is_one_error(tmp_path, text, message):
    (tmp_path / "nouns.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_hierarchy(tmp_path / "nouns.tsv")
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_text_is_one_error(tmp_path):
    (tmp_path / "nouns.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_hierarchy(tmp_path / "nouns.tsv")


def test_classes_must_be_there_once():
    with pytest.raises(DataError, match="the class b is not there"):
        Hierarchy({"a": ("a",)}, {"a": ()}, ("b",))
    with pytest.raises(DataError, match="for two classes"):
        Hierarchy({"a": ("a",)}, {"a": ()}, ("a", "a"))
