"""Random points of several manifolds, each of them a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jvpsvd.arguments import whole_number
from jvpsvd.data.manifolds.manifold import Manifold, Points, check_amount, random_frame, rounded
from jvpsvd.errors import ArgumentError


def sample_classes(
    manifolds: Sequence[Manifold], count: int, generator: torch.Generator, noise: float = 0.0,
    dtype: torch.dtype = torch.float32, *, separation: float = 0.0, seed: int = 0,
) -> Points:  # fmt: skip
    """Return random points of several manifolds, each a class with a label and a centre of its own.

    Centres are `separation` times orthonormal random directions (seed), √2 · separation apart. The
    classes are disjoint if that exceeds the sum of their radii. Otherwise the caller must choose
    disjoint manifolds, such as different glyphs with separation 0.

    Raises:
        ArgumentError: If `Manifold.sample` raises it, or if the manifolds differ in dimension,
            ambient dimension or number of parameters.

    >>> from jvpsvd.data.manifolds import Torus
    >>> two = [Torus(ambient=9, seed=1), Torus(ambient=9, seed=2)]
    >>> sample_classes(two, 6, torch.Generator().manual_seed(0), separation=4.0).labels
    tensor([0, 1, 1, 0, 1, 1])
    """
    whole_number("count", count, 1)
    kinds = {(m.dimension, m.ambient, m.parameter_count) for m in manifolds}
    if len(kinds) != 1:
        raise ArgumentError(
            "classes need manifolds of equal dimension, ambient dimension and number of "
            f"parameters, got {sorted(kinds)}"
        )
    check_amount("separation", separation, zero=True)
    whole_number("number of classes", len(manifolds), 1, manifolds[0].ambient, "ambient")
    directions = random_frame(manifolds[0].ambient, len(manifolds), whole_number("seed", seed, 0))
    labels = torch.randint(len(manifolds), (count,), generator=generator)
    numbers = labels.bincount(minlength=len(manifolds)).tolist()
    parts = [
        manifold.sample(number, generator, noise, dtype)
        for manifold, number in zip(manifolds, numbers, strict=True)
        if number
    ]
    order = labels.argsort(stable=True).argsort()  # from classes' order to labels'
    points, clean, parameters, tangents = (
        torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("points", "clean", "parameters", "tangents")
    )
    shift = rounded("centres", separation * directions[:, labels].T, dtype)
    return Points(points + shift, clean + shift, parameters, tangents, labels)
