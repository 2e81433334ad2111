"""A photo and its right singular vectors, depth by depth: figure 9 of Mototake & Ikegami."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from jvpsvd.errors import ArgumentError
from jvpsvd.plot import style
from jvpsvd.plot.axes import load_matplotlib
from jvpsvd.report.figures import save_figure
from jvpsvd.report.thumbnails import Thumbnails
from jvpsvd.report.values import Array


def draw_vectors(browser: Thumbnails, title: str, folder: Path) -> list[Path]:
    """Draw the first photo of the page with its vectors, a line for each depth; return the files.

    Args:
        browser: What the page shows.
        title: The network.
        folder: Where PNG and SVG are written.

    Raises:
        ArgumentError: If matplotlib is missing, or no photo is shown.

    Example: ``draw_vectors(make_thumbnails(analysis, shards), "net", Path("report"))``.
    """
    mpl, Figure = load_matplotlib()
    shown = next((photo for photo in browser.photos if photo.photo is not None), None)
    if shown is None:
        raise ArgumentError("no photo is at hand to be drawn with its vectors; give its shards")
    count = len(browser.indices)
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 1.32 * len(shown.depths) + 0.3), layout="constrained")
        grid = figure.subplots(len(shown.depths), count + 1, squeeze=False)
        for axes in grid.ravel():
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        grid[0, 0].imshow(_pixels(str(shown.photo)))
        grid[0, 0].set_title("photo", fontsize=8)
        for line, depth in zip(grid, shown.depths, strict=True):
            line[1].set_ylabel(depth.layer, fontsize=8)
            for axes, image in zip(line[1:], depth.images, strict=False):
                axes.imshow(_pixels(image.uri))
                axes.set_title(f"$v_{{{image.index}}}$, σ = {image.s:.3g}", fontsize=7.5, pad=3)
        figure.suptitle(f"{title}: right singular vectors of one photo, depth by depth", fontsize=9)
        return save_figure(figure, folder, "vectors")


def _pixels(uri: str) -> Array:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
