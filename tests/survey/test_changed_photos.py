"""Photos and networks that were changed since a run began."""

import dataclasses
import os
import sys

import numpy as np
import pytest
import torch
from support.shards import encoded, sample_members, write_tar
from torch import nn

from jvpsvd.errors import RunError
from jvpsvd.networks import Inputs, Model, PhotoInput, weights_sha256
from jvpsvd.survey import Spec, open, run, verify
from jvpsvd.survey.spec.changed_network import changed_network
from jvpsvd.survey.spec.probe import probe_network
from jvpsvd.survey.store.checksums import checksum_bytes

CODE = """
import torch
from torch import nn
from jvpsvd.networks import PhotoInput


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Linear(192, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.two({0}(self.one(x.flatten(1))))


def net():
    return Net().eval(), PhotoInput(size=8, resize=8)
"""


@pytest.fixture
def coded(tiny, shard, tmp_path, monkeypatch):
    """A function that runs a network whose code holds an expression, and gives the outcome."""
    made = []

    def call(expression):
        name = f"coded{len(made)}"
        made.append(name)
        sys.modules.pop(name, None)  # of the test before
        (tiny / f"{name}.py").write_text(CODE.replace("{0}", expression))
        from jvpsvd.networks import load_model

        net = load_model(f"{name}:net")
        model = Model("coded:net", net.module, net.photo_input, net.weights_sha256)
        return run(Spec(shards=[shard], model=model, layers=["output"], k=3, out=tmp_path / "run"))

    return call


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("torch.relu", "values"),
        ("torch.sigmoid", "values"),
        ("(lambda z: 1.01 * torch.tanh(z))", "values"),
        ("(lambda z: torch.tanh(z).detach() + 0.5 * (z - z.detach()))", "derivatives"),
    ],
)
def test_other_code_with_the_same_weights_is_refused(coded, other, what):
    coded("torch.tanh")
    with pytest.raises(
        RunError, match=f"another network of the same weights: its {what} at a test"
    ):
        coded(other)


class Logarithm(nn.Module):
    """Takes photos in [0, 1] only; at others it gives NaN, or raises."""

    def __init__(self, factor, raises=False):
        super().__init__()
        torch.manual_seed(3)
        self.factor, self.raises, self.linear = factor, raises, nn.Linear(192, 8)

    def forward(self, x):
        if self.raises and x.min() < 0:
            raise ValueError("photos are in [0, 1]")
        return self.factor * self.linear((x.flatten(1) + 0.01).log())


def run_module(module, shard, folder):
    taken = PhotoInput(size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Model("mine", module.eval(), taken, weights_sha256(module))
    return run(Spec(shards=[shard], model=model, layers=["output"], k=3, out=folder))


@pytest.mark.parametrize("raises", [False, True])
def test_other_code_is_noticed_where_it_takes_only_what_photos_hold(shard, tmp_path, raises):
    assert run_module(Logarithm(1, raises), shard, tmp_path / "run").store.identity.probe
    with pytest.raises(RunError, match="another network of the same weights: its values"):
        run_module(Logarithm(5, raises), shard, tmp_path / "run")


def test_a_run_of_a_version_that_had_no_numbers_of_such_a_network_goes_on(shard, tmp_path):
    begun = run_module(Logarithm(1), shard, tmp_path / "run").store.identity
    assert dataclasses.replace(begun, probe=()).difference(begun) == ""
    assert begun.difference(dataclasses.replace(begun, probe=())) != ""


def test_where_no_test_input_gives_numbers_the_log_says_so(caplog):
    class Nowhere(nn.Module):
        def forward(self, x):
            return (x.flatten(1) - 9).log()

    model = Model("mine", Nowhere().eval(), PhotoInput(size=2), "")
    assert probe_network(model, ["output"]) == ()
    (line,) = caplog.messages
    assert line == (
        "mine gives no finite values at a test input: a change of its code cannot be noticed"
    )


@pytest.mark.parametrize("same", ["torch.tanh", "(lambda z: 2 * torch.sigmoid(2 * z) - 1)"])
def test_code_that_computes_the_same_continues(coded, same):
    coded("torch.tanh")
    assert coded(same).skipped == 4


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Hardtanh(), nn.Identity()])
def test_rounding_is_no_other_network(shard, tmp_path, net):
    """float64 sums in another order: what another machine or number of threads does."""
    torch.manual_seed(0)
    linear = nn.Linear(192, 64)
    whole = nn.Sequential(nn.Flatten(), linear, net, nn.Linear(64, 8)).eval()

    class Reordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = whole

        def forward(self, x):
            one, two = x.flatten(1).split(96, 1)
            z = linear.bias + two @ linear.weight[:, 96:].T + one @ linear.weight[:, :96].T
            return whole[3](whole[2](z))

    digest = weights_sha256(whole)
    for module in (whole, Reordered().eval()):
        model = Model("mine", module, PhotoInput(size=8, resize=8), digest)
        run(Spec(shards=[shard], model=model, layers=["output"], k=3, out=tmp_path / "run"))


