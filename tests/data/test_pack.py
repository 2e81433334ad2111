import os
import shutil
import subprocess
import sys

import pytest
from support.shards import encoded

from jvpsvd.data import (
    demo_photos,
    demo_shards,
    find_shards,
    list_folder,
    pack,
    photos_by_class,
    read_photos,
    walk,
)
from jvpsvd.errors import ArgumentError, ShardError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for index, name in enumerate(["zebra", "n01443537", "zebra", "empty"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        if name != "empty":
            (folder / name / f"a.{index}.JPG").write_bytes(encoded(index))
    (folder / "zebra" / "notes.txt").write_text("not a photo")
    (folder / ".cache").mkdir()
    return folder


def test_what_is_packed_comes_back(tmp_path, photos):
    shards = pack(photos_by_class(photos), tmp_path / "out", per_shard=2)
    assert [shard.name for shard in shards] == ["photos-000000.tar", "photos-000001.tar"]
    found = {
        s.key: (s.label, s.wnid, photo) for f in shards for s, photo in read_photos(f, walk(f))
    }
    assert found == {
        "n01443537_a_1": (1, "n01443537", encoded(1)),
        "zebra_a_0": (2, None, encoded(0)),
        "zebra_a_2": (2, None, encoded(2)),
    }


@pytest.mark.parametrize("inside", ["", "zebra", "shards", "zebra/shards", "../photos/shards"])
def test_shards_do_not_go_among_the_photos(tmp_path, photos, inside):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ShardError, match=r"lies in .*photos, where it would count as a class"):
        pack(photos_by_class(photos), photos / inside, source=photos)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("inside", ["", "zebra"])
def test_shards_do_not_go_where_photos_lie_whatever_the_source(tmp_path, photos, inside):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ShardError, match="choose a folder without photos"):
        pack(photos_by_class(photos), photos / inside)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_beside_the_photos_with_the_same_beginning_is_outside(tmp_path, photos):
    assert pack(photos_by_class(photos), tmp_path / "photos-shards", source=photos)


def test_equal_photos_give_equal_bytes(tmp_path, photos):
    one, two = (pack(photos_by_class(photos), tmp_path / name)[0].read_bytes() for name in "ab")
    assert one == two


def test_names_that_collide_without_their_dots_stay_apart(tmp_path):
    folder = tmp_path / "photos" / "c"
    folder.mkdir(parents=True)
    for name in ("a.b.jpg", "a_b.jpg"):
        (folder / name).write_bytes(b"x")
    (folder / "a_b_2.jpg").write_bytes(b"x")
    keys = [photo.key for photo in photos_by_class(folder.parent)]
    assert len(set(keys)) == 3


def test_long_names_survive(tmp_path):
    folder = tmp_path / "photos" / "c"
    folder.mkdir(parents=True)
    (folder / ("x" * 200 + ".jpg")).write_bytes(b"x")
    (shard,) = pack(photos_by_class(folder.parent), tmp_path / "out")
    assert walk(shard)[0].key == "c_" + "x" * 200


def test_refusals(tmp_path, photos):
    with pytest.raises(ShardError, match="no folder"):
        photos_by_class(tmp_path / "nowhere")
    with pytest.raises(ShardError, match="no photos in"):
        photos_by_class(photos / "zebra")
    with pytest.raises(ArgumentError, match="at least 1"):
        pack(photos_by_class(photos), tmp_path / "out", per_shard=0)
    pack(photos_by_class(photos), tmp_path / "out")
    with pytest.raises(ShardError, match="already holds shards"):
        pack(photos_by_class(photos), tmp_path / "out")


def test_demo_is_twenty_labelled_imagenet_photos(tmp_path):
    pytest.importorskip("foolbox", reason="the demo extra is not installed")
    assert len(demo_photos()) == 20
    (shard,) = demo_shards(tmp_path / "run")
    samples = walk(shard)
    assert len(samples) == 20
    assert all(0 <= sample.label < 1000 and not sample.problem for sample in samples)
    assert demo_shards(tmp_path / "run") == [shard]


def test_demo_does_not_take_other_shards_for_its_own(tmp_path, photos):
    pytest.importorskip("foolbox", reason="the demo extra is not installed")
    pack(photos_by_class(photos), tmp_path / "run" / "shards")
    with pytest.raises(ShardError, match="is not a run"):
        demo_shards(tmp_path / "run")
    (tmp_path / "run" / "run.json").touch()
    with pytest.raises(ShardError, match="is a run over other shards"):
        demo_shards(tmp_path / "run")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, photos):
    (tmp_path / "out").touch()
    with pytest.raises(ShardError, match="out is a file; choose a folder"):
        pack(photos_by_class(photos), tmp_path / "out")


