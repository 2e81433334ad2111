"""What `imagenet_classes.py` holds spectra against: an untrained network, pixels, features."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.data import Sample, Shard, decode_photo, read_photos
from jvpsvd.geometry import average_space
from jvpsvd.networks import Model, depths, layer_map, weights_sha256
from jvpsvd.operators import Trace

FREQUENCIES = 24
Chosen = Sequence[tuple[Shard, Sample]]


def decoded(chosen: Chosen, model: Model) -> Iterator[tuple[Sample, Tensor]]:
    """Yield the samples with the inputs of the network, in the order in which they are given."""
    for shard, sample in chosen:
        for _, data in read_photos(shard, [sample]):
            yield sample, decode_photo(data, model.photo_input)


def untrained(model: Model, chosen: Chosen, seed: int = 0) -> Model:
    """Return the network with random weights, and batch norms that know these photos.

    Without the latter activations would vanish or explode through the depths.
    """
    inputs = [x for _, x in decoded(chosen[:: max(1, len(chosen) // 32)], model)]
    module = random_weights(copy.deepcopy(model.module).float(), torch.cat(inputs), seed)
    return Model(f"{model.spec}, untrained", module, model.photo_input, weights_sha256(module))


def random_weights(module: nn.Module, inputs: Tensor, seed: int = 0) -> nn.Module:
    """Return the module with random weights in place, and batch norms that know these inputs."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
            part.momentum = None  # the mean over all photos
            part.train()
    with torch.no_grad():
        module(inputs)
    return module.eval().requires_grad_(False)


def pixel_rows(x: Tensor) -> dict[str, np.ndarray]:
    """Return the mean and deviation of each channel, and the log power of each frequency."""
    image = x[0].double()
    colour = torch.cat([image.mean((1, 2)), image.std((1, 2))])
    grey = image.mean(0)
    window = torch.hann_window(len(grey), periodic=False, dtype=torch.float64)
    power = torch.fft.fft2((grey - grey.mean()) * window[:, None] * window).abs() ** 2
    steps = torch.fft.fftfreq(len(grey), dtype=torch.float64)
    radius = (steps[:, None] ** 2 + steps**2).sqrt()
    edges = torch.logspace(-2, np.log10(0.5), FREQUENCIES + 1, dtype=torch.float64)
    rings = [
        power[(radius >= low) & (radius < high)].mean() for low, high in itertools.pairwise(edges)
    ]
    spectrum = torch.stack(rings).nan_to_num(float(power.mean())).clamp_min(1e-12).log()
    return {"mean colour": colour.numpy(), "power spectrum": spectrum.numpy()}


def feature_rows(model: Model, chosen: Chosen) -> np.ndarray:
    """Return what the last linear layer of the network sees of each photo, (photos, features)."""
    pairs = list(decoded(chosen, model))
    names = [depth.name for depth in depths(model.module, pairs[0][1])]
    head = [name for name, part in model.module.named_modules() if isinstance(part, nn.Linear)][-1]
    f, _ = layer_map(model.module, pairs[0][1], to=names[names.index(head) - 1])
    with torch.no_grad():
        return torch.stack([f(x).flatten() for _, x in pairs]).double().numpy()


def head_distances(model: Model, classes: Sequence[int]) -> Tensor:
    """Return 1 − cosine of the rows that the last linear layer has for these classes.

    What left vectors at the logits could know without any photo: their entries are classes.
    """
    head = [part for part in model.module.modules() if isinstance(part, nn.Linear)][-1]
    weights = head.weight.detach().double()
    rows = nn.functional.normalize(weights - weights.mean(0), dim=1)[list(classes)]
    return (1 - rows @ rows.mT).clamp_min(0).fill_diagonal_(0)


def class_spaces(
    model: Model, chosen: Chosen, depth: str, k: int, d: int, out: Path
) -> dict[str, list[np.ndarray]]:
    """Return, for each class, the d main left and right directions of its average Gram.

    Each class is a file in `out`, and not computed again.
    """
    trace = None
    found: dict[str, list[np.ndarray]] = {"left": [], "right": []}
    for label in sorted({sample.label for _, sample in chosen}):
        file = out / f"spaces-{depth}-{label}.npz"
        if not file.exists():
            mine = [(shard, sample) for shard, sample in chosen if sample.label == label]
            results = []
            for _, x in decoded(mine, model):
                trace = trace or Trace(layer_map(model.module, x, to=depth)[0], x)
                J = JacobianOperator.from_linear_map(trace.at(x)[0])
                results.append(svds(J, k, tol=1e-4))
            s = [result.s for result in results]
            sides = {
                "left": average_space([r.U for r in results], s, d, unit_trace=True),
                "right": average_space([r.Vh.mT for r in results], s, d, unit_trace=True),
            }
            bases = {side: space.basis.float().numpy() for side, space in sides.items()}
            partial = file.with_suffix(".part.npz")
            np.savez(partial, **bases)
            partial.replace(file)
        with np.load(file) as stored:
            for side, bases_so_far in found.items():
                bases_so_far.append(stored[side])
    return found
