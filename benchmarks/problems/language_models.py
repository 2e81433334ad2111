"""Language models of published shapes with random weights, in plain torch, from embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer, and how many of its blocks are passed."""

    width: int
    heads: int
    key_heads: int
    inner: int
    blocks: int
    passed: int
    """Blocks before the value; all of them, and the head, where it is `blocks`."""
    vocabulary: int


GPT2 = Shape(768, 12, 12, 3072, 12, 12, 50257)
GPT2_MEDIUM = Shape(1024, 16, 16, 4096, 24, 24, 50257)
LLAMA_1B = Shape(2048, 32, 4, 5632, 22, 15, 32000)
LLAMA_3B = Shape(3072, 24, 8, 8192, 28, 14, 128256)


class LanguageModel(nn.Module):
    """Blocks, a norm, and a head without a bias."""

    def __init__(
        self,
        shape: Shape,
        block: Callable[[Shape], nn.Module],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(shape) for _ in range(shape.blocks))
        self.norm = norm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.passed = shape.passed

    def forward(self, x: Tensor) -> Tensor:
        """Map embeddings (tokens, width) to logits, or to the value of a block."""
        for block in self.blocks[: self.passed]:
            x = block(x)
        return x if self.passed < len(self.blocks) else self.head(self.norm(x))


class Gpt2Block(nn.Module):
    """Attention and two linear layers, each added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, width = shape.heads, shape.width
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, shape.inner), nn.Linear(shape.inner, width)
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """Map (tokens, width) to the same."""
        q, k, v = (_by_heads(t, self.heads) for t in self.qkv(self.norm(x)).chunk(3, -1))
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(self.gelu(self.up(self.second_norm(x))))


class LlamaBlock(nn.Module):
    """Attention and a gated layer, each added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_heads = shape.heads, shape.key_heads
        width, each = shape.width, shape.width // shape.heads
        self.norm, self.second_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, each * shape.key_heads, bias=False)
        self.v = nn.Linear(width, each * shape.key_heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, shape.inner, bias=False)
        self.up = nn.Linear(width, shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (tokens, width) to the same."""
        y, groups = self.norm(x), self.heads // self.key_heads
        q = _rotate(_by_heads(self.q(y), self.heads))
        k = _rotate(_by_heads(self.k(y), self.key_heads)).repeat_interleave(groups, 1)
        v = _by_heads(self.v(y), self.key_heads).repeat_interleave(groups, 1)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        y = self.second_norm(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


def _by_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(1, x.shape[0], heads, -1).transpose(1, 2)


def _rotate(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    angles = torch.cat([angles, angles], -1)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


def gpt2(shape: Shape) -> LanguageModel:
    """Return GPT-2: layer norms, learned biases."""
    return LanguageModel(shape, Gpt2Block, nn.LayerNorm)


def llama(shape: Shape) -> LanguageModel:
    """Return Llama: RMS norms, rotary positions, grouped keys, gated layers."""
    return LanguageModel(shape, LlamaBlock, nn.RMSNorm)


MODELS: dict[str, tuple[Callable[[Shape], nn.Module], Shape]] = {
    "gpt2": (gpt2, GPT2),
    "gpt2-medium": (gpt2, GPT2_MEDIUM),
    "llama-1b": (llama, LLAMA_1B),
    "llama-3b": (llama, LLAMA_3B),
}


def language_model(
    name: str, *, passed: int | None = None, blocks: int | None = None, dtype: str = "float32"
) -> tuple[nn.Module, int]:
    """Return a model in evaluation mode, and its width.

    >>> model, width = language_model("gpt2", blocks=1, passed=0)
    >>> model(torch.ones(2, width)).shape
    torch.Size([2, 768])
    """
    build, shape = MODELS[name]
    count = blocks or shape.blocks
    through = (shape.passed if blocks is None else count) if passed is None else passed
    values = {**vars(shape), "blocks": count, "passed": through}
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        return build(Shape(**values)).eval(), shape.width
    finally:
        torch.set_default_dtype(before)
