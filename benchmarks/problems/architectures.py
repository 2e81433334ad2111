"""Published architectures, small and with random weights: what `parts/reach.py` tries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.problems.language_architectures import (
    BART,
    SMALL,
    TEXT,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Architecture,
    Problem,
    tokenized,
    transformer,
)


def _seen(family: str, to: str, model: str = "", size: int = 32, **fields: Any) -> Architecture:
    """Return a model of transformers that sees an image."""
    model = model or f"{family}Model"
    config = fields.pop("config", f"{family}Config")

    def x() -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(1, 3, size, size)}

    make = transformer(config, model, x, to, None, **fields)
    return Architecture(model, "transformers", "vision", make)


def _heard(family: str, to: str, **fields: Any) -> Architecture:
    def x() -> dict[str, Tensor]:
        wave = torch.randn(1, 800)
        return {"input_values": wave, "attention_mask": torch.ones(1, 800, dtype=torch.long)}

    small = {
        **SMALL, "conv_dim": (16, 16, 16), "conv_stride": (5, 4, 2), "conv_kernel": (10, 8, 4),
        "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4, **fields,
    }  # fmt: skip
    make = transformer(f"{family}Config", f"{family}Model", x, to, None, **small)
    return Architecture(family, "transformers", "audio", make)


_SEEN = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def _whisper() -> Problem:
    package = importlib.import_module("transformers")
    config = package.WhisperConfig(
        **{**BART, "vocab_size": VOCABULARY, "num_mel_bins": 8, "max_source_positions": 20},
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = package.WhisperForConditionalGeneration(config).eval()
    ids = torch.randint(3, VOCABULARY, (1, 6))
    x = {"input_features": torch.randn(1, 8, 40), "decoder_input_ids": ids, "use_cache": False}
    return Problem(model, x, "output.logits")


def _audio_spectrogram() -> Problem:
    package = importlib.import_module("transformers")
    fields = {**_SEEN, "max_length": 48, "num_mel_bins": 16}
    config = package.ASTConfig(**fields)
    return Problem(
        package.ASTModel(config).eval(), {"input_values": torch.randn(1, 48, 16)},
        "output.last_hidden_state",
    )  # fmt: skip


def _encodec() -> Problem:
    package = importlib.import_module("transformers")
    config = package.EncodecConfig(num_filters=4, upsampling_ratios=[4, 2], hidden_size=16)
    return Problem(package.EncodecModel(config).eval().encoder, torch.randn(1, 1, 320))


_AUDIO = [
    _heard("Wav2Vec2", "output.last_hidden_state"),
    _heard("Hubert", "output.last_hidden_state"),
    _heard("WavLM", "output.last_hidden_state"),
    _heard("Data2VecAudio", "output.last_hidden_state"),
    Architecture("Whisper", "transformers", "audio", _whisper),
    Architecture("AST", "transformers", "audio", _audio_spectrogram),
    Architecture("Encodec", "transformers", "audio", _encodec),
]


def _clip_text() -> Problem:
    package = importlib.import_module("transformers")
    fields = {**SMALL, "projection_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
    model = package.CLIPTextModel(package.CLIPTextConfig(**fields)).eval()
    to = next(name for name, _ in model.named_modules() if name.endswith("encoder.layers.1"))
    return Problem(model, tokenized(), to, to.replace("encoder.layers.1", "embeddings"))


_SIGHT = [
    _seen("ViT", "output.last_hidden_state", **_SEEN),
    _seen("DeiT", "output.last_hidden_state", **_SEEN),
    _seen("Beit", "output.last_hidden_state", use_relative_position_bias=True, **_SEEN),
    _seen("Dinov2", "output.last_hidden_state", **_SEEN),
    _seen("Dinov2WithRegisters", "output.last_hidden_state", **_SEEN),
    _seen("CLIP", "output.last_hidden_state", "CLIPVisionModel", config="CLIPVisionConfig",
          **_SEEN),
    _seen("Siglip", "output.last_hidden_state", "SiglipVisionModel", config="SiglipVisionConfig",
          **_SEEN),
    _seen("Swin", "output.last_hidden_state", image_size=32, patch_size=2, embed_dim=16,
          depths=[2, 2], num_heads=[2, 4], window_size=4),
    _seen("Swinv2", "output.last_hidden_state", image_size=32, patch_size=2, embed_dim=16,
          depths=[2, 2], num_heads=[2, 4], window_size=4),
    _seen("ConvNext", "output.pooler_output", hidden_sizes=[8, 16], depths=[1, 2], num_stages=2),
    _seen("ConvNextV2", "output.pooler_output", hidden_sizes=[8, 16], depths=[1, 2], num_stages=2),
    _seen("ResNet", "output.pooler_output", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2]),
    _seen("RegNet", "output.pooler_output", embedding_size=8, hidden_sizes=[16, 32],
          depths=[1, 2], groups_width=8),
    _seen("Segformer", "output.last_hidden_state", hidden_sizes=[8, 16, 16, 32],
          num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1], size=64),
    _seen("MobileViT", "output.last_hidden_state", image_size=32, hidden_sizes=[16, 16, 16],
          neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32]),
    _seen("PoolFormer", "output.last_hidden_state", hidden_sizes=[8, 16, 16, 32],
          depths=[1, 1, 1, 1], size=64),
    _seen("Hiera", "output.last_hidden_state", image_size=[64, 64], embed_dim=8,
          num_heads=[1, 2, 4, 8], depths=[1, 1, 2, 1], mask_unit_size=[4, 4], size=64),
    Architecture("CLIPTextModel", "transformers", "text", _clip_text),
]  # fmt: skip


def _timm(name: str, size: int = 64, to: str = "output", **options: Any) -> Architecture:
    def make() -> Problem:
        model = importlib.import_module("timm").create_model(name, pretrained=False, **options)
        return Problem(model.eval(), torch.randn(1, 3, size, size), to)

    return Architecture(name, "timm", "vision", make)


_TIMM = [
    _timm("vit_tiny_patch16_224", img_size=64, depth=2),
    _timm("deit_tiny_patch16_224", img_size=64, depth=2),
    _timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=48, num_heads=4),
    _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    _timm("vit_small_patch14_dinov2", 56, img_size=56, depth=2),
    _timm("swin_tiny_patch4_window7_224", img_size=64, embed_dim=24, depths=(1, 1, 2, 1),
          window_size=4),
    _timm("swinv2_tiny_window8_256", img_size=64, embed_dim=24, depths=(1, 1, 2, 1),
          window_size=4),
    _timm("convnext_atto", depths=(1, 1, 2, 1)),
    _timm("convnextv2_atto", depths=(1, 1, 2, 1)),
    _timm("maxvit_rmlp_pico_rw_256", img_size=64, to="stages.1"),
    _timm("coatnet_pico_rw_224", img_size=64, to="stages.1"),
    _timm("ghostnet_050", to="blocks.5"),
    _timm("mobilenetv2_050"),
    _timm("mobilenetv3_small_050"),
    _timm("mobileone_s0", to="stages.1"),
    _timm("regnety_002"),
    _timm("resnetv2_50", to="stages.1"),
    _timm("nf_resnet50", to="stages.1"),
    _timm("mixer_s32_224", img_size=64, to="blocks.1"),
    _timm("resmlp_12_224", img_size=64, to="blocks.1"),
    _timm("xcit_nano_12_p16_224", img_size=64, depth=2),
    _timm("cait_xxs24_224", img_size=64, depth=2),
    _timm("poolformer_s12", to="stages.1"),
    _timm("davit_tiny", embed_dims=(24, 24, 48, 48), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    _timm("convmixer_768_32", to="blocks.1"),
    _timm("twins_svt_small", img_size=64, embed_dims=(16, 32, 32, 64), depths=(1, 1, 1, 1)),
]  # fmt: skip


def _torchvision(name: str, size: int = 64, to: str = "output", **options: Any) -> Architecture:
    def make() -> Problem:
        models = importlib.import_module("torchvision.models")
        model = models.get_model(name, weights=None, **options)
        return Problem(model.eval(), torch.randn(1, 3, size, size), to)

    return Architecture(name, "torchvision", "vision", make)


def _channels_last() -> Problem:
    models = importlib.import_module("torchvision.models")
    model = models.get_model("resnet18", weights=None).eval()
    layout = torch.channels_last
    x = torch.randn(1, 3, 64, 64).to(memory_format=layout)
    return Problem(model.to(memory_format=layout), x)


_TORCHVISION = [
    _torchvision("alexnet"),
    _torchvision("vgg11", 32, "features.10"),
    _torchvision("resnet18"),
    _torchvision("resnext50_32x4d", to="layer2"),
    _torchvision("densenet121", to="features.denseblock1"),
    _torchvision("googlenet", to="inception4a", init_weights=False, aux_logits=False),
    _torchvision("inception_v3", 96, "Mixed_5d", init_weights=False, aux_logits=False),
    _torchvision("squeezenet1_1"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("mnasnet0_5"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("efficientnet_b0", 32, "features.4"),
    _torchvision("regnet_y_400mf", 32, "trunk_output.block2"),
    _torchvision("convnext_tiny", 32, "features.3"),
    _torchvision("vit_b_32", 32, "encoder.layers.encoder_layer_0", image_size=32),
    _torchvision("swin_t", 32, "features.2"),
    _torchvision("swin_v2_t", 32, "features.2"),
    _torchvision("deeplabv3_resnet50", 32, "backbone.layer1", weights_backbone=None),
    _torchvision("fcn_resnet50", 32, "backbone.layer1", weights_backbone=None),
    _torchvision("lraspp_mobilenet_v3_large", 32, "classifier", weights_backbone=None),
    Architecture("resnet18, channels last", "torchvision", "vision", _channels_last),
]


def _diffusion(
    model: str, x: Callable[[], dict[str, Any]], to: str, part: str = "", **fields: Any
) -> Architecture:
    def make() -> Problem:
        whole = getattr(importlib.import_module("diffusers"), model)(**fields)
        return Problem(whole.get_submodule(part).eval(), x(), to)

    return Architecture(model, "diffusers", "diffusion", make)


def _noise(channels: int = 4, **more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"sample": torch.randn(1, channels, 16, 16), "timestep": torch.tensor(7), **more}


def _conditioned(name: str, channels: int = 4, **more: Any) -> Callable[[], dict[str, Any]]:
    def x() -> dict[str, Any]:
        words = torch.randn(1, 6, WIDTH)
        step = torch.tensor([7])
        made = {name: torch.randn(1, channels, 16, 16), "timestep": step}
        return {**made, "encoder_hidden_states": words, **more}

    return x


_BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


def _flux() -> Problem:
    package = importlib.import_module("diffusers")
    model = package.FluxTransformer2DModel(
        in_channels=8, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH,
        pooled_projection_dim=16, axes_dims_rope=(4, 6, 6), **_HEADS,
    ).eval()  # fmt: skip
    x = {
        "hidden_states": torch.randn(1, 16, 8), "encoder_hidden_states": torch.randn(1, 6, WIDTH),
        "pooled_projections": torch.randn(1, 16), "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(16, 3), "txt_ids": torch.zeros(6, 3),
    }  # fmt: skip
    return Problem(model, x, "transformer_blocks.0[1]")


_DIFFUSION = [
    _diffusion("UNet2DModel", _noise(), "mid_block", sample_size=16, in_channels=4, out_channels=4,
               down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=8,
               up_block_types=("AttnUpBlock2D", "UpBlock2D"), **_BLOCKS),
    _diffusion("UNet2DConditionModel", _conditioned("sample"), "mid_block", sample_size=16,
               down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8,
               up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
               **_BLOCKS),
    _diffusion("DiTTransformer2DModel",
               lambda: {"hidden_states": torch.randn(1, 4, 16, 16),
                        "timestep": torch.tensor([7]), "class_labels": torch.tensor([3])},
               "transformer_blocks.1", num_layers=2, sample_size=16, patch_size=4, in_channels=4,
               out_channels=4, norm_num_groups=8, num_embeds_ada_norm=10, **_HEADS),
    _diffusion("PixArtTransformer2DModel", _conditioned("hidden_states"), "transformer_blocks.1",
               num_layers=2, sample_size=16, patch_size=4, caption_channels=WIDTH,
               cross_attention_dim=WIDTH, norm_num_groups=8, **_HEADS),
    _diffusion("SD3Transformer2DModel",
               _conditioned("hidden_states", 16, pooled_projections=torch.zeros(1, 16)),
               "transformer_blocks.0[1]", sample_size=16, patch_size=4, num_layers=2,
               joint_attention_dim=WIDTH, caption_projection_dim=WIDTH, pooled_projection_dim=16,
               **_HEADS),
    Architecture("FluxTransformer2DModel", "diffusers", "diffusion", _flux),
    _diffusion("AutoencoderKL", lambda: {"sample": torch.randn(1, 3, 16, 16)}, "output.sample",
               down_block_types=("DownEncoderBlock2D",) * 2,
               up_block_types=("UpDecoderBlock2D",) * 2, **_BLOCKS),
    _diffusion("VQModel", lambda: {"sample": torch.randn(1, 3, 16, 16)}, "encoder",
               down_block_types=("DownEncoderBlock2D",) * 2,
               up_block_types=("UpDecoderBlock2D",) * 2, **_BLOCKS),
    # Between its encoder and its decoder are bytes, and floats in float32 whatever the dtype.
    _diffusion("AutoencoderTiny", lambda: {"x": torch.randn(1, 3, 16, 16)}, "output", "encoder",
               encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
               num_encoder_blocks=(1, 2), num_decoder_blocks=(2, 1)),
]  # fmt: skip


def _recurrent(kind: str, **options: Any) -> Architecture:
    def make() -> Problem:
        model = getattr(nn, kind)(8, 16, num_layers=2, batch_first=True, **options)
        return Problem(model.eval(), torch.randn(1, 12, 8), "output[0]")

    name = f"{kind}, bidirectional" if options else kind
    return Architecture(name, "torch", "recurrent", make)


def _encoder_of_torch() -> Problem:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    return Problem(model, torch.randn(1, TOKENS, WIDTH))


def _transformer_of_torch() -> Problem:
    model = nn.Transformer(WIDTH, 4, 1, 1, 64, batch_first=True).eval()
    return Problem(model, (torch.randn(1, TOKENS, WIDTH), torch.randn(1, 4, WIDTH)))


_TORCH = [
    _recurrent("RNN"),
    _recurrent("GRU"),
    _recurrent("LSTM"),
    _recurrent("LSTM", bidirectional=True),
    Architecture("TransformerEncoder", "torch", "text", _encoder_of_torch),
    Architecture("Transformer", "torch", "text", _transformer_of_torch),
]

ARCHITECTURES: Mapping[str, Architecture] = {
    f"{one.package}:{one.name}": one
    for one in (*_TORCH, *TEXT, *_AUDIO, *_SIGHT, *_TIMM, *_TORCHVISION, *_DIFFUSION)
}
"""Every architecture, by the package and its name."""
