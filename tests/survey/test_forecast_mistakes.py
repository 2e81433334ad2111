"""Forecasts of a device that is not at hand: mistakes are refused, and nothing is lost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from jvpsvd import survey
from jvpsvd.cli import main
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Inputs, Model
from jvpsvd.report import foretold_table
from jvpsvd.survey.spec.command import command_of


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).eval()


@pytest.mark.parametrize(
    "text",
    [
        "80GiB .TFLOPS",
        "80GiB 0TFLOPS",
        "H100 0GB/s",
        "0GiB 5TFLOPS",
        "80GiB 1..5TFLOPS",
        "H101",
        "",
    ],
)
def test_devices_without_a_figure_are_refused(text):
    with pytest.raises(ArgumentError):
        survey.device_named(text)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_this_machine_is_no_device_to_name(capsys, device):
    with pytest.raises(SystemExit) as stopped:
        main(("layers", "--device", device))
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (2, 1)
    assert f"device '{device}' is not known" in error
    assert "as '80GiB 60TFLOPS'; for this machine leave it out" in error


def test_a_forecast_leaves_the_network_as_it_was():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = Model.of(net, Inputs("npy", torch.zeros(1, 6)))
    survey.foretell(model, survey.device_named("T4"), 3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert model.module is net


def test_tied_weights_are_counted_once():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = Model.of(nn.Sequential(first, second).eval(), Inputs("npy", torch.zeros(1, 6)))
    assert survey.foretell(model, survey.device_named("T4"), 3).weights == 4 * (36 + 6 + 6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--json",), "--json"),
        (("--functions",), "--functions"),
        (("--memory", "1GiB"), "--memory"),
        (("--random-weights", "1"), "--random-weights"),
        (("--tokens", "5"), "--tokens"),
        (("--model", "hf:nowhere", "--tokens", "0"), "--tokens"),
        (("--model", "hf:nowhere", "--tokens", "-1"), "--tokens"),
    ],
)
def test_options_that_say_nothing_of_a_device_are_refused(capsys, options, named):
    with pytest.raises(SystemExit) as stop:
        main(("layers", "--device", "H100", *options))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_nothing_after_the_last_depth_is_no_error():
    model = Model.of(network(), Inputs("npy", torch.zeros(1, 6)), since="output")
    assert survey.forecast(model, 3).depths == []


@pytest.mark.parametrize("vectors", [False, 0])
def test_the_command_that_goes_on_keeps_no_vectors_where_none_are_kept(vectors):
    command = command_of(survey.Spec(shards="photos", out="run", vectors=vectors))
    assert command is not None
    assert "False" not in command


def test_a_device_that_holds_no_bases_does_not_fit():
    model = Model.of(network(), Inputs("npy", torch.zeros(1, 6)))
    small = survey.device_named("1KiB 5TFLOPS")
    table = str(foretold_table(survey.foretell(model, small, 3), "net", ""))
    assert "IT DOES NOT FIT" in table


@pytest.mark.parametrize(("name", "timed"), [("efficientnet-lite0", True), ("mine", False)])
def test_a_network_that_was_timed_is_not_said_to_be_untimed(name, timed):
    model = replace(Model.of(network(), Inputs("npy", torch.zeros(1, 6))), spec=name)
    found = survey.foretell(model, survey.device_named("H200"), 3)
    notes = " ".join(foretold_table(found, name, "").notes)
    assert "timed on an H200 at EfficientNet-Lite0" in notes
    assert ("this network was not timed" in notes) is not timed
