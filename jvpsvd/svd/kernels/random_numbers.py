"""Random numbers that are independent of those of the caller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

Seeds = int | tuple[int, ...]
"""One seed for all matrices of a batch, or one for each."""

Generators = torch.Generator | Sequence[torch.Generator]
"""Random numbers that all matrices of a batch share, or those of each matrix."""


def seeded_generator(seed: int) -> torch.Generator:
    """Return a generator whose numbers no `torch.manual_seed` of a small number gives.

    Weights and test matrices are often drawn after ``torch.manual_seed(0)``. From the same stream,
    a random start would be a function of the operator: no sample of all directions, which biases
    every estimate that rests on it.

    >>> a = torch.randn(2, generator=seeded_generator(0))
    >>> b = torch.randn(2, generator=torch.Generator().manual_seed(0))
    >>> bool(torch.equal(a, b))
    False
    """
    digest = hashlib.blake2b(f"jvpsvd {seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def seeded_generators(seeds: Seeds) -> Generators:
    """Return the generator of a seed, or those of several."""
    return seeded_generator(seeds) if isinstance(seeds, int) else [*map(seeded_generator, seeds)]


def draw_normal(generators: Generators, *shape: int, dtype: torch.dtype) -> Tensor:
    """Return normal random numbers, with a leading dimension where matrices have their own.

    Those of a matrix are the same in every batch.

    >>> draw_normal(seeded_generators((4, 7)), 3, dtype=torch.float32).shape
    torch.Size([2, 3])
    """
    if isinstance(generators, torch.Generator):
        return torch.randn(*shape, dtype=dtype, generator=generators)
    return torch.stack([torch.randn(*shape, dtype=dtype, generator=one) for one in generators])


def select_generators(generators: Generators, index: Tensor) -> Generators:
    """Return the random numbers of these matrices of a batch."""
    if isinstance(generators, torch.Generator):
        return generators
    return [generators[i] for i in index.tolist()]


def first_seed(seeds: Seeds) -> int:
    """Return the seed of what a whole batch has in common."""
    return seeds if isinstance(seeds, int) else seeds[0]


def derive_seed(seed: int, *names: int | str) -> int:
    """Return the seed of one of many inputs: a hash of a seed for all, and of what names the input.

    It is the same everywhere, and independent of which other inputs there are.

    >>> derive_seed(0, 1), derive_seed(0, "a.tar", "cat")
    (496539188991804929, 3466934421646034990)
    """
    text = json.dumps(["jvpsvd input", seed, *names])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2  # the perturbations take the next seed, too
