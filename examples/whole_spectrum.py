"""What a solve says about the values that it did not find: a step that falls between two nodes.

You learn: what the bounds of a count mean, and what narrows them.

A spectrum of 2000 values has a step: a third of them equal 0.5, the others lie in a smooth bulk
around them. Few steps of the recurrence leave open where the step is; more close in on it. The
figure shows the true count of values above a threshold, the staircase of the Gauss rule, and the
band of the Chebyshev–Markov–Stieltjes inequality with the estimate in its middle.

    python examples/whole_spectrum.py [--out docs/figures/whole-spectrum.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import jvpsvd

P, COPIES = 2000, 660
STEPS = (6, 14, 40)


def step_spectrum() -> torch.Tensor:
    """Return the values: copies of 0.5 and a bulk from 0 to 1."""
    bulk = torch.linspace(0, 1, P - COPIES, dtype=torch.float64).sqrt()
    copies = torch.full((COPIES,), 0.5, dtype=torch.float64)
    return torch.cat([copies, bulk]).sort(descending=True).values


def main() -> None:
    """Draw the figure, and print the counts on both sides of the step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/figures/whole-spectrum.png"))
    options = parser.parse_args()
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    values = step_spectrum()
    grid = np.linspace(0.01, 1.1, 110)
    truth = np.array([int((values >= t).sum()) for t in grid])
    figure, axes = plt.subplots(1, len(STEPS), figsize=(10, 3.2), sharey=True, layout="constrained")
    for ax, steps in zip(axes, STEPS, strict=True):
        spectrum = jvpsvd.spectral_density(torch.diag(values), probes=16, steps=steps)
        curve = spectrum.counts(grid)
        two = 2 * curve.standard_error
        ax.fill_between(grid, curve.low - two, curve.high + two, color="#2563eb", alpha=0.12)
        ax.fill_between(grid, curve.low, curve.high, color="#2563eb", alpha=0.25, label="bounds")
        ax.plot(grid, curve.value, color="#2563eb", linewidth=1.2, label="estimate")
        ax.plot(grid, truth, color="black", linewidth=1.2, linestyle="--", label="truth")
        ax.set_title(f"{steps} steps", fontsize=10)
        ax.set_xlabel("threshold τ")
        for threshold in (0.2, 0.47, 0.53):
            print(f"{steps:3d} steps, σ ≥ {threshold}: {spectrum.count(threshold)}")
        print(f"          truth: {[int((values >= t).sum()) for t in (0.2, 0.47, 0.53)]}")
    axes[0].set_ylabel("number of σ ≥ τ")
    axes[0].set_ylim(-50, P + 80)
    axes[0].legend(frameon=False, fontsize=9)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)
    print(options.out)


if __name__ == "__main__":
    main()
