"""How far a vector over an image is spread out: on one pixel, on a patch, or everywhere.

Mototake & Ikegami (section 7, figure 9) see that singular vectors of large values are local and
those of small ones spread over the image. Here that is a number for each vector, of its energy over
the pixels, p = Σ_channels v² / ‖v‖²: how many pixels it lives on (1/Σp², or the exponential of the
entropy) and how far from each other they lie (RMS radius about the centre of mass). The two differ:
two lit corners are few pixels, far apart.

What nothing at all would give is no image full of pixels. A random vector of C channels has a
chi-squared energy at each pixel and counts about C/(C+2) of them; see `random_spread`. And where
singular values lie close together, a computed vector is an arbitrary mixture of true ones, which is
more spread out than they are. Values are often closest at the end of a spectrum, so mixing alone
can make a trend: compare the vectors of one bin with random mixtures of them
(`tangent_directions` of the bin), which in that case look the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.special
import torch
from torch import Tensor

from jvpsvd.arguments import whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import Array, real_tensor
from jvpsvd.geometry.tangents import singular_space
from jvpsvd.svd.result import SVDResult

# Entries that are held in float64 at once.
_ENTRIES_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Spread:
    """Measures of one vector, () tensors, or of k vectors, (k,); float64."""

    participation: Tensor
    """1/Σp², pixels: 1 for one pixel, H·W for a uniform image."""
    entropy: Tensor
    """exp(−Σ p log p), pixels: the same of these two, else more than the participation."""
    centre: Tensor
    """(2,) or (k, 2) centre of mass, row and column, in pixels from the first pixel's middle."""
    radius: Tensor
    """√Σ p |r − centre|², pixels: 0 for one pixel."""
    pixels: int
    """H·W."""
    uniform_radius: float
    """Radius of a uniform image, √((H² + W² − 2) / 12)."""

    @property
    def share(self) -> Tensor:
        """Participation over H·W, from 1/(H·W) to 1."""
        return self.participation / self.pixels

    @property
    def entropy_share(self) -> Tensor:
        """exp(entropy) over H·W, from 1/(H·W) to 1."""
        return self.entropy / self.pixels


def spatial_spread(vectors: SVDResult | Array, shape: Sequence[int]) -> Spread:
    """Return how each vector is spread over the pixels of an image.

    Lengths and signs do nothing, nor does a rotation of the channels. A few vectors at a time are
    converted to float64; the rest stays as it is.

    Args:
        vectors: One (n,), or k as columns (n, k), of any length but 0; or a result of `svds`, of
            which the right vectors are taken. n entries are an image in the order of
            `image.flatten()`.
        shape: (C, H, W), or (H, W) for one channel; leading ones do nothing.

    Raises:
        ArgumentError: If the shape is none, n is not C·H·W, a vector is 0 or not finite.

    >>> corners = torch.zeros(5, 5)
    >>> corners[0, 0] = corners[4, 4] = -3.0
    >>> found = spatial_spread(corners.flatten(), (5, 5))
    >>> float(found.participation), round(float(found.entropy), 6), found.centre.tolist()
    (2.0, 2.0, [2.0, 2.0])
    >>> round(float(found.radius) ** 2), round(found.uniform_radius**2)
    (8, 4)
    """
    given, channels, height, width = _images(vectors, shape)
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in (height, width))
    parts = []
    for energy in _energies(given, channels, height, width):
        across, down = energy.sum(-1), energy.sum(-2)
        y, x = across @ rows.to(across), down @ columns.to(down)
        # About the centre: the difference of two large moments would round.
        squares = (across * (rows.to(across) - y[:, None]) ** 2).sum(-1)
        squares = squares + (down * (columns.to(down) - x[:, None]) ** 2).sum(-1)
        parts.append(
            (
                1 / (energy**2).sum((-2, -1)),
                (-torch.xlogy(energy, energy)).sum((-2, -1)).exp(),
                torch.stack([y, x], dim=-1),
                squares.sqrt(),
            )
        )
    several = len(given.shape) == 2
    participation, entropy, centre, radius = (
        torch.cat(measure) if several else measure[0][0] for measure in zip(*parts, strict=True)
    )
    return Spread(
        participation=participation,
        entropy=entropy,
        centre=centre,
        radius=radius,
        pixels=height * width,
        uniform_radius=_uniform(height, width),
    )


def pixel_energy(vectors: SVDResult | Array, shape: Sequence[int]) -> Tensor:
    """Return p = Σ_channels v² / ‖v‖² of each vector as (H, W) or (k, H, W), float64, to look at.

    Args:
        vectors: As in `spatial_spread`; all k maps are held at once.
        shape: (C, H, W) or (H, W).

    Raises:
        ArgumentError: As `spatial_spread` does.

    >>> pixel_energy(torch.tensor([1.0, 0.0, 1.0, 2.0]), (2, 1, 2))  # two channels of two pixels
    tensor([[0.3333, 0.6667]], dtype=torch.float64)
    """
    given, *image = _images(vectors, shape)
    energy = torch.cat(list(_energies(given, *image)))
    return energy[0] if len(given.shape) == 1 else energy


