"""Singular vectors that are images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jvpsvd.arguments import listed_names, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.plot.axes import Array, load_matplotlib, numbers_of

_CLIPPED = 0.5  # per cent of the entries that may lie beyond the scale


def vectors(
    rows: Any,
    shape: Sequence[int] | None = None,
    *,
    titles: str | Sequence[str] = (),
    columns: int = 5,
) -> Any:
    """Draw vectors as images around grey, each with its own scale; return the figure.

    Args:
        rows: (N, n) vectors, such as the first rows of Vh, or images (N, C, H, W), which may have
            the dimension of a batch of one, as `result.right(J)` has.
        shape: Of the image of a row, (H, W) or (C, H, W) with one channel or three.
        titles: What stands above each.
        columns: Images in a line.

    Raises:
        ArgumentError: If matplotlib is missing, or rows are no images of this shape, or not
            finite.

    Example: ``jvpsvd.plot.vectors(result.Vh[:5], (3, 224, 224))``.
    """
    _, Figure = load_matplotlib()
    values, titles = numbers_of("rows", rows, "result.Vh[:5]"), listed_names("titles", titles)
    columns = whole_number("columns", columns, 1)
    if not np.isfinite(values).all():
        raise ArgumentError("rows hold NaN or infinity; give finite numbers only")
    image = tuple(values.shape[1:] if shape is None else shape)
    while len(image) > 3 and image[0] == 1:  # the dimension of the batch
        image = image[1:]
    channels = image[0] if len(image) == 3 else 1
    if len(image) not in (2, 3) or channels not in (1, 3) or values[:1].size != np.prod(image):
        raise ArgumentError(f"rows have shape {values.shape}; give shape=(C, H, W) of an image")
    pictures = values.reshape(len(values), channels, *image[-2:])
    lines = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.5 * min(columns, len(pictures)), 1.7 * lines), layout="constrained")
    grid = figure.subplots(lines, min(columns, len(pictures)), squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for number, (axes, picture) in enumerate(zip(grid, pictures, strict=False)):
        axes.imshow(around_grey(picture))
        if number < len(titles):
            axes.set_title(titles[number], fontsize=8)
    return figure


def around_grey(picture: Array) -> Array:
    """Return (C, H, W) numbers of both signs as (H, W, 3) shares of light; 0 is grey.

    >>> around_grey(np.array([[[-1.0, 0.0, 1.0]]]))[0, :, 0].tolist()
    [0.0, 0.5, 1.0]
    """
    scale = float(np.percentile(np.abs(picture), 100 - _CLIPPED)) or 1.0
    shown: Array = np.clip(0.5 + 0.5 * picture / scale, 0, 1).transpose(1, 2, 0)
    return np.broadcast_to(shown, (*shown.shape[:2], 3))
