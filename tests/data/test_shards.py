import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.shards import encoded, sample_members, write_tar
from webdataset.tariterators import base_plus_ext

from jvpsvd.data import find_shards, fingerprint, read_photos, walk
from jvpsvd.errors import ShardError


def test_walk_lists_samples_with_labels_and_wnids(tmp_path):
    wnid = json.dumps({"wnid": "n01443537"}).encode()
    members = [("a/b.jpg", encoded(0)), ("a/b.cls", b"7\n"), ("a/b.json", wnid), ("c.PNG", b"x")]
    first, second = walk(write_tar(tmp_path / "s.tar", members))
    assert (first.key, first.label, first.wnid, first.problem) == ("a/b", 7, "n01443537", "")
    assert (second.key, second.label, second.wnid, second.size) == ("c", None, None, 1)


def test_offset_and_size_point_at_the_photo(shard):
    data = shard.read_bytes()
    for index, sample in enumerate(walk(shard)):
        assert data[sample.offset : sample.offset + sample.size] == encoded(index)


def test_photos_come_back_as_written(shard):
    samples = walk(shard)
    read = dict(read_photos(shard, samples[1:3]))
    assert read == {samples[1]: encoded(1), samples[2]: encoded(2)}


@pytest.mark.parametrize("cut", [1, 300, 700])
def test_shard_cut_inside_its_last_sample_keeps_the_others(tmp_path, cut):
    members = [m for i in range(3) for m in sample_members(f"photo{i}", i, i)]
    whole = write_tar(tmp_path / "s.tar", members)
    last = walk(whole)[-1]
    whole.write_bytes(whole.read_bytes()[: last.offset + cut])
    *good, broken = walk(whole)
    assert [sample.problem for sample in good] == ["", ""]
    assert broken.problem == "truncated"
    assert [photo for _, photo in read_photos(whole, good)] == [encoded(0), encoded(1)]


def test_shard_cut_on_a_member_boundary_is_seen(tmp_path):
    whole = write_tar(
        tmp_path / "s.tar", [m for i in range(3) for m in sample_members("abc"[i], i, i)]
    )
    boundary = walk(whole)[2].offset - 512
    whole.write_bytes(whole.read_bytes()[:boundary])
    assert [(sample.key, sample.problem) for sample in walk(whole)] == [
        ("a", ""),
        ("b", ""),
        ("", "truncated"),
    ]


def test_shard_cut_before_a_label_does_not_guess_that_there_was_none(tmp_path):
    members = [m for i in range(3) for m in sample_members("abc"[i], i, i)]
    members.insert(1, ("a.txt", b"only once"))
    whole = write_tar(tmp_path / "s.tar", members)
    last = walk(whole)[-1]
    end = last.offset + -(-last.size // 512) * 512
    for cut in (end, end + 512):  # before the header of c.cls, and after it
        whole.write_bytes(whole.read_bytes()[:cut])
        assert [(s.key, s.problem) for s in walk(whole)][-1] == ("c", "truncated")
        write_tar(whole, members)
    whole.write_bytes(whole.read_bytes()[: end + 1024])
    assert [(s.key, s.label, s.problem) for s in walk(whole)] == [
        *((key, label, "") for label, key in enumerate("abc")),
        ("", None, "truncated"),
    ]


def test_garbled_header_in_the_middle_is_seen(tmp_path):
    whole = write_tar(
        tmp_path / "s.tar", [m for i in range(3) for m in sample_members("abc"[i], i, i)]
    )
    data = bytearray(whole.read_bytes())
    header = walk(whole)[2].offset - 512
    data[header : header + 512] = b"\xff" * 512
    whole.write_bytes(bytes(data))
    assert [(s.key, s.problem) for s in walk(whole)] == [("a", ""), ("b", ""), ("", "truncated")]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.cls", b"1")], "no-photo"),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "duplicate-key"),
        ([("a.jpg", b"1"), ("a.png", b"2")], "duplicate-key"),
        ([("a.jpg", b"1"), ("a.cls", b"dog")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"\xff")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"1_0")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"1 0")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"+ 1")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"3.0")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", b"-1")], "bad-label"),
        ([("a.jpg", b"1"), ("a.cls", "１２".encode())], "bad-label"),
        ([("a.jpg", b"1"), ("a.json", b"{")], "bad-label"),
        ([("a.jpg", b"1"), ("a.json", b"[" * (1 << 17))], "bad-label"),
    ],
)
def test_problems_are_known_before_decoding(tmp_path, members, problem):
    good = sample_members("good", 0, 0)
    samples = walk(write_tar(tmp_path / "s.tar", [*members, *good]))
    assert [sample.problem for sample in samples] == [problem, ""]
    assert samples[0].message