def test_interrupted_pack_leaves_nothing_half_written(tmp_path, photos):
    found = photos_by_class(photos)
    found[1].file.unlink()
    with pytest.raises(ShardError, match=r"a\.0\.JPG cannot be read: .*; nothing was packed"):
        pack(found, tmp_path / "out", per_shard=1)
    assert list((tmp_path / "out").iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from jvpsvd.data import pack, photos_by_class

def some():
    yield from photos_by_class(Path("photos"))[:2]
    assert len(list(Path("out").rglob("*.tar"))) == 2
    os.kill(os.getpid(), 9)

pack(some(), Path("out"), per_shard=1)
"""


def test_killed_pack_leaves_no_shards_that_look_whole(tmp_path, photos):
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    assert done.returncode == -9
    out = tmp_path / "out"
    assert list(out.glob("*.tar")) == []
    message = r"does not hold all of its shards.*delete .*/\.photos\.packing and .* photos-\*\.tar"
    with pytest.raises(ShardError, match=message):
        pack(photos_by_class(photos), out)
    pack(photos_by_class(photos), tmp_path / "other")[0].rename(out / "photos-000000.tar")
    for pattern in (out, out / "*.tar", out / "photos-{000000..000009}.tar"):
        with pytest.raises(ShardError, match=message):
            find_shards(str(pattern))
    shutil.rmtree(out / ".photos.packing")
    assert find_shards(str(out)) == [out / "photos-000000.tar"]


def test_shards_move_all_or_none(tmp_path, photos):
    """The name of the second one is taken while they are written."""

    def some():
        yield from photos_by_class(photos)
        (tmp_path / "out" / "photos-000001.tar").mkdir()

    with pytest.raises(OSError, match=r"photos-000001\.tar"):
        pack(some(), tmp_path / "out", per_shard=1)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["photos-000001.tar"]


def test_every_file_is_packed_or_left_out_with_a_reason(tmp_path, photos):
    zebra = photos / "zebra"
    for name in ("b.jfif", "c.jpe", "deep/er/d.jpg", "deep/e.avif"):
        (zebra / name).parent.mkdir(parents=True, exist_ok=True)
        (zebra / name).write_bytes(encoded(0))
    for name in ("noending", "x.heic", "._x.jpg", ".DS_Store", "Thumbs.db"):
        (zebra / name).touch()
    (zebra / "broken.jpg").symlink_to("nowhere.jpg")
    (zebra / "good.jpg").symlink_to("a.0.JPG")
    (zebra / "again").symlink_to(photos)
    os.mkfifo(zebra / "pipe.jpg")
    for name in ("loose.jpg", "loose2.PNG", "README.txt", "__MACOSX/zebra/._x.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    found = list_folder(photos)
    assert [photo.key for photo in found.photos] == [
        "n01443537_a_1",
        *("zebra_a_0", "zebra_a_2", "zebra_b", "zebra_c", "zebra_deep_e", "zebra_deep_er_d"),
        "zebra_good",
    ]
    assert {photo.label for photo in found.photos} == {1, 2}  # 0 is "empty"; no __MACOSX
    names = {
        frozenset(file.relative_to(photos).as_posix() for file in one.files): one.may_be_photos
        for one in found.left_out
    }
    assert names == {
        frozenset(["empty"]): False,
        frozenset(["loose.jpg", "loose2.PNG"]): True,
        frozenset(["zebra/noending"]): True,
        frozenset(["zebra/x.heic"]): True,
        frozenset(["zebra/broken.jpg"]): True,
        frozenset(["zebra/again"]): True,
        frozenset(["zebra/pipe.jpg"]): True,
        frozenset(["README.txt", "zebra/notes.txt"]): False,
        frozenset(
            [".cache", "__MACOSX", "zebra/._x.jpg", "zebra/.DS_Store", "zebra/Thumbs.db"]
        ): False,
    }
    message = "\n".join(map(str, found.left_out))
    assert "left out: 2 photos outside of a folder of a class (" in message
    assert "left out: 5 hidden files (" in message
    shards = pack(found.photos, tmp_path / "out")
    assert [s.problem for s in walk(shards[0])] == [""] * len(found.photos)
    assert found == list_folder(photos)


def test_photos_that_are_all_loose_are_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ShardError, match=r"no photos in .*; left out: 1 photo outside .*a\.jpg"):
        list_folder(tmp_path)


def test_names_of_other_scripts_stay_short_and_apart(tmp_path):
    (tmp_path / "c").mkdir()
    for number in range(300):
        (tmp_path / "c" / f"{chr(0x4E00 + number)}.jpg").touch()
    keys = [photo.key for photo in photos_by_class(tmp_path)]
    assert len(set(keys)) == 300
    assert max(map(len, keys)) < 12


def test_demo_does_not_move_into_a_strangers_folder(tmp_path):
    pytest.importorskip("foolbox", reason="the demo extra is not installed")
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ShardError, match="is not a run"):
        demo_shards(tmp_path)
