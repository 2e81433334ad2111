"""Headers that lie: one hostile shard is a row at worst, and what came before it is read."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
from support.shards import encoded, sample_members, write_tar

from jvpsvd.data import read_photos, walk
from jvpsvd.errors import ShardError


def header(name, data=b"", *, extended=None, form=tarfile.PAX_FORMAT, **fields):
    """The bytes of one member, with an extended header and the given fields."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.pax_headers = extended or {}
    for field, value in fields.items():
        setattr(info, field, value)
    head = info.tobuf(form, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def oversized(kind, size):
    """The header of an extension that states this length."""
    return header("long", b"x" * 512, type=kind, size=size, form=tarfile.GNU_FORMAT)


MANY = "9" * 5000
HOSTILE = {
    "sparse map of words": {"GNU.sparse.map": "a,b"},
    "sparse map of huge numbers": {"GNU.sparse.map": f"0,{MANY}", "GNU.sparse.size": "1"},
    "sparse size of words": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "many"},
    "sparse size of 5000 digits": {"GNU.sparse.map": "0,1", "GNU.sparse.size": MANY},
    "sparse 1.0 without a map": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    "sparse 1.0, negative": {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "-1",
    },
    "sparse 0.0": {"GNU.sparse.size": "1", "GNU.sparse.offset": "x", "GNU.sparse.numbytes": "y"},
    "size of words": {"size": "many"},
    "size of 5000 digits": {"size": MANY},
    "size of an exabyte": {"size": str(1 << 62)},
    "size above 64 bits": {"size": str(1 << 70)},
    "negative size": {"size": "-512"},
    "negative size of far away": {"size": str(-(1 << 62))},
    "time that is none": {"mtime": "nan", "uid": MANY},
}
RAW = {
    "a long name that is too long": oversized(tarfile.GNUTYPE_LONGNAME, 1 << 32),
    "a long name of all the memory there is": oversized(tarfile.GNUTYPE_LONGNAME, 1 << 60),
    "an extended header of all the memory": oversized(tarfile.XHDTYPE, 1 << 60),
    "an extended header of negative size": oversized(tarfile.XHDTYPE, -512),
    "a chain of 5000 extended headers": header("x", b"", type=tarfile.XHDTYPE) * 5000,
    "digits without an end": header("x", b"1" * (1 << 20), type=tarfile.XHDTYPE),
    "a sparse member that goes on after the file": header(
        "s.jpg", type=tarfile.GNUTYPE_SPARSE, form=tarfile.GNU_FORMAT
    )[:482]
    + b"\1",
}


def first_and(tmp_path, hostile):
    """Walk a shard of a good sample, the hostile bytes, and another good sample."""
    file = tmp_path / "s.tar"
    data = [header(name, data) for name, data in sample_members("first", 0, 3)]
    last = [header(name, data) for name, data in sample_members("last", 1, 4)]
    file.write_bytes(b"".join([*data, hostile, *last]) + bytes(10240))
    samples = walk(file)
    good = [sample for sample in samples if not sample.problem]
    assert good[0].key == "first"
    assert next(photo for _, photo in read_photos(file, good)) == encoded(0)
    for sample in samples:
        assert sample.message.isprintable()
        assert len(sample.message) < 500
    assert len(samples) > 1
    assert len({sample.key for sample in samples}) == len(samples)
    return samples


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("member", ["odd.jpg", "odd.cls", "nokey"])
def test_extended_headers_that_lie_are_a_row_at_worst(tmp_path, name, member):
    first_and(tmp_path, header(member, b"x" * 600, extended=HOSTILE[name]))


@pytest.mark.parametrize("size", ["1", "１", "99", "512"])
@pytest.mark.parametrize("keyword", ["size", "GNU.sparse.size", "GNU.sparse.realsize"])
def test_a_photo_of_two_sizes_is_not_listed_as_one(tmp_path, keyword, size):
    """The extended header overrides the plain one, and photos are read after the plain one."""
    samples = first_and(tmp_path, header("odd.jpg", b"x" * 100, extended={keyword: size}))
    good = [sample for sample in samples if not sample.problem]
    assert "odd" not in [sample.key for sample in good]
    assert None not in [photo for _, photo in read_photos(tmp_path / "s.tar", good)]


