"""What is written to a disk that is full, or to a place where nothing can be written."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch
from support.full_disk import files_up_to
from support.shards import encoded
from torch import nn

from jvpsvd import svds
from jvpsvd.data import Photo, pack, write_inputs
from jvpsvd.data.wordnet import ilsvrc_hierarchy, write_hierarchy
from jvpsvd.errors import DataError, DiskError, JvpsvdError
from jvpsvd.machine import writing
from jvpsvd.networks.dbn import save_network


def packed(file):
    photo = file.parent / "0.jpg"
    photo.write_bytes(encoded(0))
    pack([Photo(photo, str(i), 0, {}) for i in range(20)], file)


WRITERS = {
    "save": lambda file: svds(torch.eye(60), 20).save(file),
    "write_inputs": lambda file: write_inputs([torch.ones(900)], file),
    "write_hierarchy": lambda file: write_hierarchy(ilsvrc_hierarchy(), file),
    "save_network": lambda file: save_network(nn.Sequential(nn.Linear(30, 30)), file),
    "pack": packed,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path, write):
    with files_up_to(1500), pytest.raises(DiskError) as caught:
        write(tmp_path / "out")
    line = rf"{tmp_path}/out\S* cannot be written: File too large; raise the limit .*"
    assert re.fullmatch(line, str(caught.value))


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"pack"}))
def test_a_full_disk_leaves_the_file_that_was_there_and_no_half_of_another(tmp_path, name):
    file = tmp_path / "out"
    file.write_text("as it was")
    with files_up_to(1500), pytest.raises(DiskError):
        WRITERS[name](file)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert file.read_text() == "as it was"


def test_many_small_inputs_fill_a_disk_as_one_large_one_does(tmp_path):
    with files_up_to(20_000), pytest.raises(DiskError, match=r"x.tar cannot be written: File too"):
        write_inputs((torch.zeros(1) for _ in range(100)), tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"pack"}))
def test_a_link_stays_and_its_file_is_written(tmp_path, name):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("as it was")
    link.symlink_to("file")
    WRITERS[name](link)
    assert link.is_symlink()
    assert file.stat().st_size > 500


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"pack"}))
def test_what_is_no_regular_file_stays(tmp_path, name):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(DataError, match=f"{file} is no regular file; choose another name"):
            WRITERS[name](file)
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_leaves_no_shard(tmp_path):
    with files_up_to(1500), pytest.raises(DiskError):
        packed(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"save", "pack"}))
def test_a_folder_that_is_not_there_is_named(tmp_path, name):
    file = tmp_path / "none" / "out"
    with pytest.raises(DiskError) as caught:
        WRITERS[name](file)
    assert str(caught.value).startswith(f"{file} cannot be written: No such file or directory; ")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free some space there, then do the same again"),
        (errno.EDQUOT, "Disk quota exceeded; free some space there, then do the same again"),
        (errno.EROFS, "Read-only file system; make it writable, or choose another place"),
        (errno.EACCES, "Permission denied; make it writable, or choose another place"),
        (errno.EIO, "Input/output error; see to that, then do the same again"),
    ],
)
def test_each_reason_has_its_remedy(number, advice):
    with pytest.raises(DiskError, match=f"a.csv cannot be written: {advice}$"), writing("a.csv"):
        raise OSError(number, os.strerror(number), "/some/.a.csv.part")


def test_it_is_an_error_of_the_file_system_and_of_data():
    assert issubclass(DiskError, OSError)
    assert issubclass(DiskError, DataError)


def test_other_errors_stay_as_they_are():
    with pytest.raises(KeyError), writing("a"):
        raise KeyError("b")
    with pytest.raises(JvpsvdError, match="of another") as caught, writing("a"):
        raise DataError("of another file")
    assert not isinstance(caught.value, DiskError)


def test_inputs_that_cannot_be_read_are_not_taken_for_a_full_disk(tmp_path):
    def read():
        yield torch.ones(3)
        Path(tmp_path / "photo").read_bytes()

    with pytest.raises(FileNotFoundError, match="photo"):
        write_inputs(read(), tmp_path / "inputs.tar")
    assert list(tmp_path.iterdir()) == []
