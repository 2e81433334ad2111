"""Plots of spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jvpsvd.errors import ArgumentError

if TYPE_CHECKING:
    from jvpsvd.studies.network_spectra import NetworkSpectra

_INKS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#4a4a4a")


def plot_spectra(spectra: NetworkSpectra, axes: Any) -> Any:
    """Draw the mean spectrum of every depth on axes of matplotlib, and return these.

    Raises:
        ArgumentError: If matplotlib is not installed.
    """
    if axes is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ArgumentError("plots need matplotlib; pip install 'jvpsvd[plot]'") from error
        axes = pyplot.figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
    for number, depth in enumerate(spectra.depths):
        index = range(1, depth.k + 1)
        mean, std = depth.mean, depth.std
        ink = _INKS[number % len(_INKS)]
        axes.plot(index, mean, color=ink, label=depth.layer, linewidth=1.4)
        low = (mean - std).clamp_min(float(mean[mean > 0].min()) if bool((mean > 0).any()) else 0.0)
        axes.fill_between(index, low, mean + std, color=ink, alpha=0.18, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlabel("index")
    axes.set_ylabel("singular value: mean ± standard deviation")
    axes.set_title(f"{spectra.model}, {len(spectra.depths[0])} inputs", fontsize=10)
    # A name that begins with an underscore would be left out of a legend.
    lines = axes.get_lines()[-len(spectra.depths) :]
    axes.legend(lines, [depth.layer for depth in spectra.depths], frameon=False)
    return axes
