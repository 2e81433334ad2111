"""Published architectures, small and with random weights, where their packages are installed."""

import logging
import socket
import time

import pytest
import torch

from benchmarks.parts.reach_child import describe
from benchmarks.problems.architectures import ARCHITECTURES
from jvpsvd import layer_map
from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model

RECORDED = [
    "transformers:GPT2",
    "transformers:Llama",
    "transformers:Mixtral",
    "transformers:Qwen2Moe",
    "transformers:Mamba",
    "transformers:Bert",
    "transformers:T5",
    "transformers:Whisper",
    "transformers:Wav2Vec2",
    "transformers:ViTModel",
    "transformers:Swinv2Model",
    "transformers:ConvNextModel",
    "timm:convnext_atto",
    "diffusers:UNet2DModel",
    "diffusers:UNet2DConditionModel",
    "diffusers:DiTTransformer2DModel",
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", RECORDED)
def test_a_family_is_recorded_and_right(name):
    pytest.importorskip(ARCHITECTURES[name].package)
    row = describe(name, times=False)
    assert row["outcome"] == "recorded", row["reason"]
    assert row["error_float32"] < 1e-5
    assert row.get("error_float64", 0) < 1e-6
    assert not [line for line in row["said"] if "[transformers]" not in line]


@pytest.mark.filterwarnings("default")
def test_weights_that_a_network_rescales_stay():
    pytest.importorskip("transformers")
    problem = ARCHITECTURES["transformers:Rwkv"].make()
    layer_map(problem.model, problem.x, problem.to, problem.since)  # it rescales them once
    before = {name: weight.clone() for name, weight in problem.model.named_parameters()}
    layer_map(problem.model, problem.x, problem.to, problem.since)
    for name, weight in problem.model.named_parameters():
        assert torch.equal(weight, before[name])


@pytest.fixture
def gpt2_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "cat", "dog", "sat"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
    )
    fast.save_pretrained(tmp_path / "gpt2")
    config = transformers.GPT2Config(
        vocab_size=6, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_a_local_folder_of_transformers_takes_texts(gpt2_folder):
    model = load_model(f"hf:{gpt2_folder}", since="transformer.drop")
    x = model.inputs.arguments("a cat sat")
    assert x["input_ids"][0, :4].tolist() == [2, 3, 5, 0]
    f, z = layer_map(model.module, x, to="output.logits", since=model.since)
    assert f(z).shape == (1, 32, 6)
    anew = [load_model(f"hf:{gpt2_folder}", random_weights=seed) for seed in (0, 0, 1)]
    hashes = [one.weights_sha256 for one in anew]
    assert hashes[0] == hashes[1] != hashes[2]
    assert model.weights_sha256 not in hashes


@pytest.mark.parametrize("name", ["./none", "/none/there", "~/none", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match=r"no model at .*: a folder of transformers holds config"):
        load_model(f"hf:{name}")


@pytest.mark.parametrize(("package", "name"), [("timm", "resnet18"), ("transformers", "gpt2")])
def test_without_a_network_a_hub_is_not_tried_for_long(package, name, monkeypatch):
    pytest.importorskip(package)

    def unreachable(*args, **kwargs):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    began = time.monotonic()
    with pytest.raises(ModelError, match=f"{package} cannot give '{name}'"):
        load_model(f"{'hf' if package == 'transformers' else package}:{name}")
    assert time.monotonic() - began < 20


def test_segmentation_downloads_no_backbone(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    model = load_model("torchvision:deeplabv3_resnet50", random_weights=0)
    assert model.photo_input.size == 520
    assert isinstance(model.module, torchvision.models.segmentation.DeepLabV3)


def test_lines_of_other_packages_are_not_shown_as_ours(capfd):
    from jvpsvd.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    logging.getLogger("another").warning("a line")
    assert "jvpsvd: a line" not in capfd.readouterr().err
