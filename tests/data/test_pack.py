import pytest
from shard_making import encoded

from jvpsvd.data import demo_photos, demo_shards, pack, photos_by_class, read_photos, walk
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


def test_equal_photos_give_equal_bytes(tmp_path, photos):
    one, two = (pack(photos_by_class(photos), tmp_path / name)[0].read_bytes() for name in "ab")
    assert one == two


def test_names_that_collide_without_their_dots_stay_apart(tmp_path):
    folder = tmp_path / "photos" / "c"
    folder.mkdir(parents=True)
    for name in ("a.b.jpg", "a_b.jpg"):
        (folder / name).write_bytes(b"x")
    keys = [photo.key for photo in photos_by_class(folder.parent)]
    assert len(set(keys)) == 2


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
    with pytest.raises(FileNotFoundError):
        pack(found, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_demo_does_not_move_into_a_strangers_folder(tmp_path):
    pytest.importorskip("foolbox", reason="the demo extra is not installed")
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ShardError, match="is not a run"):
        demo_shards(tmp_path)
