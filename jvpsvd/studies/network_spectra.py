"""The spectra of a network at several depths and many inputs: what `spectra` returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.plot.solved import plot_spectra
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.storage import read_record, write_record
from jvpsvd.text_table import Column, TextTable, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "NetworkSpectra 2"
"""Kind and version of a file of spectra."""
_TENSORS = (
    *("s", "residuals", "converged", "certified", "energy_share"),
    *("counts", "products", "seconds"),
)
_COUNTS = ("count", "count_low", "count_high", "count_error")  # in xarray


@dataclass(frozen=True)
class DepthSpectra:
    """The leading singular values of all inputs at one depth.

    ``one[i]`` is that of input i, as (k,) values.
    """

    layer: str
    """Name of the depth."""
    shape: tuple[int, int]
    """(m, n) of every Jacobian."""
    s: Tensor
    """(inputs, k) singular values, descending along rows."""
    residuals: Tensor
    """(inputs, k) measured residuals, in the units of s."""
    converged: Tensor
    """(inputs, k) bool, as in `SVDResult`."""
    certified: Tensor
    """(inputs,) bool: the certificate is sound and complete, and every triplet converged."""
    energy_share: Tensor
    """(inputs,) Σ s² / ‖J‖²_F."""
    counts: Tensor
    """(inputs, 4) how many of all min(m, n) values are ≥ the threshold: value, low, high and
    standard error of `SVDResult.spectrum.count`."""
    products: Tensor
    """(inputs,) products taken; those of a batch are divided evenly."""
    seconds: Tensor
    """(inputs,) wall time, likewise."""

    @property
    def k(self) -> int:
        """Number of values of each input."""
        return self.s.shape[1]

    @property
    def mean(self) -> Tensor:
        """(k,) means over the inputs."""
        return self.s.double().mean(0)

    @property
    def std(self) -> Tensor:
        """(k,) standard deviations over the inputs; 0 for a single one."""
        return self.s.double().std(0, correction=min(1, len(self.s) - 1))

    @property
    def dimension(self) -> Estimate:
        """Mean over the inputs of the number of values ≥ the threshold, with bounds and error."""
        value, low, high, error = self.counts.T
        mean, least, most = (float(column.mean()) for column in (value, low, high))
        return Estimate(mean, least, most, float(error.square().sum().sqrt()) / len(self))

    def __len__(self) -> int:
        return len(self.s)

    def __getitem__(self, index: int) -> Tensor:
        if not isinstance(index, int | np.integer) or not -len(self) <= index < len(self):
            raise ArgumentError(f"input {shown(index)} is none of the {len(self)} inputs")
        return self.s[int(index)]


@dataclass(frozen=True)
class NetworkSpectra:
    """Leading singular values of a network's Jacobians, for many inputs at several depths.

    ``S["layer1"]`` is one depth, ``S["layer1", 3]`` the values of input 3 there; ``for depth in S``
    walks through the depths. `print` shows a table.
    """

    depths: tuple[DepthSpectra, ...]
    model: str
    """Class of the model."""
    tol: float
    """Tolerance of every solve."""
    threshold: float = 1.0
    """What `DepthSpectra.counts` counts from."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the depths."""
        return tuple(depth.layer for depth in self.depths)

    def __iter__(self) -> Iterator[DepthSpectra]:
        return iter(self.depths)

    def __len__(self) -> int:
        return len(self.depths)

    def __getitem__(self, key: str | tuple[str, int]) -> Any:
        """Return a depth, or the values of one input there.

        Raises:
            ArgumentError: If there is no such depth or input.
        """
        layer, *index = key if isinstance(key, tuple) else (key,)
        for depth in self.depths:
            if depth.layer == layer:
                return depth[index[0]] if index else depth
        named = ", ".join(map(repr, self.layers))
        raise ArgumentError(f"no depth is named {shown(layer)}; give one of {named}")

    def __str__(self) -> str:
        """Return the table for the terminal that stdout is, or else in full."""
        columns = (
            Column("depth", left=True),
            Column("m x n", drop=2),
            Column("k", drop=3),
            Column("σ1"),
            Column("σk", drop=4),
            Column("energy", drop=1),
            Column(f"σ ≥ {self.threshold:g}"),
            Column("certified"),
        )
        rows = [_cells(depth) for depth in self.depths]
        return str(TextTable(self.model, columns, rows, f"{len(self.depths[0])} inputs: means"))

    def __repr__(self) -> str:
        inputs = len(self.depths[0])
        return f"<NetworkSpectra: {self.model}, {inputs} inputs at {', '.join(self.layers)}>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean spectrum of every depth, with a band of ± one standard deviation.

        Args:
            ax: Where to draw, of matplotlib; None: on a new figure.

        Raises:
            ArgumentError: If matplotlib is missing, or `ax` is no axes of it.

        Example: ``S.plot().set_title("trained")``.
        """
        for depth in self.depths:
            mean, std = depth.mean[None].numpy(), depth.std[None].numpy()
            ax = plot_spectra(mean, std, np.ones(mean.shape, bool), 1, ax, {})
        if ax is None:
            raise ArgumentError("there is no depth to draw")
        # Lines are named here: a label that begins with an underscore has no place in a legend.
        ax.legend(ax.get_lines()[-len(self.depths) :], self.layers, frameon=False)
        ax.set_ylabel("singular value, mean ± standard deviation")
        return ax

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all; `jvpsvd.load` reads it.

        Raises:
            DataError: If it cannot be written.
        """
        record: dict[str, Any] = {"model": self.model, "tol": self.tol, "layers": self.layers}
        record["threshold"] = self.threshold
        record["shapes"] = tuple(depth.shape for depth in self.depths)
        for number, depth in enumerate(self.depths):
            record |= {f"{number}.{name}": getattr(depth, name) for name in _TENSORS}
        write_record(path, KIND, record)

    def to_xarray(self) -> Any:
        """Return an `xarray.Dataset` of dimensions input, depth and index.

        Where a depth has fewer values than another, NaN fills the rest.

        Raises:
            ArgumentError: If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise ArgumentError("to_xarray needs xarray; pip install xarray") from error
        k = max(depth.k for depth in self.depths)
        dims = ("input", "depth", "index")
        counts = np.stack([one.counts.numpy() for one in self.depths], axis=1)
        return xarray.Dataset(
            {
                "s": (dims, _stacked([depth.s for depth in self.depths], k)),
                "residuals": (dims, _stacked([depth.residuals for depth in self.depths], k)),
                "energy_share": (
                    dims[:2],
                    np.stack([one.energy_share.numpy() for one in self.depths], axis=1),
                ),
                **{
                    name: (dims[:2], column)
                    for name, column in zip(_COUNTS, np.moveaxis(counts, -1, 0), strict=True)
                },
                "certified": (
                    dims[:2],
                    np.stack([one.certified.numpy() for one in self.depths], axis=1),
                ),
            },
            coords={
                "depth": list(self.layers),
                "m": ("depth", [depth.shape[0] for depth in self.depths]),
                "n": ("depth", [depth.shape[1] for depth in self.depths]),
            },
            attrs={"model": self.model, "tol": self.tol, "threshold": self.threshold},
        )


def _cells(depth: DepthSpectra) -> list[str]:
    mean = depth.mean
    return [
        depth.layer,
        f"{depth.shape[0]} x {depth.shape[1]}",
        str(depth.k),
        significant(float(mean[0])),
        significant(float(mean[-1])),
        f"{100 * min(1.0, float(depth.energy_share.mean())):.0f} %",
        depth.dimension.in_a_cell(),
        f"{int(depth.certified.sum())}/{len(depth)}",
    ]


def _stacked(values: list[Tensor], k: int) -> np.ndarray[Any, Any]:
    """Return (inputs, depths, k), the missing values NaN."""
    padded = [
        torch.nn.functional.pad(v.double(), (0, k - v.shape[1]), value=np.nan) for v in values
    ]
    return torch.stack(padded, dim=1).numpy()


def join(parts: list[DepthSpectra]) -> DepthSpectra:
    """Return the spectra of several groups of inputs at the same depth as one."""
    first = parts[0]
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
    return DepthSpectra(first.layer, first.shape, **tensors)


def load_spectra(path: str | os.PathLike[str]) -> NetworkSpectra:
    """Return what `NetworkSpectra.save` wrote.

    Raises:
        DataError: If there is no such file, it is damaged, or holds something else.
    """
    record = read_record(path, KIND, {})
    depths = tuple(
        DepthSpectra(layer, shape, **{name: record[f"{number}.{name}"] for name in _TENSORS})
        for number, (layer, shape) in enumerate(
            zip(record["layers"], record["shapes"], strict=True)
        )
    )
    return NetworkSpectra(depths, record["model"], record["tol"], record["threshold"])
