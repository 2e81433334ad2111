"""Estimates of dimension from whole spectra, each with what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.dimension import largest_gap
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.result import SVDResult
from jvpsvd.svd.spectrum import Spectrum


@dataclass(frozen=True)
class WholeDimensions:
    """Estimates of the dimension from all min(m, n) singular values of one operator."""

    count: Estimate
    """Number of values ≥ threshold (Mototake & Ikegami, section 6)."""
    participation: Estimate
    """(Σσ²)² / Σσ⁴."""
    entropy: Estimate
    """exp of the entropy of σ²/Σσ²."""
    stable_rank: Estimate
    """Σσ² / σ₁²."""
    gap: Estimate
    """d of the largest σ_d / σ_{d+1} among the known values; see `gap_ratio`."""
    gap_ratio: float
    """That ratio: near 1 the gap means nothing."""

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {estimate}"
            for name, estimate in (
                ("count", self.count),
                ("participation ratio", self.participation),
                ("entropy dimension", self.entropy),
                ("stable rank", self.stable_rank),
                ("largest gap", self.gap),
            )
        )


def whole_dimensions(result: SVDResult | Spectrum, threshold: float = 1.0) -> WholeDimensions:
    """Return every estimate of the dimension from the whole spectrum, with bounds and errors.

    `dimensions` takes the k values alone, from which the count is cut at k and the others are lower
    bounds. Here the values beyond the k-th enter by the random sample of the solve. Only the gap
    needs single values, so it is looked for among the known ones.

    Args:
        result: A result of `svds` for one operator, or its `spectrum`.
        threshold: Of the count.

    Raises:
        ArgumentError: If it is neither, a batch, or an operator of zeros; on a bad threshold.

    >>> import jvpsvd, torch
    >>> A = torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.1]))
    >>> print(whole_dimensions(jvpsvd.svds(A, 2)))  # doctest: +ELLIPSIS
    count: 3: all 4 values are known
    participation ratio: 3.005, ...: all 4 values are known
    entropy dimension: 3.017..., ...: all 4 values are known
    stable rank: 3.0025: all 4 values are known
    largest gap: 3: ratio 20 among 4 known values
    """
    spectrum = result.spectrum if isinstance(result, SVDResult) else result
    if not isinstance(spectrum, Spectrum):
        raise ArgumentError(
            f"whole_dimensions takes a result of svds or its spectrum, not {shown(result)}"
        )
    known = spectrum.values
    if not len(known) or float(known[0]) == 0:
        raise ArgumentError("no value above 0 is known, so the operator has no dimension")
    top, norm = float(known[0]), spectrum.schatten(2)
    square: dict[str, Any] = {
        name: (getattr(norm, name) / top) ** 2 for name in ("value", "low", "high")
    }
    error = 2 * norm.value * norm.standard_error / top**2
    gap, ratio = Estimate(0, 0, spectrum.size, basis="one known value has no gap"), 1.0
    if len(known) > 1:
        found = largest_gap(known, floor=max(spectrum.rounding / top, 1e-300))
        d, ratio = int(found.dimension), float(found.ratio)
        gap = Estimate(d, d, d, basis=f"ratio {ratio:.3g} among {len(known)} known values")
    return WholeDimensions(
        count=spectrum.count(threshold),
        participation=spectrum.participation_ratio(),
        entropy=spectrum.effective_rank(),
        stable_rank=replace(norm, **square, standard_error=error),
        gap=gap,
        gap_ratio=ratio,
    )
