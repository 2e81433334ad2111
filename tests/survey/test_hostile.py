"""Whole runs over hostile shards: the good samples get their values, the bad ones a reason.

Each family of shards is run once, in a process of its own, and several tests read what it left.
One run over nine families stands for a run over each; those are slow.
"""

import contextlib
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from support.command_line import MAIN
from support.forks import Forked
from support.shards import encoded
from support.tiny_models import TINY

from jvpsvd.cli import main
from jvpsvd.data import walk
from jvpsvd.survey import open_store, verify

LAYERS = ["5", "output"]  # the smallest: what is solved is not the point
RUN = ("run", "--model", "tiny:net", "-k", "5", "--layers", ",".join(LAYERS))


def call(folder, *arguments):
    """Run the command line in a folder that holds the module tiny; a hang is a failure."""
    (folder / "tiny.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        process = Forked(MAIN, *arguments, folder=folder)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def rows_of(run):
    tables = (pq.read_table(file) for file in run.glob("spectra/*.parquet"))
    return [row for table in tables for row in table.to_pylist()]


def member(name, data=b"", **header):
    """The bytes of one member of a tar, whatever its header says."""
    info = tarfile.TarInfo()
    info.name, info.size = name, len(data)
    for key, value in header.items():
        setattr(info, key, value)
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def ended(*members):
    data = b"".join(members) + bytes(1024)
    return data + bytes(-len(data) % tarfile.RECORDSIZE)


class Evil:
    """What, unpickled, makes a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@dataclass
class Family:
    """Shards, what a run over them must say, and the run; `done` is None if it hangs."""

    folder: Path
    good: dict[str, tuple[bytes, int | None]] = field(default_factory=dict)  # key: photo, label
    bad: set[tuple[str, str]] = field(default_factory=set)  # shard, key
    absent: dict[str, str] = field(default_factory=dict)  # shard: possible status
    pattern: str = "shards"
    before: set[Path] = field(default_factory=set)
    done: subprocess.CompletedProcess | None = None
    rows: list[dict] = field(default_factory=list)
    shards = property(lambda self: self.folder / "shards")

    def sample(self, key):
        """The members of a good sample."""
        seed = zlib.crc32(key.encode())
        self.good[key] = (encoded(seed), seed % 1000)
        return member(f"{key}.jpg", encoded(seed)) + member(f"{key}.cls", str(seed % 1000).encode())

    def shard(self, name, *members, bad=(), end=True):
        parts = [self.sample(f"{name}-first"), *members]
        data = ended(*parts) if end else b"".join(parts)
        (self.shards / f"{name}.tar").write_bytes(data)
        self.bad |= {(f"{name}.tar", key) for key in bad}


def png_header(side):
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return encoded(0, "PNG")[:12] + body + struct.pack(">I", zlib.crc32(body)) + bytes(99)


def jpeg_header(side):
    before, after = encoded(0).split(b"\xff\xc0")
    return before + b"\xff\xc0" + after[:3] + struct.pack(">HH", side, side) + after[7:]


def sparse(name):
    """A sparse member of a few bytes that unfolds to a tebibyte."""
    head = bytearray(member(name, b"x" * 512, type=tarfile.GNUTYPE_SPARSE))
    head[386:410] = b"%011o\0%011o\0" % (0, 512)
    head[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head)


def photos(f):
    photo = encoded(1)
    f.shard("cut-inside", member("cut.jpg", photo)[:700], end=False, bad=["cut"])
    f.shard("cut-between", f.sample("cut-2"), member("cut-3.jpg", photo), end=False, bad=["cut-3"])
    contents = {"corrupt": photo[:30] + bytes(range(256)) * 2, "half": photo[: len(photo) // 2]}
    contents |= {"text": b"<html>" * 99, "empty": b""}
    contents |= {"png-bomb": png_header(60_000), "jpeg-bomb": jpeg_header(60_000)}
    members = [member(f"{key}.jpg", data) for key, data in contents.items()]
    f.shard("undecodable", *members, f.sample("p-last"), bad=contents)
    f.shard("promise", member("huge.jpg", photo, size=1 << 40), bad=["huge"])
    f.shard("sparse", sparse("hollow.jpg"), bad=["hollow"])
    f.shard("alone", member("orphan.cls", b"3"), member("nolabel.jpg", photo), bad=["orphan"])
    f.good["nolabel"] = (photo, None)
    f.shard("twice", member("twice.jpg", photo), member("twice.jpg", encoded(2)), bad=["twice"])
    (f.shards / "blocks.tar").write_bytes(f.sample("blocks") + bytes(1024))
    scattered = [member("a.jpg", photo), f.sample("between"), member("a.cls", b"1")]
    f.shard("scattered", *scattered, bad=["a"])


def pairs(kind, contents):
    """Samples of a photo and another member."""
    keyed = ((f"{kind}-{i}", content) for i, content in enumerate(contents))
    return [member(f"{k}.jpg", encoded(1)) + member(f"{k}.{kind}", data) for k, data in keyed]


def labels(f):
    texts = [b"1e999", b"\xff\x00\x80", b"1" + b"0" * 5000, b"%d" % (1 << 63), b"-%d" % (1 << 70)]
    members = pairs("cls", [*texts, b"\0", b"", b"nan", b"[1]"])
    f.shard("labels", *members, f.sample("l-last"), bad=[f"cls-{i}" for i in range(9)])
    deep = [b"[" * 1_000_000 + b"]" * 1_000_000, b'{"a":' * 12_000, b"[" * 60_000]
    members = pairs("json", [*deep, b'{"wnid": "n014', b"\xff", b""])
    f.shard("bad-json", *members, f.sample("b-last"), bad=[f"json-{i}" for i in range(5)])
    wnids = [b'["n01443537"]', b"NaN", b"{}", b"9" * 4000, b'"\\ud800"', b'"n0144353\xd9\xa3"']
    odd = [b'{"wnid": %s}' % wnid for wnid in wnids]
    f.shard("odd-json", *pairs("json", [*odd, b"7", b"null"]), f.sample("o-last"))


def names(f):
    odd = ["../../evil", "/abs/evil", "C:\\evil", "e\x1b[2Jvil", "two\nlines", "\udcff\udc80", "~"]
    odd += ["a" * 3000, "$(touch evil)", "%s", "{0}", "[red]", "é", "日本"]
    f.shard("names", *(member(f"{k}.jpg", encoded(1)) for k in odd), f.sample("n-last"))


def links(f):
    (f.folder / "photo.jpg").write_bytes(encoded(1))
    photo, own = str(f.folder / "photo.jpg"), "links-first.jpg"
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE)
    links = [(kind, to) for kind in kinds for to in ("/etc/passwd", photo, own)]
    links += [(kind, "") for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"Z")]
    members = [member(f"{i}.jpg", type=kind, linkname=to) for i, (kind, to) in enumerate(links)]
    members = [linked + member(f"{i}.cls", b"1") for i, linked in enumerate(members)]
    f.shard("links", *members, f.sample("k-last"))


def pickles(f):
    evil = pickle.dumps(Evil(f.folder / "mark"))
    torch.save({"x": Evil(f.folder / "mark")}, file := io.BytesIO())
    f.good["beside"] = (encoded(1), None)
    kinds = ("pyd", "pickle", "pkl", "npy", "npz", "mp", "ten", "txt.pkl")
    beside = [member("beside.jpg", encoded(1)), *(member(f"beside.{kind}", evil) for kind in kinds)]
    f.shard("pickles", *beside, member("beside.pth", file.getvalue()))
    f.shard("only", member("evil.pyd", evil), member("evil.cls", b"1"), bad=["evil"])
    f.shard("in-labels", member("x.jpg", b"1"), member("x.cls", evil), bad=["x"])


def unreadable(f):
    f.shard("good")
    zipped, noise = gzip.compress(ended(pairs("cls", [b"1"])[0])), bytes(range(255, 0, -1)) * 99
    files = {"zero": b"", "text": b"no tar " * 999, "zipped": zipped, "noise": noise}
    for name, data in files.items():
        (f.shards / f"{name}.tar").write_bytes(data)
    f.absent = {f"{name}.tar": "bad-shard" for name in files}
    (f.shards / "empty.tar").write_bytes(ended())
    f.absent["empty.tar"] = "empty-shard"
    sparse_map = {"GNU.sparse.map": "none", "GNU.sparse.size": "9" * 5000}
    info = tarfile.TarInfo("odd.jpg")
    info.pax_headers = sparse_map
    f.shard("sparse-map", info.tobuf(tarfile.PAX_FORMAT))
    f.absent["sparse-map.tar"] = "truncated"


def hole(f):
    for number in (0, 1, 3):
        f.shard(f"part-{number:04}")
    f.absent["part-0002.tar"] = "missing-shard"
    f.pattern = "shards/part-{0000..0003}.tar"


def no_files(f):
    f.shard("good")
    os.mkfifo(f.shards / "fifo.tar")
    (f.shards / "folder.tar").mkdir()
    (f.shards / "dangling.tar").symlink_to("nowhere")
    f.absent |= dict.fromkeys(["fifo.tar", "folder.tar", "dangling.tar"], "missing-shard bad-shard")


def endless(f):
    """A negative size leads back to the header that says it (CVE-2025-8194)."""
    f.shard("back", member("back.jpg", size=-512))
    f.shard("far-back", member("back.jpg", size=-(1 << 62)))
    f.shard("good")


def negative(f):
    f.shard("negative", *pairs("cls", [b"-5"]), bad=["cls-0"])


IN_ONE = [photos, labels, negative, names, links, pickles, unreadable, no_files, endless]


def everything(f):
    for make in IN_ONE:
        make(f)


FAMILIES = [
    hole, everything,
    *(pytest.param(make, marks=pytest.mark.slow) for make in IN_ONE),
]  # fmt: skip


def new_family(folder, make):
    family = Family(folder / "deep" / "er")
    family.shards.mkdir(parents=True)
    make(family)
    return family


def run_over(folder, make):
    family = new_family(folder, make)
    family.before = set(folder.rglob("*"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        arguments = ("--shards", family.pattern, "--out", "out")
        family.done = call(family.folder, *RUN, *arguments)
        family.rows = rows_of(family.folder / "out")
    return family


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A function that returns a family with its run."""
    families = {}

    def run_once(make):
        if make not in families:
            families[make] = run_over(tmp_path_factory.mktemp(make.__name__), make)
        return families[make] if families[make].done else pytest.fail("the run hangs")

    return run_once


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Values by key and layer, of one run over the good photos of every family alone."""
    folder = tmp_path_factory.mktemp("alone")
    photos = {}
    for make in (hole, everything):
        family = new_family(tmp_path_factory.mktemp("unread"), make)
        photos |= {key: photo for key, (photo, _) in family.good.items()}
    data = b"".join(member(f"{key}.jpg", data) for key, data in photos.items())
    (folder / "s.tar").write_bytes(data + bytes(1024))
    done = call(folder, *RUN, "--shards", "s.tar", "--out", "out")
    assert done.returncode == 0, done.stderr
    return {(row["key"], row["layer"]): row["s"] for row in rows_of(folder / "out")}


every_family = pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)


@every_family
def test_good_samples_have_the_values_of_a_run_over_them_alone(ran, alone, make):
    run = ran(make)
    found = {(row["key"], row["layer"]): row for row in run.rows}
    for key, (_, label) in run.good.items():
        for layer in LAYERS:
            assert (key, layer) in found, run.done.stderr[-500:]
            row = found[key, layer]
            assert (row["status"], row["label"]) == ("ok", label), row
            np.testing.assert_allclose(row["s"], alone[key, layer], rtol=1e-4)


@every_family
def test_bad_samples_and_shards_are_rows_with_a_reason(ran, make):
    run = ran(make)
    failed = {(r["shard"], r["key"], r["layer"]): r for r in run.rows if r["status"] != "ok"}
    for shard, key in sorted(run.bad | {(name, "") for name in run.absent}):
        for layer in LAYERS:
            assert (shard, key, layer) in failed
            row = failed[shard, key, layer]
            assert row["s"] == []
            assert key or row["status"] in run.absent[shard].split()
    for row in failed.values():
        assert row["message"].strip()
        assert "\n" not in row["message"]
        assert len(row["message"]) < 2000


@every_family
def test_a_run_with_bad_samples_ends_with_1_and_is_whole(ran, make):
    run = ran(make)
    failed = run.bad or run.absent or any(row["status"] != "ok" for row in run.rows)
    assert run.done.returncode == (1 if failed else 0), run.done.stderr[-500:]
    keys = [(row["shard"], row["key"], row["layer"]) for row in run.rows]
    assert len(keys) == len(set(keys)) > 0
    assert "Traceback" not in run.done.stderr
    assert verify(open_store(run.folder / "out")).problems == ()


@every_family
def test_nothing_is_executed_or_written_outside_the_run(ran, make):
    run = ran(make)
    new = set(run.folder.parent.parent.rglob("*")) - run.before
    out = run.folder / "out"
    ours = {"tiny.py", "__pycache__"}
    inside = {p for p in new if out in (p, *p.parents) or ours & {*p.parts}}
    assert new - inside == set()
    assert not [path for path in new if "evil" in path.name]
    assert not Path("/abs/evil.jpg").exists()
    assert "\x1b" not in run.done.stderr + run.done.stdout


@pytest.mark.parametrize("blocks", range(20))
def test_a_whole_tar_is_whole_wherever_its_last_record_begins(tmp_path, blocks):
    """One in twenty ends with more zeros than a record has: the end mark and then the padding."""
    last = member("last.jpg", bytes(blocks * tarfile.BLOCKSIZE))
    (tmp_path / "s.tar").write_bytes(ended(member("first.jpg", b"1"), last))
    assert [sample.problem for sample in walk(tmp_path / "s.tar")] == ["", ""]


def test_every_odd_name_is_accounted_for(ran):
    keys = {row["key"] for row in ran(everything).rows if row["shard"] == "names.tar"}
    assert len(keys) == 2 + 14, keys


def test_links_and_devices_are_never_followed(ran):
    rows = [row for row in ran(everything).rows if row["shard"] == "links.tar"]
    by_key = {row["key"]: row["status"] for row in rows}
    assert {key for key, status in by_key.items() if status == "ok"} == {"links-first", "k-last"}


def test_a_wnid_of_another_type_is_none(ran):
    odd = [row for row in ran(everything).rows if row["shard"] == "odd-json.tar"]
    assert len(odd) == len(LAYERS) * 10
    assert {row["wnid"] for row in odd} == {None}


def test_the_pickles_are_malicious(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))  # noqa: S301 -- our own bytes
    assert (tmp_path / "mark").exists()


@pytest.fixture
def mistaken(tiny, tmp_path, monkeypatch, capsys):
    """A function that checks that a run is refused in one line, and that nothing was executed."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([*RUN, "--out", "out", *arguments])
        said = capsys.readouterr().err
        assert stopped.value.code == 2, said
        assert re.fullmatch(r"jvpsvd: [^\n]+\n", said), said
        assert not [path for path in tmp_path.rglob("*") if path.name in ("MARK", "y")]

    return check


@pytest.mark.parametrize(
    "pattern",
    ["pipe:touch MARK", "pipe:cat x.tar | tee y", "{{pipe:touch MARK,pipe:touch MARK; true}}",
     " pipe:touch MARK", "PIPE:touch MARK", "pipe://touch MARK", "gopher://localhost/x.tar",
     "simplecache::file://{here}/x.tar", "tar://x.jpg::file://{here}/x.tar"],
)  # fmt: skip
def test_patterns_that_match_no_shards(mistaken, tmp_path, pattern):
    (tmp_path / "x.tar").write_bytes(ended(member("x.jpg", encoded(0))))
    mistaken("--shards", pattern.format(here=tmp_path))


@pytest.mark.parametrize("pattern", ["bad", "no-{0..3}.tar", "{bad/text,no-1}.tar"])
def test_nothing_but_bad_shards_is_a_mistake(mistaken, tmp_path, pattern):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.tar").write_bytes(b"no tar " * 999)
    (tmp_path / "bad" / "zero.tar").touch()
    mistaken("--shards", pattern)


@pytest.mark.parametrize("kind", ["plain.pth", "zip.pth", "length.safetensors", "json.safetensors"])
def test_malicious_weights_are_a_mistake(mistaken, tmp_path, kind):
    file, evil = tmp_path / kind, Evil(tmp_path / "MARK")
    if kind == "plain.pth":
        file.write_bytes(pickle.dumps(evil))
    elif kind == "zip.pth":
        torch.save({"0.weight": evil}, file)
    else:
        save_file({"0.weight": torch.ones(3)}, file)
        start = (
            struct.pack("<Q", 1 << 60) if kind[0] == "l" else struct.pack("<Q", 8) + b'{"a": \n!'
        )
        file.write_bytes(start + file.read_bytes()[len(start) :])
    (tmp_path / "x.tar").write_bytes(ended(member("x.jpg", encoded(0))))
    mistaken("--shards", "x.tar", "--weights", str(file))
