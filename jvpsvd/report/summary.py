"""Means over the photos of a run, depth by depth."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from jvpsvd.errors import RunError
from jvpsvd.report.values import RunValues, mean_of_known, read_values
from jvpsvd.survey import Store

_COUNT = 3  # where the table has k, if depths differ in it


@dataclass(frozen=True)
class DepthSummary:
    """All photos with values at one depth."""

    layer: str
    shape: tuple[int, int]
    """(m, n) of the Jacobian."""
    s: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    """(photos, k) singular values, descending along rows."""
    worst_residual: float
    """Largest residual over photos, relative to σ₁ of its photo."""
    defined_to: float
    """How well the Jacobians themselves are defined, over σ₁: the worst photo; NaN if unknown."""
    unconverged: int
    """Triplets, over photos, that missed the tolerance."""
    products: float
    """Forward and reverse products, mean over photos."""
    energy: float
    """Share of ‖J‖²_F that the k values hold, mean over photos."""
    seconds: float
    """Wall time, mean over photos."""
    failed: int
    """Photos without values."""
    below_residual: int = 0
    """Values, over photos, that are smaller than their own residual."""

    @property
    def photos(self) -> int:
        """Photos with values."""
        return self.s.shape[0]

    @property
    def dimension(self) -> float:
        """Count of σ ≥ 1, mean over photos (Mototake & Ikegami, section 6); at most k is seen."""
        return float((self.s >= 1).sum(axis=1).mean()) if self.photos else float("nan")


def summarize(store: Store) -> list[DepthSummary]:
    """Return one summary per depth of a run, in the order of the network.

    Raises:
        RunError: If rows cannot be read or do not belong to the spec.
    """
    run = read_values(store)
    if run.unreadable:
        raise RunError(run.unreadable[0])
    return summaries_of(run)


def summaries_of(run: RunValues) -> list[DepthSummary]:
    """Return one summary per depth of rows that are already read.

    Example: ``summaries_of(read_values(store))[-1].dimension``.
    """
    failed = Counter(failure.layer for failure in run.failures)
    return [
        DepthSummary(
            layer=depth.layer,
            shape=depth.shape,
            s=depth.s,
            worst_residual=float(depth.relative[depth.relative >= 0].max(initial=0.0)),
            defined_to=float(np.fmax.reduce(depth.defined_to, initial=np.nan)),
            unconverged=int((depth.s.shape[1] - depth.converged).sum()),
            products=mean_of_known(depth.products),
            energy=mean_of_known(depth.energy),
            seconds=mean_of_known(depth.seconds),
            failed=failed[depth.layer],
            below_residual=int(depth.below_residual.sum()),
        )
        for depth in run.depths
    ]


def table(store: Store, summaries: list[DepthSummary]) -> Table:
    """Return the summaries as a table for a terminal: means over photos, worst residuals."""
    counts = store.counts
    k = max(counts.values())
    differ = len({*counts.values()}) > 1
    below = any(depth.below_residual for depth in summaries)
    noise = "; σ < r: values below their own residual, of which only σ + r is known as a bound"
    made = Table(
        title=f"{store.identity.model}, k = {k}: means over photos",
        caption=f"residual: worst of all triplets, over σ1 (tol {store.identity.tol:g}); "
        "J moves: by so much over σ1 with rounding of the photo, at the worst photo; "
        f"2k = {2 * k} products is the least for k triplets of unknown vectors"
        f"{noise if below else ''}",
        title_justify="left",
        caption_justify="left",
    )
    made.add_column("depth", no_wrap=True)
    headings = (
        "m x n",
        "photos",
        *(["k"] if differ else []),
        "σ1",
        "σk" if differ else f"σ{k}",
        "σ ≥ 1",
        "energy",
        "residual",
        "J moves",
        "missed",
        "products",
        "s",
    )
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    if below:
        made.add_column("σ < r", justify="right", no_wrap=True)
    for depth in summaries:
        cells = depth_cells(depth)
        if differ:
            cells.insert(_COUNT, str(counts[depth.layer]))
        made.add_row(*cells, *([str(depth.below_residual)] if below and depth.photos else []))
    return made


def depth_cells(depth: DepthSummary) -> list[str]:
    """Return the cells of a depth, as far as it has photos with values."""
    failed = f" (+{depth.failed} failed)" if depth.failed else ""
    cells = [depth.layer, f"{depth.shape[0]} x {depth.shape[1]}", f"{depth.photos}{failed}"]
    if not depth.photos:
        return cells
    # A photo whose k values are all ≥ 1 may have more of them.
    hidden = depth.s.shape[1] < min(depth.shape) and bool((depth.s[:, -1] >= 1).any())
    at_least = "≥ " if hidden else ""
    energy = "—" if math.isnan(depth.energy) else f"{100 * depth.energy:.0f} %"
    return [
        *cells,
        f"{depth.s[:, 0].mean():.4g}",
        f"{depth.s[:, -1].mean():.4g}",
        f"{at_least}{depth.dimension:.4g}",
        energy,
        f"{depth.worst_residual:.0e}",
        "—" if math.isnan(depth.defined_to) else f"{depth.defined_to:.0e}",
        str(depth.unconverged),
        f"{depth.products:.0f}",
        f"{depth.seconds:.1f}",
    ]