@dataclass(frozen=True)
class RandomSpread:
    """What an isotropic random vector has; standard deviations are of one vector."""

    participation: float
    """Mean of 1/Σp², pixels; about H·W·C/(C+2)."""
    participation_std: float
    """Standard deviation of that, to first order."""
    entropy: float
    """exp of the mean entropy, pixels."""
    radius: float
    """Root of the mean squared radius, pixels."""


def random_spread(shape: Sequence[int]) -> RandomSpread:
    """Return the spread of a random direction (Gaussian entries) over an image.

    The energies p of N = H·W pixels follow a Dirichlet distribution with α = C/2 each. With
    A = Nα, E Σp² = (α+1)/(A+1); E(−Σ p log p) = ψ(A+1) − ψ(α+1); and E radius² is that of a uniform
    image times A/(A+1), exactly. The mean of 1/Σp² is taken to second order in the deviation
    of Σp², whose variance is exact: good to a fraction of a percent from a hundred pixels on.

    Args:
        shape: (C, H, W) or (H, W).

    Raises:
        ArgumentError: If the shape is none.

    >>> found = random_spread((3, 224, 224))
    >>> round(found.participation / 224**2, 3), round(found.entropy / 224**2, 3)
    (0.6, 0.743)
    """
    channels, height, width = _image_shape(shape)
    pixels = height * width
    alpha, total = channels / 2, channels * pixels / 2
    mean = (alpha + 1) / (total + 1)
    # E (Σp²)² = N E p₁⁴ + N(N−1) E p₁²p₂², over E p₁² of which one factor is `mean`.
    rising = total * (total + 1) * (total + 2) * (total + 3)
    fourth = alpha * (alpha + 1) * (alpha + 2) * (alpha + 3)
    pairs = (alpha * (alpha + 1)) ** 2
    second = pixels * (fourth + (pixels - 1) * pairs) / rising
    relative = max(second / mean**2 - 1, 0.0)
    digamma = scipy.special.digamma
    return RandomSpread(
        participation=(1 + relative) / mean,
        participation_std=math.sqrt(relative) / mean,
        entropy=math.exp(digamma(total + 1) - digamma(alpha + 1)),
        radius=_uniform(height, width) * math.sqrt(total / (total + 1)),
    )


@dataclass(frozen=True)
class SpreadTrend:
    """A measure of spread against the index of the singular value, over photos."""

    index: Tensor
    """(bins,) middle of each bin, counted from 1 as singular values are."""
    mean: Tensor
    """(bins,) mean over photos of each photo's mean in the bin."""
    error: Tensor
    """(bins,) standard error of that mean; NaN with one photo."""
    photos: Tensor
    """(bins,) photos that have a value in the bin."""
    correlations: Tensor
    """(photos,) Spearman's rank correlation of spread with index: 1 if each vector is more spread
    out than the one before it."""
    correlation: float
    """Mean of these."""
    correlation_error: float
    """Standard error of that mean; NaN with one photo."""


def spread_trend(
    values: Array | Sequence[Array], *, bins: int | Sequence[int] | None = None
) -> SpreadTrend:
    """Return how a measure of spread goes with the index of the singular value.

    Photos are the independent draws, so errors are over photos. Neighbouring vectors of one photo
    are not independent of each other; a p-value of one photo's correlation would be too small.

    Args:
        values: (photos, k) of one of the measures of `Spread`, in the order of the singular values;
            or one (k_i,) for each photo, where photos have different numbers of triplets that
            converged.
        bins: How many bins of about equal width; or the first index, from 1 on, of each bin, the
            last of which is open. None: a bin for each index.

    Raises:
        ArgumentError: If a photo has fewer than two values, or all the same; if bins do not rise
            from 1 on, or there are more than values.

    >>> trend = spread_trend([[1.0, 2.0, 4.0, 8.0], [3.0, 2.0, 4.0, 8.0]], bins=2)
    >>> trend.index.tolist(), trend.mean.tolist(), trend.error.tolist()
    ([1.5, 3.5], [2.0, 6.0], [0.5, 0.0])
    >>> [round(r, 6) for r in trend.correlations.tolist()], round(trend.correlation, 6)
    ([1.0, 0.8], 0.9)
    """
    photos = [real_tensor(f"values[{i}]", each).double().cpu() for i, each in enumerate(values)]
    if not photos:
        raise ArgumentError("values holds no photo; give one row for each")
    for i, each in enumerate(photos):
        if each.ndim != 1 or len(each) < 2 or bool((each == each[0]).all()):
            raise ArgumentError(
                f"values[{i}], of shape {tuple(each.shape)}, has no trend; give the measure of two "
                "or more vectors of one photo, not all the same"
            )
    longest = max(len(each) for each in photos)
    edges = _edges(bins, longest)
    means = torch.full((len(photos), len(edges)), math.nan, dtype=torch.float64)
    for i, each in enumerate(photos):
        for b, (start, stop) in enumerate(edges):
            if start < len(each):
                means[i, b] = each[start:stop].mean()
    count = (~means.isnan()).sum(0)
    mean = means.nanmean(0)
    squares = ((means - mean) ** 2).nansum(0)
    correlations = torch.tensor([_rank_correlation(each) for each in photos], dtype=torch.float64)
    return SpreadTrend(
        index=torch.tensor([(start + stop + 1) / 2 for start, stop in edges]),
        mean=mean,
        # One photo: 0 / 0.
        error=(squares / (count - 1) / count).sqrt(),
        photos=count,
        correlations=correlations,
        correlation=float(correlations.mean()),
        correlation_error=_standard_error(correlations),
    )


