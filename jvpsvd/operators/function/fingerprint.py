"""Notice changes of tensors without copies of them.

A fingerprint is a sum over all words of a tensor, each times a fixed random number: another value
of any entry changes it, and so does another order. It reads the memory once and takes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

# Words that are multiplied at once: they stay in the cache of a core, and fill a GPU.
_WORDS, _WORDS_OF_GPU = 1 << 16, 1 << 22
# Entries of a sample, at least.
_SAMPLE = 1 << 10


def fingerprint(tensor: Tensor) -> Tensor:
    """Return whole numbers that change with any entry of a dense tensor.

    >>> weight = torch.ones(3)
    >>> before = fingerprint(weight)
    >>> weight.data[1] = 2.0
    >>> torch.equal(fingerprint(weight), before)
    False
    """
    at_once = _WORDS_OF_GPU if tensor.is_cuda else _WORDS
    key = _key(at_once, tensor.device)
    sums = [_sum(words, key) for words in _words(tensor, at_once)]
    return torch.stack(sums)


def sample_fingerprint(tensor: Tensor) -> Tensor:
    """Return a whole number that changes with some entries of a tensor, spread over all of it.

    >>> weight = torch.ones(10000)
    >>> before = sample_fingerprint(weight)
    >>> weight.data.mul_(-1)[:3]
    tensor([-1., -1., -1.])
    >>> torch.equal(sample_fingerprint(weight), before)
    False
    """
    flat = _in_memory_order(tensor)
    # Odd: a multiple of the width would stay in one column.
    some = flat[:: (flat.numel() // _SAMPLE) | 1].clone()
    return fingerprint(some)


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor has a fingerprint: whether its entries lie in memory as such."""
    plain = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return plain and not of_transform(tensor)


def of_transform(tensor: Tensor) -> bool:
    """Return whether a tensor is one of those that torch.func computes with, without memory.

    A module may keep one after the transform: an LSTM keeps the weights of its last call.

    >>> kept = []
    >>> _ = torch.vmap(lambda x: kept.append(x) or x)(torch.ones(2))
    >>> of_transform(kept[0]), of_transform(torch.ones(2))
    (True, False)
    """
    if tensor.layout != torch.strided:
        return False
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return True
    return False


def _words(tensor: Tensor, at_once: int) -> Iterator[Tensor]:
    """Yield the memory of a tensor as int64, so many at once; the last one ends with zeros."""
    flat = _in_memory_order(tensor).view(torch.uint8)
    aligned = flat.storage_offset() % 8 == 0
    for part in torch.split(flat, 8 * at_once):
        missing = -part.numel() % 8
        if missing:
            part = torch.nn.functional.pad(part, (0, missing))
        elif not aligned:
            part = part.clone()
        yield part.view(torch.int64)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return a tensor as one row, a view of it where it fills its memory."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    order = sorted(range(plain.ndim), key=plain.stride, reverse=True)
    return plain.permute(order).reshape(-1)


def _sum(words: Tensor, key: Tensor) -> Tensor:
    # The upper half is mixed into the lower one: signs of float64 are the topmost bits, and an
    # even number of these would leave a product's sum modulo 2⁶⁴ as it is.
    mixed = words >> 32
    mixed.bitwise_xor_(words).mul_(key[: words.numel()])
    return mixed.sum()


@cache
def _key(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    whole = torch.iinfo(torch.int64)
    key = torch.randint(whole.min, whole.max, (count,), generator=generator, device="cpu")
    return key.to(device)
