"""What `imagenet_depths.py` prints: every number behind its figures, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jvpsvd.geometry import participation_ratio, random_spread, spread_trend

Found = dict[str, list[dict[str, np.ndarray]]]
"""By depth, what was found at each photo."""
SHARES = (10, 100, 500)


def collect(photos: Sequence[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """Return one of the measures at every photo, stacked."""
    return np.stack([photo[name] for photo in photos])


def tell_spectra(spectra: Found) -> Iterator[str]:
    """Figure 8: the spectrum at every depth, and what of it is certified."""
    yield "figure 8: top singular values of J from the photo, mean ± deviation over photos"
    yield (
        "depth    units   photos |       σ1        "
        + "   ".join(f"σ{i}/σ1" for i in SHARES)
        + "   participation   σ ≥ 1 | converged  worst residual/σ1  complete  energy  products"
    )
    for depth, photos in spectra.items():
        s = collect(photos, "s")
        ratios = "  ".join(
            f"{(s[:, i - 1] / s[:, 0]).mean():.4f}" if i <= s.shape[1] else "   -  " for i in SHARES
        )
        dimension = participation_ratio(s).numpy()
        deviation = dimension.std(ddof=min(1, len(photos) - 1))
        converged = collect(photos, "converged").sum(1)
        worst = (collect(photos, "residuals") / s[:, :1]).max()
        yield (
            f"{depth:8} {int(photos[0]['shape'][0]):6} {len(photos):6}  | {s[:, 0].mean():7.2f} ± "
            f"{s[:, 0].std():6.2f}   {ratios}   {dimension.mean():6.1f} ± {deviation:4.1f}"
            f"   {'≥ ' if (s[:, -1] >= 1).any() else ''}{(s >= 1).sum(1).mean():5.1f} | "
            f"{converged.min():4} of {s.shape[1]}  {worst:.0e}   "
            f"{int(collect(photos, 'complete').sum()):2} of {len(photos)}   "
            f"{collect(photos, 'energy share').mean():5.1%}  "
            f"{collect(photos, 'products').mean():6.0f}"
        )


def tell_spread(spectra: Found) -> Iterator[str]:
    """Figure 9: how spread out right singular vectors are over the photo."""
    yield "figure 9: share of the pixels that a right singular vector lives on (1/Σp² over H·W)"
    yield (
        "depth    photos | first 20   last 20   the same, mixed at random   random vector | rank "
        "correlation with the index: pixels, entropy, radius"
    )
    for depth, photos in spectra.items():
        share = collect(photos, "participation")
        random = random_spread(photos[0]["image"].tolist())
        pixels = np.prod(photos[0]["image"][1:])
        trends = [correlation(photos, name) for name in ("participation", "entropy", "radius")]
        yield (
            f"{depth:8} {len(photos):5}   |   {share[:, :20].mean():.4f}    "
            f"{share[:, -20:].mean():.4f}     {collect(photos, 'first mixed').mean():.4f}   "
            f"{collect(photos, 'last mixed').mean():.4f}             "
            f"{random.participation / pixels:.3f}      |  {'   '.join(trends)}"
        )


def correlation(photos: Sequence[dict[str, np.ndarray]], name: str) -> str:
    """Return Spearman's correlation of a measure with the index, and its standard error."""
    trend = spread_trend(collect(photos, name))
    error = f" ± {trend.correlation_error:.3f}" if len(photos) > 1 else ", one photo"
    return f"{trend.correlation:+.3f}{error}"


def tell_steps(moved: Found, distances: Sequence[float], sets: Sequence[str]) -> Iterator[str]:
    """Claim I3: what a depth and the class do as the photo moves."""
    yield "steps from the photo: median |f(x + δ) − f(x)| / |f(x)| at the depth, by the length of δ"
    yield "depth       direction   " + "".join(f"{d:9g}" for d in distances) + " | linear up to"
    for depth, photos in moved.items():
        for name in sets:
            change, far = collect(photos, f"{name} change"), collect(photos, f"{name} range")
            yield (
                f"{depth:11} {name:11} "
                + "".join(f"{value:9.2g}" for value in np.median(change, (0, 1)))
                + f" | {np.median(far):9.2g}"
            )
    yield ""
    yield "share of steps after which the class is another, and, last, share of values out of range"
    for depth, photos in moved.items():
        for name in sets:
            flips = collect(photos, f"{name} flipped").mean((0, 1))
            outside = collect(photos, f"{name} outside").mean((0, 1))
            yield (
                f"{depth:11} {name:11} "
                + "".join(f"{value:9.2f}" for value in flips)
                + f" | {outside[-1]:.2f}"
            )


def band(values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the median and quartiles over photos and directions, (photos, directions, T)."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=(0, 1))
    return middle, low, high