def _images(vectors: SVDResult | Array, shape: Sequence[int]) -> tuple[Array, int, int, int]:
    """Return the vectors, not yet looked at, and C, H, W."""
    image = _image_shape(shape)
    if isinstance(vectors, SVDResult):
        if vectors.s.ndim > 1:
            raise ArgumentError("a batch has vectors for each matrix; take result.of(i)")
        vectors = singular_space(vectors, vectors.s.shape[-1])
    given = vectors if isinstance(vectors, Tensor) else np.asarray(vectors)
    if given.ndim not in (1, 2) or given.shape[0] != math.prod(image):
        raise ArgumentError(
            f"vectors have shape {tuple(given.shape)}; for images of shape {tuple(shape)} give one "
            f"({math.prod(image)},) or several as columns ({math.prod(image)}, k)"
        )
    if given.ndim == 2 and given.shape[1] == 0:
        raise ArgumentError(f"vectors are empty, of shape {tuple(given.shape)}; give one or more")
    return given, *image


def _energies(given: Array, channels: int, height: int, width: int) -> Iterator[Tensor]:
    """Yield p (b, H, W) of a few vectors at a time."""
    block = given if given.ndim == 2 else given[:, None]
    at_once = max(1, _ENTRIES_AT_ONCE // block.shape[0])
    for start in range(0, block.shape[1], at_once):
        stop = min(start + at_once, block.shape[1])
        part = real_tensor(f"vectors[:, {start}:{stop}]", block[:, start:stop])
        rows = part.mT.to(torch.float64, memory_format=torch.contiguous_format, copy=True)
        largest = rows.abs().amax(dim=1, keepdim=True)
        if (largest == 0).any():
            which = start + int((largest == 0).flatten().nonzero()[0])
            raise ArgumentError(f"vector {which} is 0 and lies nowhere; leave it out")
        rows.div_(largest).square_()  # squares of tiny entries would vanish
        energy = rows.reshape(-1, channels, height, width).sum(1)
        yield energy / energy.sum((-2, -1), keepdim=True)


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    sizes = [whole_number(f"shape[{i}]", size, 1) for i, size in enumerate(shape)]
    while len(sizes) > 3 and sizes[0] == 1:
        sizes = sizes[1:]
    if len(sizes) not in (2, 3):
        raise ArgumentError(f"shape={tuple(shape)} must be (C, H, W) or (H, W)")
    channels = sizes[0] if len(sizes) == 3 else 1
    return channels, sizes[-2], sizes[-1]


def _uniform(height: int, width: int) -> float:
    return math.sqrt((height**2 + width**2 - 2) / 12)


def _edges(bins: int | Sequence[int] | None, longest: int) -> list[tuple[int, int]]:
    """Return where each bin starts and stops, counted from 0."""
    if isinstance(bins, Sequence):
        starts = [whole_number(f"bins[{b}]", first, 1, longest) - 1 for b, first in enumerate(bins)]
        if not starts or any(later <= before for before, later in pairwise(starts)):
            raise ArgumentError(f"bins={bins!r} must rise from one first index to the next")
    else:
        count = longest
        if bins is not None:
            count = whole_number("bins", bins, 1, longest, "the values there are")
        starts = [b * longest // count for b in range(count)]
    return list(pairwise([*starts, longest]))


def _rank_correlation(values: Tensor) -> float:
    from scipy.stats import rankdata  # a second to import, and only trends need it

    ranks = rankdata(values.numpy())
    return float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])


def _standard_error(values: Tensor) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std()) / math.sqrt(len(values))