def test_a_size_of_an_extended_header_within_another_is_one_of_two_sizes(tmp_path):
    """The first, empty header removes the keywords of the second one, not their effect."""
    outer = header("outer", type=tarfile.SOLARIS_XHDTYPE, form=tarfile.USTAR_FORMAT)
    samples = first_and(tmp_path, outer + header("odd.jpg", b"x" * 100, extended={"size": "1"}))
    assert [(s.key, s.problem) for s in samples][1] == ("odd", "no-photo")


@pytest.mark.parametrize("name", RAW)
def test_headers_that_are_too_long_are_a_row_at_worst(tmp_path, name):
    assert first_and(tmp_path, RAW[name])[-1].problem == "truncated"


@pytest.mark.parametrize("name", [*HOSTILE, *RAW])
def test_a_shard_that_begins_with_them_is_one_error_or_rows(tmp_path, name):
    raw = RAW.get(name) or header("odd.jpg", b"x" * 600, extended=HOSTILE[name])
    (tmp_path / "s.tar").write_bytes(raw + bytes(10240))
    try:
        samples = walk(tmp_path / "s.tar")
    except ShardError as error:
        assert str(error).isprintable()  # noqa: PT017 -- either outcome will do
    else:
        assert 1 <= len(samples) <= 2


def test_a_name_of_many_slashes_is_split_at_once(tmp_path):
    names = ["/" * 200_000 + "x", "a/" * 100_000 + "b.jpg"]
    samples = first_and(tmp_path, b"".join(header(name, b"1") for name in names))
    assert [s.key.count("/") for s in samples] == [0, 100_000, 0]


@pytest.mark.parametrize(
    ("pack", "named"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_a_compressed_shard_says_so(tmp_path, pack, named):
    shard = write_tar(tmp_path / "s.tar", sample_members("a", 0, 0))
    shard.write_bytes(pack(shard.read_bytes()))
    with pytest.raises(ShardError, match=f"it is compressed by {named}, .*; unpack it to .tar"):
        walk(shard)


def test_a_name_that_begins_as_a_compressed_file_does_is_a_name(tmp_path):
    shard = write_tar(tmp_path / "s.tar", [("BZh91AY.jpg", encoded(0))])
    assert [(s.key, s.problem) for s in walk(shard)] == [("BZh91AY", "")]


def test_errors_of_the_disk_are_no_fault_of_the_tar(tmp_path):
    class Failing(io.FileIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    class Shard(type(tmp_path)):
        def open(self, mode):
            return Failing(str(self))

    with pytest.raises(ShardError, match="cannot be read: Input/output error"):
        walk(Shard(write_tar(tmp_path / "s.tar", sample_members("a", 0, 0))))


@pytest.mark.parametrize("size", [2**63 - 513, 2**63 - 1, 2**63, 2**70])
@pytest.mark.parametrize("header", ["pax", "base 256"])
def test_a_member_larger_than_any_file_is_a_row(tmp_path, size, header):
    shard = tmp_path / "a.tar"
    kind = tarfile.PAX_FORMAT if header == "pax" else tarfile.GNU_FORMAT
    with tarfile.open(shard, "w", format=kind) as tar:
        for name in ("good.jpg", "large.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 4
            if name == "large.jpg" and header == "pax":
                member.pax_headers = {"size": str(size)}
            tar.addfile(member, io.BytesIO(b"data"))
    if header != "pax":
        data = bytearray(shard.read_bytes())
        at = data.index(b"large.jpg")
        data[at + 124 : at + 136] = b"\x80" + size.to_bytes(11, "big")
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        shard.write_bytes(data)
    samples = walk(shard)
    assert samples[0].key == "good"
    assert not samples[0].problem
    assert all(-(2**63) <= one.offset < 2**63 and one.size < 2**63 for one in samples)
    assert [one.problem != "" for one in samples[1:]] in ([True], [])
    assert len(samples) == 2
