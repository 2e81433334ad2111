"""Photos with their vectors: on the page, and as a figure."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from support.shards import encoded, sample_members, write_tar

from jvpsvd.errors import ArgumentError, ShardError
from jvpsvd.report import read_values, write_report
from jvpsvd.report.analysis import analyse
from jvpsvd.report.thumbnails import make_thumbnails
from jvpsvd.survey import Spec, run

pytest.importorskip("jinja2", reason="the page needs jvpsvd[report]")


@pytest.fixture
def shard(tmp_path):
    members = [m for i in range(3) for m in sample_members(f"photo{i}", i, i % 2)]
    return write_tar(tmp_path / "good-0000.tar", members)


@pytest.fixture
def surveyed(tiny, shard, tmp_path):
    def call(name, **options):
        out = tmp_path / name
        asked = {"shards": [shard], "model": "tiny:net", "layers": ["3", "output"], "out": out}
        return run(Spec(**asked | options)).store

    return call


def pixels(image):
    data = base64.b64decode(image.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_small_copies_look_like_the_vectors_themselves(surveyed, shard):
    shown = [
        make_thumbnails(analyse(read_values(surveyed(name, k=9, vectors=kind))), [shard])
        for name, kind in (("whole", True), ("small", 5))
    ]
    whole, small = shown
    assert whole.indices == small.indices == (1, 2, 3, 4, 5, 9)
    for one, other in zip(whole.photos, small.photos, strict=True):
        for mine, theirs in zip(one.depths, other.depths, strict=True):
            for a, b in zip(mine.images, theirs.images, strict=True):
                assert (a.index, a.s, a.converged) == (b.index, b.s, b.converged)
                assert a.moved == b.moved
                # A few colours of each image are kept, and float16; other images differ by 13.
                assert np.abs(pixels(a) - pixels(b)).mean() < 9
            assert bool(mine.images[0].moved) == (mine.layer == "output")


def test_a_depth_of_fewer_values_shows_its_own_last_one(surveyed, shard):
    found = make_thumbnails(analyse(read_values(surveyed("run", k=40, vectors=2))), [shard])
    deep, output = found.photos[0].depths
    assert [image.index for image in deep.images] == [1, 2, 40]
    assert [image.index for image in output.images] == [1, 2, 30]


def test_what_may_be_missing_before_a_vector_is_not_converged(surveyed, shard):
    """Its row counts fewer than residuals are small."""
    run = read_values(surveyed("run", k=6, vectors=5))
    depths = [dataclasses.replace(one, converged=0 * one.converged + 2) for one in run.depths]
    run = dataclasses.replace(run, depths=tuple(depths))
    for photo in make_thumbnails(analyse(run), [shard]).photos:
        for depth in photo.depths:
            assert [image.converged for image in depth.images] == [True] * 2 + [False] * 4


def test_a_photo_that_was_changed_far_into_its_shard_is_not_shown(surveyed, shard):
    members = [
        *sample_members("near", 0, 0), ("filler.txt", bytes(1 << 20)), *sample_members("far", 1, 1)
    ]  # fmt: skip
    write_tar(shard, members)
    run = read_values(surveyed("run", k=3, vectors=2))
    assert [bool(one.photo) for one in make_thumbnails(analyse(run), [shard]).photos] == [
        True,
        True,
    ]
    data = bytearray(shard.read_bytes())
    data[data.rindex(encoded(1)) + len(encoded(1)) - 20] ^= 1
    shard.write_bytes(data)
    found = make_thumbnails(analyse(run), [shard])
    assert [bool(one.photo) for one in found.photos] == [True, False]
    assert found.without_photo.startswith("1 of 2 photos are not shown")


def test_the_page_and_its_files_show_them(surveyed, shard):
    store = surveyed("run", k=6, vectors=2)
    written = write_report(read_values(store), [shard])
    html = written.page.read_text("utf-8")
    assert html.count('class="vector"') == 3 * 2 * 3
    assert 'alt="v6 of photo2 at output"' in html
    assert "small copies of the first 2 and the last" in html
    assert "--vectors 2" in html
    names = {file.name for file in written.files}
    assert {"vectors.png", "vectors.svg"} <= names
    again = {file.name for file in write_report(read_values(store)).files}
    assert names - again == {"vectors.png", "vectors.svg"}  # there are no photos to show


def test_a_run_without_vectors_has_no_section_of_them(surveyed, shard):
    html = write_report(read_values(surveyed("run", k=4)), [shard]).page.read_text("utf-8")
    assert 'id="photos"' not in html
    assert 'href="#photos"' not in html


def test_shards_are_given_as_they_are_to_a_run(surveyed, shard, tmp_path):
    values = read_values(surveyed("run", k=3, vectors=2))
    folder = shard.parent
    for given in (str(folder), shard, [folder], f"{folder}/good-{{0000..0000}}.tar"):
        written = write_report(values, given, folder=tmp_path / "report")
        assert "vectors.png" in {file.name for file in written.files}
    absent = write_report(values, [folder / "absent.tar"], folder=tmp_path / "report")
    assert "vectors.png" not in {file.name for file in absent.files}


@pytest.mark.parametrize("given", ["nowhere/", ["empty"]])
def test_shards_that_are_not_there_are_refused_before_anything_is_written(
    surveyed, given, tmp_path, monkeypatch
):
    values = read_values(surveyed("run", k=3))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match=r"give a folder|no \.tar file matches"):
        write_report(values, given, folder=tmp_path / "report")
    with pytest.raises(ArgumentError, match="shards=3 must be a folder, a pattern or files"):
        write_report(values, 3, folder=tmp_path / "report")
    assert not (tmp_path / "report").exists()
