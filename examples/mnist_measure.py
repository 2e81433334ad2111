"""What `mnist_dbn.py` measures: spectra, tangents and coordinates of a network at many digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from jvpsvd import JacobianOperator, SVDResult, svds
from jvpsvd.data.deformations import DEFORMATIONS, deformation_tangents
from jvpsvd.data.mnist import SIDE, Digits
from jvpsvd.geometry import energy_shares, mean_overlap, pairwise_overlaps, pca_basis, transport

TOGETHER = 10
KEPT = 20
"""Leading singular vectors of each digit that are kept for comparisons."""
COORDINATES = 10
"""Dimension of the spaces that are compared."""
CONTROLS = 20
"""Random directions, as many per digit."""


@dataclass(frozen=True)
class Observed:
    """A network at one depth, at every digit."""

    s: np.ndarray
    """(digits, k) singular values."""
    shares: np.ndarray
    """(digits, tangents, k) share of each tangent's energy in the top d right singular vectors."""
    controls: np.ndarray
    """(digits, controls, k) the same of random directions."""
    U: Tensor
    """(digits, m, KEPT) leading left vectors."""
    V: Tensor
    """(digits, n, KEPT) leading right vectors."""


def layers_of(network: nn.Sequential) -> dict[str, nn.Sequential]:
    """Return the network up to each layer of units, by name."""
    ends = [i + 1 for i, layer in enumerate(network) if not isinstance(layer, nn.Linear)]
    names = [f"layer {i + 1}" for i in range(len(ends))]
    if len(network) > ends[-1]:
        ends.append(len(network))
        names.append("labels")
    return {name: network[:end] for name, end in zip(names, ends, strict=True)}


def single_layers(network: nn.Sequential) -> dict[str, tuple[nn.Sequential, nn.Sequential]]:
    """Return (what comes before, the layer alone) for each layer, by name."""
    whole = layers_of(network)
    starts = [0, *(len(part) for part in whole.values())]
    return {
        name: (network[:start], network[start : len(part)])
        for (name, part), start in zip(whole.items(), starts, strict=False)
    }


def triplets(part: nn.Sequential, points: Tensor, *, vectors: bool) -> Iterator[Any]:
    """Yield all singular triplets of the Jacobian of a part, of a few points at a time."""
    for X in points.split(TOGETHER):
        J = JacobianOperator(part, X, batch_dims=1)
        result = svds(J, min(J.shape[-2:]), method="exact", vectors=vectors)
        if not all(certificate.sound for certificate in result.certificates):
            raise SystemExit("a certificate is not sound")
        yield result


def observed(part: nn.Sequential, digits: Digits) -> Observed:
    """Return what the Jacobian from the input to the end of a part says at every digit."""
    images = digits.images
    tangents = deformation_tangents(images)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(len(images), CONTROLS, images.shape[1], generator=generator)
    s, shares, controls, U, V = [], [], [], [], []
    start = 0
    for result in triplets(part, images, vectors=True):
        here = slice(start, start + len(result.s))
        start = here.stop
        s.append(result.s)
        shares.append(_shares(result, tangents[here]))
        controls.append(_shares(result, random[here]))
        U.append(result.U[..., :KEPT])
        V.append(result.Vh[..., :KEPT, :].mT)
    return Observed(
        *(torch.cat(part).numpy() for part in (s, shares, controls)), torch.cat(U), torch.cat(V)
    )


def single_spectra(network: nn.Sequential, digits: Digits) -> dict[str, np.ndarray]:
    """Return the singular values of each layer's own Jacobian J(t), (digits, k)."""
    found = {}
    with torch.no_grad():
        points = {n: before(digits.images) for n, (before, _) in single_layers(network).items()}
    for name, (_, layer) in single_layers(network).items():
        results = triplets(layer, points[name], vectors=False)
        found[name] = torch.cat([result.s for result in results]).numpy()
    return found


def class_pca_shares(train: Digits, digits: Digits) -> np.ndarray:
    """Return the share of each tangent's energy in the top d principal axes of its class."""
    tangents = deformation_tangents(digits.images)
    shares = torch.zeros(len(digits), len(DEFORMATIONS), digits.images.shape[1])
    for label in digits.labels.unique():
        axes = pca_basis(train.images[train.labels == label][:1500])
        for index in (digits.labels == label).nonzero().flatten():
            curves = energy_shares(tangents[index].T, axes).T
            # Beyond the rank of the sample nothing is added.
            shares[index, :, : curves.shape[1]] = curves.float()
            shares[index, :, curves.shape[1] :] = curves[:, -1:].float()
    return shares.numpy()


def overlaps(spaces: Tensor, labels: Tensor, d: int = COORDINATES) -> dict[str, float]:
    """Return the mean overlap |Q_i' Q_j|² / d of spaces within a class, and across classes."""
    pairs = pairwise_overlaps(spaces[..., :d]).numpy()
    different = ~np.eye(len(pairs), dtype=bool)
    same = (labels[:, None] == labels[None, :]).numpy()
    return {
        "within": float(pairs[same & different].mean()),
        "across": float(pairs[~same].mean()),
        "random": d / spaces.shape[-2],
    }


def along(part: nn.Sequential, path: Tensor, d: int = COORDINATES) -> dict[str, list[float]]:
    """Return how the left and right spaces turn along a path of images, and carried frames in them.

    `left` and `right` are overlaps with the space at the beginning; `left frame` and `right frame`
    are mean cosines between the vectors of a frame carried along in parallel and themselves at the
    beginning.
    """
    found: dict[str, list[float]] = {}
    results = list(triplets(part, path, vectors=True))
    sides = {
        "left": torch.cat([result.U[..., :d] for result in results]).double(),
        "right": torch.cat([result.Vh[..., :d, :].mT for result in results]).double(),
    }
    for name, bases in sides.items():
        found[name] = [float(mean_overlap(bases[0], basis)) for basis in bases]
        found[f"{name} frame"] = transport(bases).start_cosines.mean(-1).tolist()
    return found


def rotated_path(image: Tensor, degrees: Sequence[float]) -> Tensor:
    """Return an image turned by each angle about its middle."""
    pixels = image.reshape(SIDE, SIDE).numpy()
    turned = [ndimage.rotate(pixels, angle, reshape=False, order=1) for angle in degrees]
    return torch.from_numpy(np.stack(turned)).clamp(0, 1).reshape(len(turned), -1)


def straight_path(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Return images from one to another, blended."""
    share = torch.linspace(0, 1, count)[:, None]
    return (1 - share) * first + share * last


def _shares(result: SVDResult, directions: Tensor) -> Tensor:
    """Return the shares of directions (B, t, n) in the top d right vectors of each digit."""
    return torch.stack([energy_shares(each.T, result.of(i)).T for i, each in enumerate(directions)])
