"""What the examples beyond the paper share: two arguments, an empty figure, and saving it."""

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from mnist_figures import COLOURS, DASHES, STYLE

__all__ = ["COLOURS", "DASHES", "arguments", "empty_figure", "picture", "save"]


def arguments(description, quick):
    """Return the parser, and what was given: `quick`, and `out`, a folder that exists."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figure")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return parser, given


def empty_figure(width, height):
    mpl.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def picture(axes, pixels, signed):
    """Show a square picture without axes: ink in grey, or both signs in blue and red."""
    side = round(pixels.numel() ** 0.5)
    extent = pixels.abs().max().item()
    colours, low = ("RdBu_r", -extent) if signed else ("gray_r", 0)
    axes.imshow(pixels.reshape(side, side).numpy(), cmap=colours, vmin=low, vmax=extent)


def save(figure, out, name):
    """Write NAME.png and NAME.svg, the same bytes for the same numbers."""
    figure.savefig(out / f"{name}.png", dpi=160, metadata={"Software": None})
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
