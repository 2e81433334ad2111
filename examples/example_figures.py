"""What the examples beyond the paper share: two arguments, an empty figure, and saving it."""

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from mnist_figures import DASHES

from jvpsvd.plot.style import COLOURS, SETTINGS

__all__ = ["COLOURS", "DASHES", "arguments", "empty_figure", "ink_on", "picture", "save"]


def arguments(description, quick):
    """Return the parser, and what was given: `quick`, and `out`, a folder that exists."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figure")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return parser, given


def empty_figure(width, height):
    mpl.rcParams.update(SETTINGS)
    return Figure(figsize=(width, height), layout="constrained")


def picture(axes, pixels, signed):
    """Show a square picture without axes: ink in grey, or both signs in blue and red."""
    side = round(pixels.numel() ** 0.5)
    extent = pixels.abs().max().item()
    colours, low = ("RdBu_r", -extent) if signed else ("gray_r", 0)
    axes.imshow(pixels.reshape(side, side).numpy(), cmap=colours, vmin=low, vmax=extent)


def ink_on(colour):
    """Black or white, whichever has more contrast with a colour (WCAG 2's relative luminance)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in mpl.colors.to_rgb(colour)
    ]
    luminance = sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "k" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "w"


def save(figure, out, name):
    """Write NAME.png and NAME.svg, the same bytes for the same numbers."""
    figure.savefig(out / f"{name}.png", dpi=160, metadata={"Software": None})
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    print(f"figure: {out / name}.png and .svg")
