"""Published models of language, small and with random weights: a part of `architectures`.

Each is called as its users call it: a language model by the dict that its tokenizer returns, with
an attention mask, a diffusion model by noise, a step and what it is conditioned on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

VOCABULARY, TOKENS, WIDTH = 64, 10, 32


@dataclass(frozen=True)
class Problem:
    """A network at an input, between two of its depths."""

    model: nn.Module
    x: Any
    to: str = "output"
    since: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A published architecture."""

    name: str
    package: str
    """The package that it is from: transformers, timm, torchvision, diffusers or torch."""
    kind: str
    """text, vision, audio, diffusion or recurrent."""
    make: Callable[[], Problem] = field(repr=False)
    """Makes it, with random weights that `torch.manual_seed` decides."""


def tokenized(**more: Any) -> dict[str, Any]:
    """Return what a tokenizer returns for a sentence."""
    ids = torch.randint(3, VOCABULARY, (1, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


# Fields of configurations by the names that different models have for them.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


def transformer(
    config: str, model: str, x: Callable[[], Any], to: str, since: str | None, **fields: Any
) -> Callable[[], Problem]:
    """Return what makes a model of transformers from its configuration."""

    def make() -> Problem:
        package = importlib.import_module("transformers")
        made = getattr(package, model)(getattr(package, config)(**fields))
        return Problem(made.eval(), x(), to, since)

    return make


def _decoder(family: str, since: str, to: str = "output.logits", **fields: Any) -> Architecture:
    """Return a language model that is called as one that writes text is."""
    model = fields.pop("model", f"{family}ForCausalLM")
    config = fields.pop("config", f"{family}Config")
    name = fields.pop("name", family)
    fields = {**SMALL, **fields}
    make = transformer(config, model, lambda: tokenized(use_cache=False), to, since, **fields)
    return Architecture(name, "transformers", "text", make)


def _encoder(family: str, since: str, to: str, **fields: Any) -> Architecture:
    config, model = f"{family}Config", fields.pop("model", f"{family}Model")
    name = fields.pop("name", family)
    make = transformer(config, model, tokenized, to, since, **{**SMALL, **fields})
    return Architecture(name, "transformers", "text", make)


def _seq2seq(family: str, since: str, to: str, **fields: Any) -> Architecture:
    def x() -> dict[str, Any]:
        ids = torch.randint(3, VOCABULARY, (1, 6))
        return tokenized(decoder_input_ids=ids, use_cache=False)

    config, model = f"{family}Config", f"{family}ForConditionalGeneration"
    make = transformer(config, model, x, to, since, **{"vocab_size": VOCABULARY, **fields})
    return Architecture(fields.get("name", family), "transformers", "text", make)


BART = {
    "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
_T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_MIDDLE, _FED = "model.layers.0", "model.embed_tokens"
_GROUPED = {"num_key_value_heads": 2}


def _experts(**fields: Any) -> dict[str, Any]:
    return {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **fields}


TEXT = [
    _decoder("GPT2", "transformer.drop", model="GPT2LMHeadModel", n_embd=WIDTH, n_layer=2,
             n_head=4, bos_token_id=1, eos_token_id=2),
    _decoder("GPTNeo", "transformer.drop", hidden_size=WIDTH, num_layers=2, num_heads=4,
             attention_types=[[["global", "local"], 1]], window_size=4),
    _decoder("GPTJ", "transformer.drop", n_embd=WIDTH, n_layer=2, n_head=4, rotary_dim=4),
    _decoder("GPTNeoX", "gpt_neox.emb_dropout"),
    _decoder("GPTBigCode", "transformer.drop", n_embd=WIDTH, n_layer=2, n_head=4),
    _decoder("CodeGen", "transformer.drop", n_embd=WIDTH, n_layer=2, n_head=4, rotary_dim=4),
    _decoder("Llama", _FED, **_GROUPED),
    _decoder("Mistral", _FED, sliding_window=4, **_GROUPED),
    _decoder("Mixtral", _FED, num_local_experts=4, num_experts_per_tok=2, **_GROUPED),
    _decoder("Qwen2", _FED, **_GROUPED),
    _decoder("Qwen3", _FED, head_dim=8, **_GROUPED),
    _decoder("Qwen2Moe", _FED, **_experts(num_experts=4, shared_expert_intermediate_size=32)),
    _decoder("Qwen3Moe", _FED, head_dim=8, **_experts(num_experts=4)),
    _decoder("Olmoe", _FED, **_experts(num_experts=4)),
    _decoder("DeepseekV3", _FED, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
             qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=2, topk_group=1,
             first_k_dense_replace=1, **_experts(num_key_value_heads=4)),
    _decoder("GptOss", _FED, num_local_experts=4, head_dim=8, sliding_window=4,
             **{"num_key_value_heads": 2, "num_experts_per_tok": 2}),
    _decoder("Gemma", _FED, head_dim=8, **_GROUPED),
    _decoder("Gemma2", _FED, head_dim=8, sliding_window=4, **_GROUPED),
    _decoder("Gemma3Text", _FED, model="Gemma3ForCausalLM", config="Gemma3TextConfig",
             name="Gemma3", head_dim=8, sliding_window=4, **_GROUPED),
    _decoder("Phi", _FED),
    _decoder("Phi3", _FED, pad_token_id=0),
    _decoder("OPT", "model.decoder.embed_tokens", word_embed_proj_dim=WIDTH, ffn_dim=64,
             max_position_embeddings=64),
    _decoder("Bloom", "transformer.word_embeddings_layernorm", n_layer=2, n_head=4),
    _decoder("Falcon", "transformer.word_embeddings"),
    _decoder("Mpt", "transformer.wte", d_model=WIDTH, n_heads=4, n_layers=2, max_seq_len=64),
    _decoder("StableLm", _FED, num_key_value_heads=4),
    _decoder("Starcoder2", _FED, **_GROUPED),
    _decoder("Olmo", _FED, pad_token_id=1, eos_token_id=2),
    _decoder("Olmo2", _FED, pad_token_id=1, eos_token_id=2),
    _decoder("Cohere", _FED),
    _decoder("Granite", _FED),
    _decoder("Glm", _FED, head_dim=8, pad_token_id=0, **_GROUPED),
    _decoder("SmolLM3", _FED, pad_token_id=0, bos_token_id=1, eos_token_id=2, **_GROUPED),
    _decoder("Mamba", "backbone.embeddings", state_size=4),
    _decoder("Mamba2", "backbone.embeddings", state_size=8, head_dim=8, num_heads=8, n_groups=2,
             chunk_size=4),
    _decoder("FalconMamba", "backbone.embeddings", state_size=4),
    _decoder("Rwkv", "rwkv.embeddings", attention_hidden_size=WIDTH, context_length=32),
    _decoder("RecurrentGemma", _FED, lru_width=WIDTH, attention_window_size=4,
             block_types=["recurrent", "attention"], **_GROUPED),
    _decoder("Jamba", _FED, num_experts=2, mamba_d_state=4, mamba_dt_rank=4,
             use_mamba_kernels=False, attn_layer_period=2, attn_layer_offset=1,
             expert_layer_period=2, expert_layer_offset=1, **_GROUPED),
    _encoder("Bert", "embeddings", "encoder.layer.1"),
    _encoder("Roberta", "embeddings", "encoder.layer.1"),
    _encoder("XLMRoberta", "embeddings", "encoder.layer.1"),
    _encoder("Deberta", "embeddings", "output.last_hidden_state", relative_attention=True,
             pos_att_type=["c2p", "p2c"]),
    _encoder("DebertaV2", "embeddings", "output.last_hidden_state", relative_attention=True,
             pos_att_type=["c2p", "p2c"]),
    _encoder("Electra", "embeddings", "output.last_hidden_state", embedding_size=16),
    _encoder("Albert", "embeddings", "output.last_hidden_state", embedding_size=16),
    _encoder("DistilBert", "embeddings", "output.last_hidden_state", dim=WIDTH, n_layers=2,
             n_heads=4, hidden_dim=64),
    _encoder("MPNet", "embeddings", "output.last_hidden_state"),
    _encoder("XLNet", "word_embedding", "output.last_hidden_state", d_model=WIDTH, n_layer=2,
             n_head=4, d_inner=64),
    _encoder("ModernBert", "embeddings", "output.last_hidden_state", pad_token_id=0,
             global_attn_every_n_layers=2, local_attention=4),
    _encoder("Longformer", "embeddings", "output.last_hidden_state", attention_window=4),
    _encoder("FNet", "embeddings", "output.last_hidden_state"),
    _encoder("Esm", "embeddings", "output.last_hidden_state", pad_token_id=1,
             position_embedding_type="rotary"),
    _seq2seq("T5", "encoder.dropout@1", "output.logits", **_T5),
    _seq2seq("MT5", "encoder.dropout@1", "output.logits", **_T5),
    _seq2seq("Bart", "model.encoder.layernorm_embedding", "output.logits", **BART),
    _seq2seq("MBart", "model.encoder.layernorm_embedding", "output.logits", **BART),
]  # fmt: skip
