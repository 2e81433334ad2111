"""Weight files: read as tensors only, and they must fit."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jvpsvd.errors import ModelError
from jvpsvd.networks import load_weights, weights_sha256


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


def save(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
def test_a_state_dict_is_loaded_whole(name, tmp_path):
    source, target = network(0), network(1)
    source[1].running_mean.fill_(3.0)
    path = save(source.state_dict(), tmp_path / name)
    assert weights_sha256(target) != weights_sha256(source)
    load_weights(target, str(path))
    assert weights_sha256(target) == weights_sha256(source)


def test_a_checkpoint_may_hold_the_state_dict_under_its_usual_key(tmp_path):
    source, target = network(0), network(1)
    path = save({"epoch": 3, "state_dict": source.state_dict()}, tmp_path / "w.pt")
    load_weights(target, path)
    assert weights_sha256(target) == weights_sha256(source)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("writer", ["torch", "legacy torch", "pickle"])
@pytest.mark.parametrize("position", ["alone", "among weights"])
def test_a_pickle_that_would_run_code_does_not(writer, position, tmp_path):
    planted = tmp_path / "planted"
    evil = Malicious(planted)
    state = evil if position == "alone" else {**network(0).state_dict(), "evil": evil}
    path = tmp_path / "w.pt"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=writer == "torch")
    module = network(1)
    before = weights_sha256(module)
    with pytest.raises(ModelError, match=r"w\.pt") as caught:
        load_weights(module, path)
    assert not planted.exists()
    assert weights_sha256(module) == before
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_malicious_file_is_malicious(tmp_path):
    planted = tmp_path / "planted"
    pickle.loads(pickle.dumps(Malicious(planted))).close()  # noqa: S301 -- our own bytes
    assert planted.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off", b"\x80\x02"])
def test_bytes_that_are_no_weights(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=name) as caught:
        load_weights(network(0), path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path):
    for name in ("w.pt", "w.safetensors"):
        path = save(network(0).state_dict(), tmp_path / name)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"no file of weights|damaged"):
            load_weights(network(1), path)


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", "."])
def test_a_file_that_is_not_there(name, tmp_path):
    with pytest.raises(ModelError, match="no weights at"):
        load_weights(network(0), tmp_path / name)


GOOD = network(0).state_dict()
UNFIT = {
    "another shape": ({**GOOD, "0.weight": torch.ones(4, 5)}, "size mismatch for 0.weight"),
    "a missing key": ({k: v for k, v in GOOD.items() if k != "0.bias"}, 'Missing.*"0.bias"'),
    "an extra key": ({**GOOD, "extra": torch.ones(1)}, 'Unexpected.*"extra"'),
    "a prefix": ({f"module.{k}": v for k, v in GOOD.items()}, "module.0.weight"),
    "complex weights": (
        {**GOOD, "0.weight": GOOD["0.weight"].to(torch.complex64)},
        "'0.weight' holds complex numbers where the module has real numbers",
    ),
    "integer weights": (
        {**GOOD, "0.weight": GOOD["0.weight"].long()},
        "'0.weight' holds integers where the module has real numbers",
    ),
    "a number for a tensor": ({**GOOD, "0.bias": 1.0}, "'0.bias' holds a float"),
    "keys that are no names": ({1: torch.ones(1)}, "it has a key 1"),
    "a list": ([torch.ones(1)], "holds a list, not a state dict"),
    "a tensor": (torch.ones(1), "holds a Tensor, not a state dict"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_state_dict_that_does_not_fit(case, tmp_path):
    state, message = UNFIT[case]
    path = save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(network(1), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_stored_in_another_precision_take_the_modules(dtype, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in GOOD.items()}
    module = network(1)
    load_weights(module, save(state, tmp_path / "w.pt"))
    assert module[0].weight.dtype == torch.float32
    torch.testing.assert_close(module[0].weight, GOOD["0.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("version", [3, {"1": 3}, {"1": {"version": "2"}}, {"1": None}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_whose_version_is_none(version, zipped, tmp_path):
    state = network(0).state_dict()
    state._metadata = version
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"w\.pt does not fit Sequential: \w+Error: ") as caught:
        load_weights(network(1), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["\x1b[2Jevil", "two\nlines", "\u202eright", 7, ("\x07",)])
def test_names_in_a_file_do_not_act_on_a_terminal(key, tmp_path):
    torch.save({**GOOD, key: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt") as caught:
        load_weights(network(1), tmp_path / "w.pt")
    assert str(caught.value).isprintable()


def test_what_the_reader_says_of_a_file_does_not_act_on_a_terminal(tmp_path):
    """torch repeats the version, which the file says."""
    torch.save(GOOD, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.namelist():
            version = entry.endswith("/version")
            new.writestr(entry, b"\x1b[2J" if version else old.read(entry))
    with pytest.raises(ModelError, match=r"x\.pt") as caught:
        load_weights(network(1), tmp_path / "x.pt")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("part", ["archive/data.pkl", "archive/data/9", "archive/x"])
def test_a_zip_that_unpacks_to_much_more_than_weights_is_not_unpacked(part, tmp_path):
    torch.save(GOOD, tmp_path / "archive.pt")
    with (
        zipfile.ZipFile(tmp_path / "archive.pt") as old,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            if entry != part:
                new.writestr(entry, old.read(entry))
        new.writestr(part, bytes(1 << 25))
    with pytest.raises(ModelError, match=r"w\.pt has \d+ bytes that would unpack to 33\d+, as no"):
        load_weights(network(1), tmp_path / "w.pt")


def test_weights_that_somebody_packed_again_are_read(tmp_path):
    torch.save(GOOD, tmp_path / "archive.pt")
    with (
        zipfile.ZipFile(tmp_path / "archive.pt") as old,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    module = network(1)
    load_weights(module, tmp_path / "w.pt")
    assert weights_sha256(module) == weights_sha256(network(0))
