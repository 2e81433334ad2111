"""Files and folders are named by strings, by paths, or by whatever os.fspath takes."""

import os

import pytest
import torch
from support.shards import encoded

import jvpsvd
from jvpsvd import data, report, survey
from jvpsvd.errors import ArgumentError


class Named:
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


class NamedInBytes(Named):
    """One that returns bytes, as os.fsencode does."""

    def __fspath__(self):
        return os.fsencode(self.path)


@pytest.fixture(params=[str, Named, NamedInBytes])
def named(request):
    return request.param


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "one.jpg").write_bytes(encoded(0))
    return tmp_path / "photos"


def test_photos_are_packed_and_read(photos, tmp_path, named):
    listed = data.list_folder(named(photos)).photos
    assert data.photos_by_class(named(photos)) == list(listed)
    (shard,) = data.pack(listed, named(tmp_path / "shards"), source=named(photos))
    assert data.find_shards(named(tmp_path / "shards")) == data.find_shards(named(shard)) == [shard]
    assert data.fingerprints([named(shard)]) == [data.fingerprint(named(shard))]
    (sample,) = data.walk(named(shard))
    assert [one for one, _ in data.read_photos(named(shard), [sample])] == [sample]
    assert data.write_inputs([torch.ones(2)], named(tmp_path / "inputs.tar")) == 1


def test_a_run_is_opened_and_drawn(finished, tmp_path, named):
    run = finished(layers=["output"])
    store = survey.open_store(named(run.folder))
    assert store.folder == run.folder == survey.open(named(run.folder)).store.folder
    values = report.read_values(store)
    page = report.write_report(values, folder=named(tmp_path / "report")).page
    assert page == tmp_path / "report" / "index.html"
    assert report.draw_spectra(report.summarize(store), "net", named(tmp_path / "figures"))


@pytest.mark.parametrize("read", [report.read_values, report.summarize])
def test_a_folder_in_place_of_a_store_is_told_what_to_give(read):
    with pytest.raises(ArgumentError, match=r"store is .run.; give survey\.open"):
        read("run")


def test_what_is_no_path_is_refused():
    with pytest.raises(ArgumentError, match="folder=3 must be the name of the folder of a run"):
        survey.open_store(3)


def test_a_run_is_computed_and_its_result_saved(shard, tmp_path, named):
    model = jvpsvd.networks.Model.of(torch.nn.Flatten(), jvpsvd.networks.PhotoInput(size=2))
    for number, shards in enumerate((named(shard), [named(shard)])):
        spec = survey.Spec(
            shards=shards, model=model, layers=["output"], k=2, out=named(tmp_path / f"run{number}")
        )
        assert survey.run(spec, report=False).computed > 0
    result = jvpsvd.svds(torch.eye(3), 1)
    result.save(named(tmp_path / "result.safetensors"))
    assert jvpsvd.load(named(tmp_path / "result.safetensors")) == result


@pytest.mark.parametrize(
    "call",
    [
        survey.open_store,
        data.find_shards,
        data.walk,
        data.fingerprint,
        lambda path: data.fingerprints([path]),
        data.list_folder,
        lambda path: data.pack([], path),
        jvpsvd.load,
        lambda path: survey.Spec(out=path),
    ],
)
def test_a_null_byte_is_refused_in_one_line(call):
    with pytest.raises(ArgumentError, match=r"='a\\x00b' holds a null byte, which no name has$"):
        call("a\0b")


def test_what_turns_into_no_name_is_refused(tmp_path):
    class Wrong:
        def __fspath__(self):
            return 3

    with pytest.raises(ArgumentError, match=r"folder=.* must be the name of the folder"):
        survey.open_store(Wrong())
