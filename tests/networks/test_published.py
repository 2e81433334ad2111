"""Published architectures, small and with random weights, where their packages are installed."""

import logging
import socket
import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from benchmarks.parts.reach_child import describe
from benchmarks.problems.architectures import ARCHITECTURES
from jvpsvd import JacobianOperator, layer_map
from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model, shapes_of_hf
from jvpsvd.survey.spec.depth_choice import list_depths

FAMILIES = {
    "recurrent": ["torch:GRU", "torch:LSTM"],
    "transformer of torch": ["torch:TransformerEncoder", "torch:Transformer"],
    "decoder": ["GPT2", "GPTNeoX", "Llama", "Gemma3", "Falcon"],
    "mixture of experts": ["Mixtral", "Qwen3Moe"],
    "state space": ["Jamba"],
    "encoder": ["Bert", "DebertaV2", "ModernBert", "FNet"],
    "encoder and decoder": ["T5", "Bart"],
    "sound": ["Wav2Vec2", "Whisper"],
    "vision transformer": ["ViTModel", "Dinov2Model"],
    "vision in levels": ["PoolFormerModel", "ConvNextModel"],
    "diffusion": ["diffusers:DiTTransformer2DModel", "diffusers:FluxTransformer2DModel"],
}
OF_IMAGES = {
    "torchvision:resnet18": {},
    "torchvision:mobilenet_v3_small": {},
    "torchvision:squeezenet1_1": {},
    "timm:vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "timm:convnext_atto": {"depths": (1, 1, 2, 1)},
    "timm:ghostnet_050": {},
}
# These compute in float32 inside, whatever their dtype: norms, rotary angles, steps of time.
FLOAT32_INSIDE = [
    *("Llama", "Gemma3", "Mixtral", "Qwen3Moe", "Jamba", "T5"),
    "diffusers:FluxTransformer2DModel",
]
QUIET = [
    "transformers:Mamba",
    "transformers:Swinv2Model",
    "diffusers:UNet2DConditionModel",
]


def in_float64(tree):
    return tree_map(lambda leaf: leaf.double() if is_floating(leaf) else leaf, tree)


def is_floating(leaf):
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def dense_jacobian(f, z):
    """By torch.func, of the floating tensors of z."""
    leaves, spec = tree_flatten(z)
    floating = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def of_floating(*values):
        given = dict(zip(floating, values, strict=True))
        return f(tree_unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)], spec))

    points = [leaves[i] for i in floating]
    with sdpa_kernel(SDPBackend.MATH):
        parts = torch.func.jacrev(of_floating, tuple(range(len(points))), chunk_size=64)(*points)
    blocks = zip(parts, points, strict=True)
    return torch.cat([part.detach().reshape(-1, x.numel()) for part, x in blocks], dim=1)


def assert_recorded_and_right(f, z, tolerance=1e-10):
    J = JacobianOperator(f, z, derivatives="trace")
    expected = dense_jacobian(f, z)
    v = torch.randn(J.shape[1], 2, dtype=J.dtype)
    assert (J.to_dense() - expected).norm() <= tolerance * expected.norm() > 0
    assert (J @ v - expected @ v).norm() <= tolerance * (expected @ v).norm()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for names in FAMILIES.values() for name in names])
def test_a_family_is_recorded_and_right_in_float64(name):
    architecture = ARCHITECTURES[name if ":" in name else f"transformers:{name}"]
    pytest.importorskip(architecture.package)
    torch.manual_seed(0)
    problem = architecture.make()
    model, x = problem.model.double(), in_float64(problem.x)
    f, z = layer_map(model, x, to=problem.to, since=problem.since)
    assert_recorded_and_right(f, z, 1e-6 if name in FLOAT32_INSIDE else 1e-10)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_network_of_images_is_recorded_and_right_in_float64(name):
    package, _, short = name.partition(":")
    of_package = pytest.importorskip(package)
    torch.manual_seed(0)
    make = of_package.models.get_model if package == "torchvision" else of_package.create_model
    model = make(short, num_classes=8, **OF_IMAGES[name]).double().eval()
    assert_recorded_and_right(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", QUIET)
def test_a_recording_says_nothing(name):
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


def small_t5(transformers):
    config = transformers.T5Config(
        vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def small_clip(transformers):
    heads = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**heads, "vocab_size": 6, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**heads, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)
    return transformers.CLIPModel(config)


def small_sound(transformers):
    config = transformers.Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return transformers.Wav2Vec2Model(config)


OWN_FUNCTION = r"; load it in a function of your own that returns the network and its Inputs"


def test_an_encoder_and_decoder_needs_a_function_of_ones_own(gpt2_folder):
    transformers = pytest.importorskip("transformers")
    small_t5(transformers).save_pretrained(gpt2_folder)  # beside the tokenizer that is there
    model = load_model(f"hf:{gpt2_folder}")
    with pytest.raises(ModelError, match=rf"fails on the arguments .*{OWN_FUNCTION}"):
        list_depths(model, functions=False)
    with pytest.raises(ModelError, match=r"an encoder and a decoder.*leave --tokens out"):
        shapes_of_hf(f"hf:{gpt2_folder}", tokens=5)


@pytest.mark.parametrize(("make", "kind"), [(small_clip, "image processor"), (small_sound, "")])
def test_networks_of_neither_photos_nor_texts(make, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    make(transformers).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"finds no {kind}.*{OWN_FUNCTION}"):
        load_model(f"hf:{tmp_path}")
    if make is small_clip:
        with pytest.raises(ModelError, match="takes no tokens; leave --tokens out"):
            shapes_of_hf(f"hf:{tmp_path}", tokens=5)


@pytest.mark.parametrize("name", ["./none", "/none/there", "~/none", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    for load in (load_model, lambda spec: shapes_of_hf(spec, tokens=5)):
        with pytest.raises(ModelError, match=r"no model at .*: a folder of transformers holds con"):
            load(f"hf:{name}")


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


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "raft_small"])
def test_torchvision_networks_of_no_single_photo(name):
    pytest.importorskip("torchvision")
    with pytest.raises(ModelError, match=rf"something else than one photo.*{OWN_FUNCTION}"):
        load_model(f"torchvision:{name}", random_weights=0)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_the_network_that_was_meant_is_named(package):
    pytest.importorskip(package)
    with pytest.raises(ModelError, match=r"; did you mean resnet18\?$"):
        load_model(f"{package}:resent18", random_weights=0)


def test_lines_of_other_packages_are_not_shown_as_ours(capfd):
    from jvpsvd.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    logging.getLogger("another").warning("a line")
    assert "jvpsvd: a line" not in capfd.readouterr().err
