"""A survey visits modules by itself, and functions and parts of what modules return by name."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.shards import encoded

from jvpsvd import depths, layer_map
from jvpsvd.cli import cli
from jvpsvd.data import decode_photo
from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model
from jvpsvd.survey import choose_depths, depth_costs

FUNCTIONAL = """
import torch
from torch import nn
from jvpsvd.networks import PhotoInput


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 12)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return {"logits": self.head(x.flatten(1)), "features": x}


def net():
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = Net()
    torch.random.set_rng_state(generator)
    return model.eval(), PhotoInput(size=16, resize=18)
"""


@pytest.fixture
def model(tiny):
    (tiny / "functional.py").write_text(FUNCTIONAL)
    return load_model("functional:net")


def names(found):
    return [depth.name for depth in found]


@pytest.mark.parametrize("layers", [None, ["all"]])
def test_by_itself_it_visits_modules_that_return_a_tensor(model, layers):
    assert names(choose_depths(model, 5, layers)) == ["conv", "norm", "head"]
    example = torch.zeros(model.photo_input.shape)
    assert names(depths(model.module, example)) == [
        "conv", "norm", "relu", "flatten", "head", "output.logits", "output.features",
    ]  # fmt: skip


def test_it_visits_parts_if_there_is_nothing_else(tiny):
    (tiny / "alone.py").write_text(
        "from torch import nn\nfrom jvpsvd.networks import PhotoInput\n"
        "class Alone(nn.Flatten):\n"
        "    def forward(self, x):\n"
        "        return (super().forward(x),)\n"
        "def net():\n"
        "    return Alone().eval(), PhotoInput(size=4, resize=4)\n"
    )
    assert names(choose_depths(load_model("alone:net"), 5, None)) == ["output[0]"]


def test_any_depth_can_be_named_in_any_order(model):
    chosen = choose_depths(model, 5, ["output.logits", "relu", "conv"])
    assert names(chosen) == ["conv", "relu", "output.logits"]
    assert names(choose_depths(model, 5, "conv")) == ["conv"]
    assert choose_depths(model, 5, "all") == choose_depths(model, 5, ["all"])
    with pytest.raises(ModelError, match=r"no layer 'relu_1'.*did you mean relu") as caught:
        choose_depths(model, 5, ["relu_1"])
    assert "'jvpsvd layers --model functional:net --functions' lists them" in str(caught.value)
    with pytest.raises(ModelError, match=r"no layer 'output'.*did you mean output\.logits"):
        choose_depths(model, 5, ["output"])


def test_it_starts_at_a_function_whatever_is_listed(model):
    model = dataclasses.replace(model, since="relu")
    assert names(choose_depths(model, 5, None)) == ["head"]
    assert names(choose_depths(model, 5, ["head"])) == ["head"]
    modules = ["head", "output.logits", "output.features"]
    assert names(depth_costs(model, 5)) == modules
    assert names(depth_costs(model, 5, functions=True)) == ["flatten", *modules]


def test_rows_of_functions_and_parts_hold_the_true_spectra(surveyed, model, shard):
    layers = ["relu", "head", "output.logits"]
    rows = surveyed([shard], model="functional:net", layers=layers, vectors=True).store.rows()
    assert [(row.key, row.layer) for row in rows] == [
        (f"photo{i}", layer) for i in range(4) for layer in layers
    ]
    module = model.module.double()
    for row in rows:
        x = decode_photo(encoded(int(row.key[-1])), model.photo_input).double()
        f, z = layer_map(module, x, to=row.layer)
        truth = torch.linalg.svdvals(torch.func.jacrev(f)(z).reshape(-1, z.numel()).detach())
        np.testing.assert_allclose(row.s, truth[:10], atol=2e-6 * float(truth[0]))
        assert row.status == "ok"


def test_costs_are_of_modules_and_their_parts_unless_functions_are_asked_for(model):
    modules = ["conv", "norm", "head", "output.logits", "output.features"]
    assert names(depth_costs(model, 5)) == modules
    everything = depth_costs(model, 5, functions=True)
    assert names(everything) == [*modules[:2], "relu", "flatten", *modules[2:]]
    assert {cost.kind for cost in everything} >= {"function", "Net"}
    rows = {cost.name: cost for cost in everything}
    assert rows["relu"].units == rows["norm"].units == 64


def test_the_command_line_lists_functions_on_demand(model):
    def listed(*options):
        result = CliRunner().invoke(
            cli, ["layers", "--model", "functional:net", "-k", "5", *options]
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "relu" not in listed()
    assert "relu" in listed("--functions")
    record = json.loads(listed("--functions", "--json"))
    assert "flatten" in [layer["name"] for layer in record["layers"]]
