"""Files of spectra: written, read again, damaged, and of earlier days."""

import pytest
import torch
from support.spectra_problems import LAYERS, K, inputs, network
from torch import nn

from jvpsvd import load, spectra
from jvpsvd.errors import DataError
from jvpsvd.studies.network_spectra import KIND
from jvpsvd.svd.storage import read_record, write_record


def test_saved_and_loaded_again(tmp_path):
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    found.save(tmp_path / "spectra.safetensors")
    again = load(tmp_path / "spectra.safetensors")
    assert (again.layers, again.model, again.tol) == (found.layers, found.model, found.tol)
    assert str(again) == str(found)
    assert again == found
    assert again != spectra(network(), 2 * inputs(), LAYERS, k=K, progress=False)
    for one, other in zip(found, again, strict=True):
        assert one.shape == other.shape
        for name in ("s", "residuals", "converged", "certified", "energy_share", "products"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert [file.name for file in tmp_path.iterdir()] == ["spectra.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_what_is_no_file_of_spectra_is_an_error_of_one_line(damage, tmp_path):
    file = tmp_path / "spectra.safetensors"
    spectra(network(), inputs()[:1], k=2, progress=False).save(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "other":
        file.write_bytes(b"something else")
    else:
        file.unlink()
    with pytest.raises(DataError) as error:
        load(file)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError):
        spectra(network(), inputs()[:1], k=2, progress=False).save(tmp_path / "no" / "folder")


def test_counts_come_back_from_a_file(tmp_path):
    model = nn.Linear(6, 5)
    S = spectra(model, torch.randn(3, 6), k=2, threshold=0.5, progress=False)
    S.save(tmp_path / "S.safetensors")
    loaded = load(tmp_path / "S.safetensors")
    assert torch.equal(loaded["output"].counts, S["output"].counts)
    assert loaded.threshold == 0.5


def test_a_file_of_earlier_days_has_one_shape_for_all_inputs(tmp_path):
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    found.save(tmp_path / "new.safetensors")
    record = read_record(tmp_path / "new.safetensors", KIND, {})
    for number in range(len(LAYERS)):
        del record[f"{number}.shapes"]
    write_record(tmp_path / "old.safetensors", KIND, record)
    assert str(load(tmp_path / "old.safetensors")) == str(found)
