"""Results on disk: whole, equal when they come back, refused when damaged or foreign."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.full_disk import files_up_to
from support.svd_problems import line, with_values

import jvpsvd
from jvpsvd import MatrixOperator, svds
from jvpsvd.errors import DataError

SOLVES = {
    "golub-kahan": {"method": "golub-kahan"},
    "exact": {"method": "exact"},
    "block-krylov": {"method": "randomized"},
    "subspace-iteration": {"method": "randomized", "memory": "230KB"},
    "adaptive-rank": {"method": "randomized", "energy": 0.5},
    "values": {"method": "golub-kahan", "vectors": False},
}


def solved(name="golub-kahan", dtype=torch.float32):
    matrix = with_values(line(2, 1, 120), 150, 120).to(dtype)
    options = dict(SOLVES[name])
    if "memory" in options and dtype == torch.float64:
        options["memory"] = "460KB"
    return svds(matrix, 9, on_unconverged="ignore", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOLVES)
def test_what_is_loaded_equals_what_was_saved(tmp_path, name, dtype):
    result = solved(name, dtype)
    if name in ("block-krylov", "subspace-iteration", "adaptive-rank"):
        assert result.method == name
    result.save(tmp_path / "a.safetensors")
    loaded = jvpsvd.load(tmp_path / "a.safetensors")
    assert loaded == result
    assert (loaded.plan, loaded.history) == (result.plan, result.history)
    assert repr(loaded.certificates) == repr(result.certificates)
    assert type(loaded.products) is type(result.products)
    assert loaded.seconds_by_phase == result.seconds_by_phase
    loaded.save(tmp_path / "b.safetensors")
    assert jvpsvd.load(tmp_path / "b.safetensors") == result


def test_a_batch_and_one_of_it(tmp_path):
    result = svds(MatrixOperator(torch.randn(3, 20, 30)), 4)
    for one in (result, result.of(1)):
        one.save(tmp_path / "a")
        assert jvpsvd.load(tmp_path / "a") == one


def test_numbers_that_json_lacks_come_back(tmp_path):
    result = svds(MatrixOperator(torch.zeros(20, 30)), 4, method="golub-kahan")
    strange = {"epsilon": float("nan"), "fro2_error": float("inf")}
    one = type(result.certificate)(**{**vars(result.certificate), **strange})
    changed = type(result)(**{**vars(result), "certificates": (one,)})
    changed.save(tmp_path / "a")
    assert jvpsvd.load(tmp_path / "a") == changed
    assert jvpsvd.load(tmp_path / "a") != result


def test_any_reader_of_safetensors_shows_what_it_says(tmp_path):
    result = solved()
    result.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {
            *("U", "s", "Vh", "residuals", "converged"),
            "samples/0/values",  # the bases span the whole space
        }
        metadata = {name: text for name, text in file.metadata().items() if name[0] != "j"}
    metadata.pop("checksum")
    said = {name: json.loads(text) for name, text in metadata.items()}
    assert said["tol"] == result.tol
    assert said["method"] == "golub-kahan"
    assert said["products"]["forward"] == result.products.forward
    assert said["certificates"][0]["evidence"] == result.certificate.evidence
    assert len(said["history"]) == len(result.history)


def test_the_spectrum_of_a_loaded_result_is_the_same(tmp_path):
    result = jvpsvd.svds(torch.diag(torch.linspace(3, 0, 300)), 10, method="golub-kahan")
    result.save(tmp_path / "a.safetensors")
    loaded = jvpsvd.load(tmp_path / "a.safetensors")
    assert loaded == result
    assert torch.equal(loaded.samples[0].B, result.samples[0].B)
    assert loaded.spectrum.count(1.0) == result.spectrum.count(1.0)
    changed = dataclasses.replace(result.samples[0], B=result.samples[0].B * (1 + 1e-15))
    assert dataclasses.replace(result, samples=(changed,)) != result


def test_a_file_of_another_kind_is_replaced_as_torch_save_does(tmp_path):
    file = tmp_path / "a.bin"
    file.write_text("something else")
    result = solved()
    result.save(file)
    assert jvpsvd.load(file) == result
    assert os.listdir(tmp_path) == ["a.bin"]  # noqa: PTH208


def test_a_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "a.bin")
    result = solved()
    result.save(link)
    assert link.is_symlink()
    assert jvpsvd.load(tmp_path / "folder" / "a.bin") == result


@pytest.mark.parametrize("name", ["folder", "missing/a", "pipe", "file/a"])
def test_where_nothing_can_be_written(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError) as caught:
        solved().save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_file_and_no_half(tmp_path):
    file = tmp_path / "a"
    result = svds(torch.eye(3), 1)
    result.save(file)
    larger = svds(torch.randn(200, 100), 50)
    with files_up_to(4096), pytest.raises(DataError, match="a cannot be written: File too large"):
        larger.save(file)
    assert jvpsvd.load(file) == result
    assert list(tmp_path.iterdir()) == [file]


def damaged(data: bytes):
    yield "empty", b""
    yield "cut", data[:-100]
    yield "header cut", data[:50]
    yield "longer", data + b"more"
    for at in (9, 200, len(data) // 2, len(data) - 1):
        yield f"bit of byte {at}", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "a"
    solved().save(file)
    for name, data in damaged(file.read_bytes()):
        file.write_bytes(data)
        with pytest.raises(DataError) as caught:
            jvpsvd.load(file)
        assert str(file) in str(caught.value), name
        assert "\n" not in str(caught.value)


def foreign(folder: Path):
    save_file({"weight": torch.ones(2)}, folder / "weights")
    save_file({"s": torch.ones(2)}, folder / "meta", metadata={"jvpsvd": "Spectra 1"})
    torch.save({"s": torch.ones(2)}, folder / "torch")
    (folder / "pickle").write_bytes(pickle.dumps([1]))
    (folder / "text").write_text("σ = 1\n")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    return ["weights", "meta", "torch", "pickle", "text", "folder", "pipe", "missing"]


def test_a_foreign_file_is_refused(tmp_path):
    for name in foreign(tmp_path):
        with pytest.raises(DataError) as caught:
            jvpsvd.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_loaded_does_not_change_with_the_file(tmp_path):
    file = tmp_path / "a"
    result = solved()
    result.save(file)
    loaded = jvpsvd.load(file)
    with file.open("r+b") as out:
        out.write(bytes(file.stat().st_size))
    assert loaded == result
