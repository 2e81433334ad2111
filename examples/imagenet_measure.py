"""What `imagenet_depths.py` measures at one photo: spectra and vectors, and steps away from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd import JacobianOperator, svds
from jvpsvd.geometry import (
    adversarial_direction,
    linearity_range,
    normal_directions,
    perturbation_response,
    random_directions,
    spatial_spread,
    tangent_directions,
)
from jvpsvd.networks import Model, layer_maps

TOL = 1e-3
BIN = 20
"""Singular vectors that are mixed at random, as a control of their spread."""
DISTANCES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Steps in the input, in L2; a photo of Lite0 is about 190 long."""
LOGITS = "output"
SETS = ("tangent", "leading", "normal", "random", "adversarial")


def spectrum_and_spread(J: JacobianOperator, x: Tensor, k: int) -> dict[str, np.ndarray]:
    """Return the spectrum with what is certified of it, and how spread out right vectors are."""
    result = svds(J, min(k, *J.shape), tol=TOL, on_unconverged="ignore")
    certificate, V = result.certificate, result.Vh.mT
    spread = spatial_spread(V, x.shape)
    found: dict[str, Any] = {
        "s": result.s,
        "residuals": result.residuals,
        "converged": result.converged,
        "sound": certificate.sound,
        "complete": certificate.complete,
        "energy share": certificate.energy_share,
        "products": sum((result.products.forward, result.products.reverse)),
        "seconds": result.seconds,
        "shape": (result.U.shape[0], len(V)),
        "image": x.shape[1:],
        "participation": spread.share,
        "entropy": spread.entropy_share,
        "radius": spread.radius / spread.uniform_radius,
        "pictures": V[:, [0, -1]].mT.reshape(2, *x.shape[1:]).half(),
    }
    # Computed vectors of close values are linear combinations of true ones. Does that spread them?
    for name, part in (("first", V[:, :BIN]), ("last", V[:, -BIN:])):
        mixed = spatial_spread(tangent_directions(part, part.shape[1]), x.shape)
        found[f"{name} mixed"] = mixed.share.mean()
    return {name: np.asarray(value) for name, value in found.items()}


def steps(
    model: Model, J: JacobianOperator, x: Tensor, depth: str, k: int, count: int
) -> dict[str, np.ndarray]:
    """Move a photo along the tangent and normal space of a depth, and in other directions."""
    result = svds(J, min(k, *J.shape), tol=TOL, on_unconverged="ignore")
    fn = layer_maps(model.module, x, [depth, LOGITS])
    of_depth = {
        "tangent": tangent_directions(result, count),
        "leading": tangent_directions(result, count, mixed=False),
        "normal": normal_directions(result, count),
        "random": random_directions(x.numel(), count),
        "adversarial": adversarial_direction(fn, x),
    }
    lower, upper = bounds(model)
    found = {"s": result.s, "converged": result.converged, "sound": result.certificate.sound}
    for name, directions in of_depth.items():
        response = perturbation_response(
            fn, x, directions, DISTANCES, lower=lower, upper=upper, batch=8
        )
        found |= {
            f"{name} change": response.relative[0],
            f"{name} logits": response.relative[1],
            f"{name} range": linearity_range(response)[0],
            f"{name} flipped": response.flipped,
            f"{name} outside": response.outside,
        }
    return {name: np.asarray(value) for name, value in found.items()}


def bounds(model: Model) -> tuple[Tensor, Tensor]:
    """Return what a photo's values can be as the network takes them, for each channel."""
    photo = model.photo_input
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (photo.mean, photo.std))
    return (0.0 - mean) / std, (255.0 / photo.scale - mean) / std
