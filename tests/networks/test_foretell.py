"""What is foretold from shapes is what recordings hold, and nothing is allocated for it."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.problems.language_models import language_model
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import (
    Inputs,
    Model,
    PhotoInput,
    foretell_loads,
    load_model,
    shapes_of_hf,
    weight_bytes,
)
from jvpsvd.operators import Trace
from jvpsvd.survey import device_named, foretell

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDS = sorted(RESULTS.glob("large_models-*.json"))


def images():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1800, 50)).eval(), (1, 3, 32, 32)


def gpt2(tokens):
    net, width = language_model("gpt2", blocks=2, passed=1)
    return net, (tokens, width)


def llama():
    net, width = language_model("llama-1b", blocks=1, passed=1)
    return net, (64, width)


@pytest.mark.parametrize(
    "build",
    [lambda: gpt2(16), lambda: gpt2(256), llama, images],
    ids=["gpt2", "long", "llama", "cnn"],
)
def test_activations_are_those_of_a_recording(build):
    net, shape = build()
    net.requires_grad_(False)
    held = Trace(net, torch.randn(shape)).recording.bytes_of_point
    meta = net.to("meta")
    load = foretell_loads(meta, torch.empty(shape, device="meta"), ["output"])["output"]
    assert 0.8 * held <= load.activations <= 1.2 * held


@pytest.mark.parametrize("record", RECORDS, ids=lambda file: file.stem)
def test_memory_is_what_the_large_models_took(record):
    """Rows of GPT-2: weights, and what was kept above them, to 20 %."""
    rows = [row for row in json.loads(record.read_text())["rows"] if row.get("weight_bytes")]
    for row in rows:
        name, _, rest = row["problem"].partition(", ")
        if name != "gpt2" or not rest.endswith(" tokens"):
            continue
        with torch.device("meta"):
            net, width = language_model("gpt2")
            x = torch.empty(int(rest.split()[0]), width)
        load = foretell_loads(net, x, ["output"])["output"]
        assert weight_bytes(net) == row["weight_bytes"]
        assert 0.8 <= load.activations / row["tensor_bytes"] <= 1.2
        whole = row["weight_bytes"] + row["kept_bytes"]
        assert 0.8 <= (weight_bytes(net) + load.activations) / whole <= 1.2


def test_weights_of_any_precision_count_as_float32_and_tied_ones_once():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    assert weight_bytes(net.bfloat16()) == 800
    net[1].weight = net[0].weight
    assert weight_bytes(net) == 400


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval()
    net[0].bias.requires_grad_(False)
    foretell_loads(net, torch.zeros(1, 4), ["0", "output"])
    assert [p.requires_grad for p in net.parameters()] == [True, False]
    assert not any(module._forward_hooks for module in net.modules())


def test_a_deeper_depth_holds_and_computes_more_and_since_counts_from_there():
    with torch.device("meta"):
        net, width = language_model("gpt2", blocks=3, passed=3)
        x = torch.empty(8, width)
    names = ["blocks.0", "blocks.1", "blocks.2"]
    loads = foretell_loads(net, x, names)
    for one, other in pairwise(names):
        assert loads[one].activations < loads[other].activations
        assert loads[one].flops < loads[other].flops
    later = foretell_loads(net, x, names[1:], since="blocks.0")
    assert later["blocks.1"].flops == loads["blocks.1"].flops - loads["blocks.0"].flops


def big():
    """A network of 4 TB, of which not a byte is there."""
    with torch.device("meta"):
        layers = [nn.Linear(1 << 17, 1 << 17, bias=False) for _ in range(60)]
        inputs = Inputs("npy", torch.empty(1, 1 << 17))
    return Model("big", nn.Sequential(*layers).eval(), PhotoInput(), "", inputs)


def test_a_network_that_no_machine_holds_is_told_to_not_fit():
    found = foretell(big(), device_named("H100"), 5, only_blocks=False)
    assert found.weights == 60 * (1 << 36)
    assert found.needed(found.depths[-1]) > found.device.memory
    seconds = [cost.seconds for cost in found.depths]
    assert seconds == sorted(seconds)
    twice = foretell(big(), device_named("80GiB 134TFLOPS"), 5, only_blocks=False)
    assert twice.depths[-1].seconds < seconds[-1]


def test_seconds_are_those_that_a_card_took():
    """The survey of the H200 at six depths, to a factor of 1.5."""
    pytest.importorskip("efficientnet_lite_pytorch")
    record = json.loads((RESULTS / "gpu-nvidia-h200.json").read_text())
    took = {
        row["problem"].removeprefix("survey/"): row["seconds"]["median"]
        for row in record["rows"]
        if row["kind"] == "survey"
    }
    model = load_model("efficientnet-lite0", random_weights=0)
    found = foretell(model, device_named("H200"), 500, 1e-4, only_blocks=False)
    seconds = {cost.name: cost.seconds for cost in found.depths if cost.name in took}
    assert len(took) == len(seconds) == 6
    for name, one in seconds.items():
        assert 1 / 1.5 <= one / took[name] <= 1.5, name


def test_few_triplets_take_at_least_the_steps_of_a_card():
    pytest.importorskip("efficientnet_lite_pytorch")
    model = load_model("efficientnet-lite0", random_weights=0)
    found = foretell(model, device_named("H100"), 20, 1e-4)
    assert all(cost.seconds > 0.05 for cost in found.depths)


@pytest.mark.parametrize("text", ["", "TPU", "80GiB", "60TFLOPS", "H100 lots", "-1GiB 1TFLOPS"])
def test_a_device_that_is_not_known_is_one_error(text):
    with pytest.raises(ArgumentError, match="is not known; write one of H200, H100, "):
        device_named(text)


def test_a_folder_of_transformers_is_read_without_weights(tmp_path):
    pytest.importorskip("transformers")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 9,
        "num_key_value_heads": 2, "vocab_size": 128,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = shapes_of_hf(f"hf:{tmp_path}", 32)
    assert model.since == "model.embed_tokens"
    found = foretell(model, device_named("H100"), 5)
    blocks = [cost for cost in found.depths if cost.name.startswith("model.layers.")]
    assert [(cost.inputs, cost.units) for cost in blocks] == [(32 * 64, 32 * 64)] * 9