def test_scattered_key_is_listed_once_and_not_guessed(tmp_path):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"3"), ("c.jpg", b"4")]
    samples = walk(write_tar(tmp_path / "s.tar", members))
    assert [(s.key, s.problem) for s in samples] == [("a", "duplicate-key"), ("b", ""), ("c", "")]


@pytest.mark.parametrize("wnid", ["../../etc", 7, "n1", None, "n01443537x"])
def test_wnid_that_is_none_is_dropped(tmp_path, wnid):
    members = [("a.jpg", b"1"), ("a.json", json.dumps({"wnid": wnid}).encode())]
    assert walk(write_tar(tmp_path / "s.tar", members))[0].wnid is None


def test_names_are_strings_never_paths(tmp_path):
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    members = [("../../evil.jpg", b"1"), ("/abs/evil.jpg", b"2"), ("x.pyd", b"3"), ("x.jpg", b"4")]
    shard = write_tar(inside / "s.tar", members)
    read = {sample.key: photo for sample, photo in read_photos(shard, walk(shard))}
    assert read["x"] == b"4"
    assert set(tmp_path.rglob("*evil*")) == set()


def test_payload_that_changed_since_the_walk_comes_back_as_none(tmp_path, shard):
    samples = walk(shard)
    write_tar(shard, [("photo0.jpg", encoded(0)), ("photo1.jpg", b"shorter")])
    read = [photo for _, photo in read_photos(shard, samples[:2])]
    assert read == [encoded(0), None]


def test_shard_that_went_away_gives_none(shard):
    samples = walk(shard)
    shard.unlink()
    assert [photo for _, photo in read_photos(shard, samples)] == [None] * 4


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"plain text " * 100])
def test_file_that_is_no_tar_is_one_error(tmp_path, data):
    file = tmp_path / "s.tar"
    file.write_bytes(data)
    with pytest.raises(ShardError, match="cannot be read as a tar file"):
        walk(file)


@pytest.mark.parametrize("members", [[], [("README", b"photos")], [("./._a.jpg", b"of macOS")]])
def test_a_shard_without_samples_says_so(tmp_path, members):
    (sample,) = walk(write_tar(tmp_path / "s.tar", members))
    assert (sample.key, sample.problem) == ("", "empty-shard")
    among = "1 member" if len(members) == 1 else f"{len(members)} members"
    assert f"no sample, among {among};" in sample.message


@pytest.mark.parametrize("blocks", [20, 40, 64, 2048, 8192])
def test_any_run_of_zeros_is_an_end(tmp_path, blocks):
    """GNU tar fills its last record, of as many blocks as -b says."""
    shard = write_tar(tmp_path / "s.tar", sample_members("a", 0, 0))
    data = shard.read_bytes().rstrip(b"\0")
    for length in (512, 513, 512 * blocks):
        shard.write_bytes(data + bytes(-len(data) % 512) + bytes(length))
        assert [(s.key, s.problem) for s in walk(shard)] == [("a", "")]
    shard.write_bytes(shard.read_bytes() + b"x")
    assert [(s.key, s.problem) for s in walk(shard)] == [("a", ""), ("", "truncated")]


@pytest.mark.parametrize("options", [["-b", "40"], ["-b", "1000"], ["-b", "40", "--format=pax"]])
def test_shards_of_gnu_tar_are_whole(tmp_path, options):
    gnu = shutil.which("tar")
    if gnu is None or b"GNU" not in subprocess.run([gnu, "--version"], capture_output=True).stdout:
        pytest.skip("no GNU tar")
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(i))
    names = [f"{i}.jpg" for i in range(3)]
    subprocess.run([gnu, "cf", "s.tar", *options, *names], cwd=tmp_path, check=True)
    assert [(s.key, s.problem) for s in walk(tmp_path / "s.tar")] == [(k, "") for k in "012"]