@pytest.fixture
def large(tmp_path):
    """A shard whose photos lie on both sides of its first mebibyte."""
    members = [
        *sample_members("near", 0, 0),
        ("filler.txt", bytes(1 << 20)),
        *sample_members("far", 1, 1),
        *sample_members("last", 2, 0),
    ]
    return write_tar(tmp_path / "large.tar", members)


def replace(shard, old, new):
    data = shard.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    shard.write_bytes(data.replace(old, new))


def other_photo(old):
    """A photo of the same size in bytes."""
    changed = bytearray(old)
    changed[-20] ^= 1
    return bytes(changed)


def test_a_photo_changed_far_into_a_shard_is_refused(surveyed, large):
    store = surveyed([large], layers=["output"]).store
    rows = {row.key: row.photo_checksum for row in store.rows() if row.key != "filler"}
    assert rows == {
        key: checksum_bytes(encoded(i)) for i, key in enumerate(("near", "far", "last"))
    }
    replace(large, encoded(1), other_photo(encoded(1)))
    with pytest.raises(RunError, match=r"other bytes in .*large\.tar: far was changed since"):
        surveyed([large], layers=["output"])


def test_a_label_changed_far_into_a_shard_is_refused(surveyed, large):
    surveyed([large], layers=["output"])
    data = large.read_bytes()
    at = data.rindex(b"last.cls") + 512
    large.write_bytes(data[:at] + b"7" + data[at + 1 :])
    with pytest.raises(RunError, match=r"other bytes in .*large\.tar: last was changed since"):
        surveyed([large], layers=["output"])


def test_a_shard_with_another_time_and_the_same_photos_continues(surveyed, large):
    store = surveyed([large], layers=["output"]).store
    os.utime(large, (0, 0))
    store.layout.task_files()[0].unlink()
    assert surveyed([large], layers=["output"]).computed == 1
    before = (store.folder / "shards.json").read_bytes()
    assert surveyed([large], layers=["output"]).computed == 0
    assert (store.folder / "shards.json").read_bytes() == before
    assert verify(store).problems == ()
    assert open(store.folder).table().num_rows == 4


def test_a_photo_changed_before_its_row_is_known_by_the_checksum_of_the_row(surveyed, large):
    def stop(progress):
        if progress.photos_done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed([large], layers=["output"], report=stop)
    replace(large, encoded(2), new := other_photo(encoded(2)))
    rows = surveyed([large], layers=["output"]).store.rows()
    assert rows[-1].photo_checksum == checksum_bytes(new)


def test_a_label_changed_before_the_first_row_is_refused(surveyed, large):
    """The manifest, which is there already, holds the label of before."""

    def stop(progress):
        if progress.photos:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed([large], layers=["output"], report=stop)
    data = large.read_bytes()
    at = data.rindex(b"last.cls") + 512
    large.write_bytes(data[:at] + b"7" + data[at + 1 :])
    with pytest.raises(RunError, match=r"other bytes in .*large\.tar: last was changed since"):
        surveyed([large], layers=["output"])


@pytest.mark.parametrize("example", [torch.zeros(1, 12), np.zeros((1, 12), np.float32)])
def test_other_arguments_are_noticed_where_the_example_is_zero(example):
    module = nn.Linear(12, 3).eval()

    def probe_with(factor):
        inputs = Inputs("npy", example, lambda content: torch.as_tensor(content) * factor)
        return probe_network(Model.of(module, inputs), ["output"])

    assert changed_network(probe_with(1), probe_with(1), 1) == ""
    assert changed_network(probe_with(1), probe_with(3), 1).startswith("its values at a test input")
    older = probe_with(1)[:10]  # a version that took the example alone
    assert (
        changed_network(older, probe_with(1), 1) == changed_network(probe_with(1), older, 1) == ""
    )
