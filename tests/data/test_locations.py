"""Shards behind URLs, served by a real server on this machine."""

import functools
import http.server
import itertools
import re
import threading
import time
from pathlib import Path

import pytest
from support.shards import sample_members, write_tar

from jvpsvd.data import RemoteShard, find_shards, fingerprint, fingerprints, read_photos, walk
from jvpsvd.data.locations import UNREADABLE
from jvpsvd.errors import ShardError

fsspec = pytest.importorskip("fsspec")


class WholeFiles(http.server.SimpleHTTPRequestHandler):
    """Sends whole files, whatever range is requested."""

    def log_message(self, *args):
        pass


class Ranges(WholeFiles):
    """Sends the requested range."""

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None or not Path(self.translate_path(self.path)).is_file():
            super().do_GET()
            return
        whole = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(span[1]), min(int(span[2] or len(whole)), len(whole) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(whole[first : last + 1])

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


class Moody(Ranges):
    """Answers each file's first request with an error, and cuts the next one short; then again."""

    busy = (1, 11)
    cut = (2, 12)

    def do_GET(self):
        number = self.server.requests.setdefault(self.path, itertools.count(1)).__next__()
        if number in self.busy:
            self.send_error(503)
        elif number in self.cut:
            self.send_response(206)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"cut")
            self.close_connection = True
        else:
            super().do_GET()


@pytest.fixture(params=[WholeFiles, Ranges, Moody])
def served(request, tmp_path):
    """The URL of a folder with two shards."""
    pytest.importorskip("aiohttp", reason="http needs the remote extra")
    for i in range(2):
        members = [m for j in range(3) for m in sample_members(f"photo{i}{j}", 3 * i + j, j)]
        write_tar(tmp_path / f"part-{i}.tar", members)
    handler = functools.partial(request.param, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requests = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_shards_behind_http_are_as_those_on_disk(served, tmp_path):
    shards = find_shards(f"{served}/part-{{0..1}}.tar")
    assert [shard.name for shard in shards] == ["part-0.tar", "part-1.tar"]
    for shard in shards:
        here = tmp_path / shard.name
        assert walk(shard) == walk(here)
        assert fingerprint(shard) == fingerprint(here)
        assert list(read_photos(shard, walk(shard))) == list(read_photos(here, walk(here)))


def test_hole_in_a_remote_range_is_an_error_of_that_shard(served):
    there, gone = find_shards(f"{served}/part-{{1..2}}.tar")
    assert fingerprints([there, gone])[1] == UNREADABLE
    assert walk(there)
    with pytest.raises(ShardError, match=r"part-2.tar cannot be read") as error:
        walk(gone)
    assert isinstance(error.value.__cause__, FileNotFoundError)


class Busy(Ranges):
    """Answers the first requests of each kind and file with an error."""

    def refused(self):
        number = next(
            self.server.requests.setdefault((self.command, self.path), itertools.count(1))
        )
        if number <= 2:
            self.send_error(503)
        return number <= 2

    def do_GET(self):
        if not self.refused():
            super().do_GET()

    def do_HEAD(self):
        if not self.refused():
            super().do_HEAD()


@pytest.mark.parametrize("served", [Busy], indirect=True)
def test_busy_server_is_not_a_missing_shard(served):
    there, gone = find_shards(f"{served}/part-{{1..2}}.tar")
    assert len(walk(there)) == 3
    with pytest.raises(ShardError) as error:
        walk(gone)
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_server_that_is_not_there_is_an_error_of_the_shard(monkeypatch):
    pytest.importorskip("aiohttp", reason="http needs the remote extra")
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    (shard,) = find_shards("http://127.0.0.1:9/part-0.tar")
    with pytest.raises(ShardError, match=r"part-0.tar cannot be read"):
        walk(shard)
    assert len(pauses) > 1
    assert list(read_photos(shard, [])) == []


@pytest.fixture
def in_memory():
    """A file system of fsspec that needs no server."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def test_globs_and_folders_of_other_protocols(in_memory, tmp_path):
    whole = write_tar(tmp_path / "a.tar", sample_members("photo", 0, 7)).read_bytes()
    for name in ("a.tar", "b.tar", "other.txt"):
        in_memory.pipe(f"/shards/{name}", whole)
    for pattern in ("memory://shards/", "memory://shards/*.tar", "memory://shards/{a,b}.tar"):
        shards = find_shards(pattern)
        assert [shard.name for shard in shards] == ["a.tar", "b.tar"]
        assert all(isinstance(shard, RemoteShard) for shard in shards)
        assert [sample.label for sample in walk(shards[0])] == [7]


def test_glob_that_matches_nothing_is_refused(in_memory):
    with pytest.raises(
        ShardError, match=r"no .tar file matches .*tar --sort=name -cf SHARDS/x.tar -C FOLDER \."
    ):
        find_shards("memory://shards/*.tar")


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat x",
        "pipe://cat x",
        "simplecache::https://example.org/a.tar",
        "zip://a.tar::https://example.org/b.zip",
        "nothing://a.tar",
        "data:text/plain,x",
    ],
)
def test_protocols_that_are_not_opened(url):
    with pytest.raises(ShardError, match="no protocol that is opened here"):
        find_shards(url)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("https://example.org/*.tar", "needs x; pip install 'jvpsvd[remote]'"),
        ("s3://a/*.tar", "needs x"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, url, remedy):
    def url_to_fs(url):
        raise ImportError("needs x")

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    with pytest.raises(ShardError) as error:
        find_shards(url)
    assert str(error.value).endswith(remedy)


@pytest.mark.parametrize("nothing", ["", " "])
def test_no_shards_named_is_not_the_folder_one_is_in(nothing, tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", sample_members("photo", 0, 7))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match="nothing is named"):
        find_shards(nothing)


def test_query_is_no_part_of_the_name():
    (shard,) = find_shards("https://example.org/x/part-0.tar?signature=a/b.tar&x=*")
    assert shard.name == "part-0.tar"
