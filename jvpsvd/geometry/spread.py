"""The spatial spread of a vector over the pixels of an image.

Mototake & Ikegami (section 7, figure 9) observe that singular vectors of large values are local,
and that those of small values spread over the image. This module measures the spread of a vector v
by its energy at each pixel, p = Σ_channels v² / ‖v‖². The participation 1/Σp² and the exponential
of the entropy count the pixels that hold the energy. The RMS radius about the centre of mass tells
how far apart they lie. Both are needed: a vector on two opposite corners has few pixels and a large
radius.

Compare a spread with that of a random vector (`random_spread`), not with the whole image. A random
vector of C channels has chi-squared energies, and its participation is only about C/(C+2) of all
pixels.

Where singular values lie close together, a computed vector is an arbitrary linear combination of
true ones, and is more spread out than they are. Values are often closest at the end of a spectrum,
so this effect alone can produce a trend. To rule it out, compare the vectors of one bin with random
combinations of them (`tangent_directions` of the bin): if both have the same spread, the trend may
be this effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.results import Array, Vectors, right_vectors
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two, scaled_back

# Number of entries that are held in float64 at once.
_ENTRIES_AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class Spread(ComparedByFields):
    """Measures of one vector, as () tensors, or of k vectors, as (k,); float64."""

    participation: Tensor
    """1/Σp², in pixels: 1 for a single pixel, H·W for a uniform image."""
    entropy: Tensor
    """exp(−Σ p log p), in pixels: the participation if all non-zero p are equal, else more."""
    centre: Tensor
    """(2,) or (k, 2) row and column of the centre of mass, in pixels; pixel (0, 0) has its centre
    at 0."""
    radius: Tensor
    """√Σ p |r − centre|², in pixels: 0 for a single pixel."""
    pixels: int
    """Number of pixels, H·W."""
    uniform_radius: float
    """Radius of a uniform image, √((H² + W² − 2) / 12)."""

    @property
    def share(self) -> Tensor:
        """Participation divided by H·W, from 1/(H·W) to 1."""
        return self.participation / self.pixels

    @property
    def entropy_share(self) -> Tensor:
        """exp(entropy) divided by H·W, from 1/(H·W) to 1."""
        return self.entropy / self.pixels


def spatial_spread(vectors: Vectors, shape: Sequence[int]) -> Spread:
    """Return the spread of each vector over the pixels of an image.

    Norms and signs of the vectors do not matter, and neither do rotations of the channels. Only a
    few vectors at a time are converted to float64, to save memory.

    Args:
        vectors: One vector (n,), or k as columns (n, k), none of them 0; or a result of `svds`,
            whose right vectors are used. The n entries are in the order of `image.flatten()`.
        shape: (C, H, W), or (H, W) for one channel; leading dimensions of size 1 are ignored.

    Raises:
        ArgumentError: If the shape is not valid, n is not C·H·W, or a vector is 0 or not finite.

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
        # Moments about the centre: a difference of two large moments would lose digits.
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


def pixel_energy(vectors: Vectors, shape: Sequence[int]) -> Tensor:
    """Return p = Σ_channels v² / ‖v‖² of each vector as (H, W) or (k, H, W), float64, for plots.

    Args:
        vectors: As in `spatial_spread`; all k maps are held at once.
        shape: (C, H, W) or (H, W).

    Raises:
        ArgumentError: If `spatial_spread` raises it.

    >>> pixel_energy(torch.tensor([1.0, 0.0, 1.0, 2.0]), (2, 1, 2))  # two channels of two pixels
    tensor([[0.3333, 0.6667]], dtype=torch.float64)
    """
    given, *image = _images(vectors, shape)
    energy = torch.cat(list(_energies(given, *image)))
    return energy[0] if len(given.shape) == 1 else energy


@dataclass(frozen=True)
class RandomSpread:
    """The spread of an isotropic random vector; standard deviations are for one vector."""

    participation: float
    """Mean of 1/Σp², in pixels; about H·W·C/(C+2)."""
    participation_std: float
    """Standard deviation of 1/Σp², to first order."""
    entropy: float
    """exp of the mean entropy, in pixels."""
    radius: float
    """Root of the mean squared radius, in pixels."""


def random_spread(shape: Sequence[int]) -> RandomSpread:
    """Return the spread of a random direction (Gaussian entries) over an image.

    The energies p of N = H·W pixels follow a Dirichlet distribution with α = C/2 each. With
    A = Nα, E Σp² = (α+1)/(A+1); E(−Σ p log p) = ψ(A+1) − ψ(α+1); and E radius² is exactly A/(A+1)
    times that of a uniform image. The mean of 1/Σp² is expanded to second order in the deviation of
    Σp², whose variance is exact. Its error is a fraction of a percent for a hundred pixels or more.

    Args:
        shape: (C, H, W) or (H, W).

    Raises:
        ArgumentError: If the shape is not valid.

    >>> found = random_spread((3, 224, 224))
    >>> round(found.participation / 224**2, 3), round(found.entropy / 224**2, 3)
    (0.6, 0.743)
    """
    channels, height, width = _image_shape(shape)
    pixels = height * width
    alpha, total = channels / 2, channels * pixels / 2
    mean = (alpha + 1) / (total + 1)
    # E (Σp²)² = N E p₁⁴ + N(N−1) E p₁²p₂², here divided by `mean`.
    rising = total * (total + 1) * (total + 2) * (total + 3)
    fourth = alpha * (alpha + 1) * (alpha + 2) * (alpha + 3)
    pairs = (alpha * (alpha + 1)) ** 2
    second = pixels * (fourth + (pixels - 1) * pairs) / rising
    relative = max(second / mean**2 - 1, 0.0)
    from scipy.special import digamma  # it takes a while to load

    return RandomSpread(
        participation=(1 + relative) / mean,
        participation_std=math.sqrt(relative) / mean,
        entropy=math.exp(digamma(total + 1) - digamma(alpha + 1)),
        radius=_uniform(height, width) * math.sqrt(total / (total + 1)),
    )


