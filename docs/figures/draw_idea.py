"""Draw the picture of the home page: what a Jacobian's singular triplets are.

    python docs/figures/draw_idea.py

A small random network takes the plane to the plane. A circle of small steps around a point becomes
nearly an ellipse: its half axes are σ₁ u₁ and σ₂ u₂, the images of v₁ and v₂. Beside it is what
jvpsvd says of a network with many inputs: k values one by one, each with its residual, and bounds
for the number of all others. Both panels are computed by jvpsvd. Each has a file for a light
page and one for a dark page.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import jvpsvd

RADIUS, KNOWN = 0.25, 40
SIZES = (5.8, 3.0), (3.8, 3.0)  # inches, of steps and spectrum
FIRST, SECOND = "#2a9d8f", "#e76f51"


def plane_network() -> nn.Module:
    """Return a network from the plane to the plane."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).eval()


def circle(radius: float) -> torch.Tensor:
    """Return points of a circle around 0."""
    angle = torch.linspace(0, 2 * torch.pi, 200)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def draw_arrow(axes, start, end, colour, label, ink):
    """Draw an arrow with a label at its end."""
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)
    way = (end - start) / np.linalg.norm(end - start)
    axes.text(*(end + 0.16 * way), label, color=ink, ha="center", va="center", fontsize=12)


def draw_steps(left, right, ink):
    """Draw a circle of steps, and what the network makes of it."""
    net = plane_network()
    x = torch.tensor([[0.3, -0.2]])
    result = jvpsvd.svds(jvpsvd.JacobianOperator(net, x), 2)
    points = circle(RADIUS)
    images = net(x + points).detach() - net(x).detach()
    linear = (result.U * result.s) @ (result.Vh @ points.T)
    largest = float(result.s[0])
    for axes, curve in ((left, points / RADIUS), (right, images / (RADIUS * largest))):
        axes.plot(*curve.T.numpy(), color=ink, lw=1.4)
        axes.plot(0, 0, "o", color=ink, ms=4)
        axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        axes.set_axis_off()
    right.plot(*(linear / (RADIUS * largest)).numpy(), color=ink, lw=1, ls=":")
    names = "₁₂"
    for i, colour in enumerate((FIRST, SECOND)):
        draw_arrow(left, np.zeros(2), result.Vh[i].numpy(), colour, f"v{names[i]}", ink)
        tip = (result.s[i] / largest * result.U[:, i]).numpy()
        draw_arrow(right, np.zeros(2), tip, colour, f"σ{names[i]}u{names[i]}", ink)
    left.set_title("small steps around an input x", color=ink, fontsize=11)
    right.set_title("what a layer makes of them", color=ink, fontsize=11)


def draw_spectrum(axes, ink):
    """Draw the spectrum of a wide network: k known values, and bounds for the others."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(800, 600), nn.Tanh(), nn.Linear(600, 500), nn.Tanh()).eval()
    for layer in (net[0], net[2]):
        rows, columns = layer.weight.shape
        scale = 8 * (1 + torch.arange(min(rows, columns))) ** -0.45
        U, _, Vh = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
        layer.weight.data = (U * scale) @ Vh
    J = jvpsvd.JacobianOperator(net, 0.02 * torch.randn(1, 800))
    result = jvpsvd.svds(J, KNOWN, method="golub-kahan")
    truth = torch.linalg.svdvals(J.to_dense())
    grid = np.geomspace(float(truth[-60]), float(result.s[-1]), 60)
    counts = result.spectrum.counts(grid)
    off = 2 * counts.standard_error
    axes.fill_betweenx(grid, counts.low - off, counts.high + off, color=SECOND, alpha=0.35, lw=0)
    axes.plot(range(1, len(truth) + 1), truth, color=ink, lw=1, ls=":")
    axes.plot(range(1, KNOWN + 1), result.s, ".", color=FIRST, ms=5)
    axes.set(
        xscale="log", yscale="log", xlim=(0.8, 700), ylim=(float(truth[-60]), 2 * float(truth[0]))
    )
    axes.set_xlabel("index i", color=ink)
    axes.set_ylabel("σᵢ", color=ink)
    axes.set_title("the singular values of a wide layer", color=ink, fontsize=11)
    found = f"{KNOWN} found, with\nmeasured errors"
    axes.text(1.1, float(result.s[KNOWN // 3]) / 2.2, found, color=FIRST, fontsize=10)
    axes.text(1.6, float(truth[320]), "the others counted,\nwith bounds", color=SECOND, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(ink)
    axes.tick_params(which="both", colors=ink, labelsize=9)


def main() -> None:
    """Write the files beside this one."""
    mpl.rcParams["svg.fonttype"] = "path"
    mpl.rcParams["svg.hashsalt"] = "jvpsvd"
    for name, ink in (("light", "#1f2430"), ("dark", "#e6e6e6")):
        steps, spectrum = (Figure(figsize=size, layout="constrained") for size in SIZES)
        draw_steps(*steps.subplots(1, 2), ink)
        steps.text(0.505, 0.68, "f\n⟶", color=ink, ha="center", va="center", fontsize=15)
        draw_spectrum(spectrum.subplots(), ink)
        for figure, what in ((steps, "steps"), (spectrum, "spectrum")):
            file = Path(__file__).with_name(f"{what}-{name}.svg")
            figure.savefig(file, transparent=True, metadata={"Date": None})
            print(file)


if __name__ == "__main__":
    main()