@pytest.mark.parametrize(
    ("record", "wnid"),
    [
        (b"", None),
        (b" \n", None),
        (b'\xef\xbb\xbf{"wnid": "n01443537"}', "n01443537"),
        (b'{"wnid": "n01443537", "boxes": "' + b"x" * (1 << 17) + b'"}', "n01443537"),
        (b'{"wnid": "n01443537", "boxes": "' + b"x" * (1 << 22) + b'"}', None),
    ],
)
def test_a_record_without_a_wnid_costs_no_photo(tmp_path, record, wnid):
    members = [("a.jpg", encoded(0)), ("a.cls", b"\xef\xbb\xbf7"), ("a.json", record)]
    (sample,) = walk(write_tar(tmp_path / "s.tar", members))
    assert (sample.label, sample.wnid, sample.problem) == (7, wnid, "")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.input.jpg"], "1 photo has a dot before its .*; name it without, as a_input.jpg"),
        (
            [f"ILSVRC2012.val.{i:05}.JPEG" for i in range(7)],
            "7 photos .*first dot .*; name them without, as ILSVRC2012_val_0000._?.jpeg",
        ),
        (["a.target", "a.seg.png"], "1 photo .* as a_seg.png"),
        (["a.txt"], "no photo among txt"),
    ],
)
def test_keys_that_stop_at_the_first_dot_say_so(tmp_path, names, message):
    (sample,) = walk(write_tar(tmp_path / "s.tar", [(name, encoded(0)) for name in names]))
    assert sample.problem == "no-photo"
    assert re.match(message, sample.message)
    assert len(sample.message) < 300


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a.jpg is a link to first.jpg, .*--hard-dereference"),
        (tarfile.LNKTYPE, "a.jpg is a link to first.jpg, .*--hard-dereference"),
        (tarfile.FIFOTYPE, "a.jpg is a device or a pipe"),
        (tarfile.CHRTYPE, "a.jpg is a device or a pipe"),
    ],
)
def test_photos_that_are_links_are_rows(tmp_path, kind, message):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in sample_members("first", 0, 0):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in ("a.jpg", "folder.jpg"):
            info = tarfile.TarInfo(name)
            info.type = kind if name == "a.jpg" else tarfile.DIRTYPE
            info.linkname = "first.jpg"
            tar.addfile(info)
    first, linked = walk(tmp_path / "s.tar")
    assert (first.key, first.problem) == ("first", "")
    assert (linked.key, linked.problem, linked.offset, linked.size) == ("a", "no-photo", -1, 0)
    assert re.match(message, linked.message)


def test_members_of_no_sample_are_counted_and_named(tmp_path, caplog):
    members = [("a.jpg", b"1"), *((f"x/{n}", b"") for n in ("LICENSE", ".b.jpg", "one", "two"))]
    mac = [("__MACOSX/x/._a.jpg", b"mac"), ("x/._a.jpg", b"mac"), ("x/.DS_Store", b"")]
    samples = walk(write_tar(tmp_path / "s.tar", [*members, *mac]))
    assert [(s.key, s.problem) for s in samples] == [("a", "")]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "s.tar: members that are hidden or have no ending are left out (4: " in line
    assert "(4: x/LICENSE, x/.b.jpg, x/one, …)" in line


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a/b.jpg",
        "a.b/c.jpg",
        "./a.seg.png",
        "a",
        "a/b",
        "a.b/c",
        "/a.jpg",
        "a b.jpg",
        "a.",
    ],
)
def test_keys_are_those_of_webdataset(tmp_path, name):
    key, _ = base_plus_ext(name)
    assert [s.key for s in walk(write_tar(tmp_path / "s.tar", [(name, b"1")]))] == [key or ""]


def test_patterns(tmp_path):
    for name in ("t-00.tar", "t-01.tar", "t-02.tar", "other.txt"):
        (tmp_path / name).touch()
    every = [tmp_path / f"t-0{i}.tar" for i in range(3)]
    assert find_shards(str(tmp_path)) == every
    assert find_shards(f"{tmp_path}/t-*.tar") == every
    assert find_shards(f"{tmp_path}/t-{{00..01}}.tar") == every[:2]
    assert find_shards(str(every[1])) == every[1:2]
    with_hole = find_shards(f"{tmp_path}/t-{{02..03}}.tar")
    assert with_hole == [every[2], tmp_path / "t-03.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{here}/t-{{04..07}}.tar", "no shard at .*t-04.tar"),
        ("{here}/nothing", "no shard at"),
        ("{here}/x-*.tar", "no .tar file matches"),
        ("pipe:cat /etc/passwd", "no protocol that is opened here"),
        ("{here}/x{{0..3", "braces do not match"),
        ("gopher://example.org/a.tar", "no protocol that is opened here"),
        ("simplecache::https://example.org/a.tar", "no protocol that is opened here"),
        ("{here}/{{t-00,sub/t-00}}.tar", "two shards are named t-00.tar"),
    ],
)
def test_patterns_that_are_refused(tmp_path, pattern, message):
    (tmp_path / "sub").mkdir()
    for name in ("t-00.tar", "t-01.tar", "t-02.tar", "sub/t-00.tar"):
        Path(tmp_path, name).touch()
    with pytest.raises(ShardError, match=message):
        find_shards(pattern.format(here=tmp_path))