@dataclass(frozen=True, eq=False)
class SpreadTrend(ComparedByFields):
    """A measure of spread as a function of the singular value's index, over photos."""

    index: Tensor
    """(bins,) middle index of each bin; indices of singular values count from 1."""
    mean: Tensor
    """(bins,) mean over photos of a photo's mean in the bin."""
    error: Tensor
    """(bins,) standard error of that mean; NaN with one photo."""
    photos: Tensor
    """(bins,) number of photos that have a value in the bin."""
    correlations: Tensor
    """(photos,) Spearman's rank correlation of spread and index: 1 if spread grows with every
    index."""
    correlation: float
    """Mean of the correlations."""
    correlation_error: float
    """Standard error of that mean; NaN with one photo."""


def spread_trend(
    values: Array | Sequence[Array], *, bins: int | Sequence[int] | None = None
) -> SpreadTrend:
    """Return how a measure of spread depends on the index of the singular value.

    Standard errors are taken over photos, because only photos are independent samples. Neighbouring
    vectors of one photo depend on each other, so a p-value of a single photo's correlation would be
    too small.

    Args:
        values: One measure of `Spread`, (photos, k), in the order of the singular values; or a
            (k_i,) for each photo, if photos have different numbers of converged triplets.
        bins: The number of bins, of about equal width; or the first index of each bin, counted from
            1, where the last bin is open. None: one bin for each index.

    Raises:
        ArgumentError: If a photo has fewer than two values, or all its values are the same; if
            first indices of bins do not rise, or there are more bins than values; if float64
            cannot hold an error.

    >>> trend = spread_trend([[1.0, 2.0, 4.0, 8.0], [3.0, 2.0, 4.0, 8.0]], bins=2)
    >>> trend.index.tolist(), trend.mean.tolist(), trend.error.tolist()
    ([1.5, 3.5], [2.0, 6.0], [0.5, 0.0])
    >>> [round(r, 6) for r in trend.correlations.tolist()], round(trend.correlation, 6)
    ([1.0, 0.8], 0.9)
    """
    if not isinstance(values, Sequence | Tensor | np.ndarray):
        raise ArgumentError(f"values is {shown(values)}; give a list of one row for each photo")
    if isinstance(values, Tensor | np.ndarray) and values.ndim == 0:
        raise ArgumentError("values is one number; give one row for each photo")
    photos = [real_tensor(f"values[{i}]", each).double().cpu() for i, each in enumerate(values)]
    if not photos:
        raise ArgumentError("values holds no photo; give one row for each")
    for i, each in enumerate(photos):
        if each.ndim != 1 or len(each) < 2 or bool((each == each[0]).all()):
            raise ArgumentError(
                f"values[{i}], of shape {tuple(each.shape)}, has no trend; give the measure of two "
                "or more vectors of one photo, not all the same"
            )
    correlations = torch.tensor([_rank_correlation(each) for each in photos], dtype=torch.float64)
    scale = max(power_of_two(each) for each in photos)  # so that squares stay in range
    photos = [each / scale for each in photos]
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
    return SpreadTrend(
        index=torch.tensor([(start + stop + 1) / 2 for start, stop in edges]),
        mean=mean * scale,
        # 0 / 0 for a single photo.
        error=scaled_back("errors", (squares / (count - 1) / count).sqrt(), scale),
        photos=count,
        correlations=correlations,
        correlation=float(correlations.mean()),
        correlation_error=_standard_error(correlations),
    )


def _images(vectors: Vectors, shape: Sequence[int]) -> tuple[Array, int, int, int]:
    """Return the vectors, not yet checked for zeros and NaN, and C, H, W."""
    image = _image_shape(shape)
    columns = right_vectors(vectors)
    is_tensor = isinstance(columns, Tensor)
    given = dense_tensor("vectors", columns) if is_tensor else np.asarray(columns)
    if not is_tensor and given.dtype == object:
        given = real_tensor("vectors", columns)
    if given.ndim not in (1, 2) or given.shape[0] != math.prod(image):
        raise ArgumentError(
            f"vectors have shape {tuple(given.shape)}; for images of shape {tuple(shape)} give one "
            f"({math.prod(image)},) or several as columns ({math.prod(image)}, k)"
        )
    if given.ndim == 2 and given.shape[1] == 0:
        raise ArgumentError(f"vectors are empty, of shape {tuple(given.shape)}; give one or more")
    return given, *image


def _energies(given: Array, channels: int, height: int, width: int) -> Iterator[Tensor]:
    """Yield p (b, H, W) for a few vectors at a time."""
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
        rows.div_(largest).square_()  # squares of tiny entries must not underflow
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
    """Return the range of indices of each bin, counted from 0."""
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
    from scipy.stats import rankdata  # imported here because it takes a second

    ranks = rankdata(values.numpy())
    return float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])


def _standard_error(values: Tensor) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std()) / math.sqrt(len(values))