def test_a_folder_of_shards_has_the_compressed_ones_too(tmp_path):
    names = [
        "a.tar",
        "b.tar.gz",
        "c.tgz",
        "d.tar.zst",
        "e.txt",
        "._a.tar",
        "f.tar.json",
        "g.tar.xz",
    ]
    for name in names:
        (tmp_path / name).touch()
    found = [shard.name for shard in find_shards(str(tmp_path))]
    assert found == ["a.tar", "b.tar.gz", "c.tgz", "d.tar.zst", "g.tar.xz"]


def test_many_shards_are_compared_by_name_at_once(tmp_path):
    """Each with each would be 4 × 10^8 comparisons, and 6 s."""
    (tmp_path / "t-00000.tar").touch()
    assert len(find_shards(f"{tmp_path}/t-{{00000..19999}}.tar")) == 20_000


def test_zeros_in_place_of_a_header_are_no_end(tmp_path):
    members = [m for i in range(6) for m in sample_members("abcdef"[i], i, i)]
    whole = write_tar(tmp_path / "s.tar", members)
    data = bytearray(whole.read_bytes())
    header = walk(whole)[2].offset - 512
    data[header : header + 512] = bytes(512)
    whole.write_bytes(bytes(data))
    assert [(s.key, s.problem) for s in walk(whole)] == [("a", ""), ("b", ""), ("", "truncated")]


def test_tar_behind_a_tar_is_seen(tmp_path):
    one = write_tar(tmp_path / "a.tar", sample_members("a", 0, 0))
    two = write_tar(tmp_path / "b.tar", sample_members("b", 1, 1))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    assert [(s.key, s.label, s.problem) for s in walk(one)] == [
        ("a", 0, ""),
        ("", None, "truncated"),
    ]


@pytest.mark.parametrize(("more", "problem"), [(0, ""), (1, "too-large")])
def test_size_that_no_photo_has_is_known_before_reading(tmp_path, more, problem):
    """The photo is a hole in a sparse file."""
    info = tarfile.TarInfo("a.jpg")
    info.size = (1 << 29) + more
    whole = tmp_path / "s.tar"
    with whole.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(info.size + 4 * tarfile.BLOCKSIZE - more)
    assert [(sample.key, sample.problem) for sample in walk(whole)] == [("a", problem)]


def test_fingerprints_tell_shards_apart(tmp_path, shard):
    other = write_tar(tmp_path / "other.tar", sample_members("photo0", 9, 0))
    assert fingerprint(shard) == fingerprint(shard) != fingerprint(other)
    with pytest.raises(ShardError, match="cannot be read"):
        fingerprint(tmp_path / "nowhere.tar")


LONG = "x" * 96


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "key", ["plain", "café", "日本", LONG, f"{LONG[:90]}é", "./deep/er/key", "a\\nb"]
)
def test_photos_of_any_name_come_back(tmp_path, form, key):
    photo = encoded(0)
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as tar:
        for name, data in ((f"{key}.jpg", photo), (f"{key}.cls", b"3"), ("last.jpg", photo)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples = walk(tmp_path / "s.tar")
    assert [(sample.label, sample.problem) for sample in samples] == [(3, ""), (None, "")]
    assert [data for _, data in read_photos(tmp_path / "s.tar", samples)] == [photo, photo]


def test_keys_that_differ_only_where_they_are_escaped_stay_apart(tmp_path):
    members = [*sample_members("a\nb", 0, 1), *sample_members("a\\nb", 1, 2)]
    samples = walk(write_tar(tmp_path / "s.tar", members))
    assert [(sample.label, sample.problem) for sample in samples] == [(1, ""), (2, "")]
