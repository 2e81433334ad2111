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
from jvpsvd.records import AnswersOtherNames, ComparedByFields
from jvpsvd.svd.estimate import Estimate, mean_estimate
from jvpsvd.svd.storage import read_record, write_record
from jvpsvd.text_table import Column, TextTable, count_noun, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "NetworkSpectra 2"
"""Kind and version of a file of spectra."""
_TENSORS = (
    *("shapes", "s", "residuals", "converged", "certified", "energy_share"),
    *("counts", "products", "seconds", "seeds"),
)
_COUNTS = ("count", "count_low", "count_high", "count_error")  # in xarray


@dataclass(frozen=True, eq=False, repr=False)
class DepthSpectra(ComparedByFields, AnswersOtherNames):
    """The leading singular values of all inputs at one depth.

    ``one[i]`` is that of input i, as (k,) values; ``one[:3]`` those of the first three inputs.
    """

    layer: str
    """Name of the depth."""
    shapes: Tensor
    """(inputs, 2) m and n of each Jacobian."""
    s: Tensor
    """(inputs, k) singular values, descending along rows; NaN after the last of a Jacobian that has
    fewer than another."""
    residuals: Tensor
    """(inputs, k) measured residuals, in the units of s; NaN where s is."""
    converged: Tensor
    """(inputs, k) bool, as in `SVDResult`; False where s is NaN."""
    certified: Tensor
    """(inputs,) bool: the certificate is sound and complete, and every triplet converged."""
    energy_share: Tensor
    """(inputs,) Σ s² / ‖J‖²_F; NaN where J = 0."""
    counts: Tensor
    """(inputs, 4) how many of all min(m, n) values are ≥ the threshold: value, low, high and
    standard error of `SVDResult.spectrum.count`."""
    products: Tensor
    """(inputs,) products taken; those of a batch are divided evenly."""
    seconds: Tensor
    """(inputs,) wall time, likewise."""
    seeds: Tensor
    """(inputs,) with which `svds` starts from the same random vectors; −1 where a file of an older
    version does not tell the one seed of all."""

    _other_names = dict.fromkeys(("S", "values", "singular_values"), "it is s here")

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of every Jacobian; the largest m and n where inputs differ in shape."""
        m, n = self.shapes.amax(0).tolist()
        return m, n

    @property
    def k(self) -> int:
        """Number of values of each input; the largest where inputs differ in shape."""
        return self.s.shape[1]

    @property
    def mean(self) -> Tensor:
        """(k,) means over the inputs that have the value."""
        return self.s.double().nanmean(0)

    @property
    def std(self) -> Tensor:
        """(k,) standard deviations over the inputs that have the value; 0 for a single one."""
        squares = (self.s.double() - self.mean).square().nansum(0)
        return (squares / (self.s.isfinite().sum(0) - 1).clamp_min(1)).sqrt()

    @property
    def dimension(self) -> Estimate:
        """Mean over these inputs of the number of values ≥ the threshold, with bounds and error.

        Each input has a random start of its own, so that the standard error, of what was sampled,
        shrinks with more of them. Inputs of an older version's file share one, and it does not.
        """
        own_starts = len({*self.seeds.tolist()}) == len(self)
        return mean_estimate(self.counts.T.numpy(), own_starts=own_starts)

    def __repr__(self) -> str:
        _, size, k, first, last, *_, certified = _cells(self)
        return (
            f"<DepthSpectra: {count_noun(len(self), 'input')} at {self.layer}, {size}, k={k}: "
            f"mean s from {first} to {last}, {certified} certified>"
        )

    def __len__(self) -> int:
        return len(self.s)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.s)

    def __getitem__(self, index: int | slice) -> Tensor:
        if isinstance(index, slice):
            return self.s[index]
        if not isinstance(index, int | np.integer) or not -len(self) <= index < len(self):
            raise ArgumentError(
                f"input {shown(index)} is none of the {count_noun(len(self), 'input')}"
            )
        return self.s[int(index)]


@dataclass(frozen=True)
class NetworkSpectra(AnswersOtherNames):
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

    _other_names = dict.fromkeys(
        ("s", "S", "values", "singular_values", "shape", "shapes", "residuals", "mean", "std"),
        'each depth has one: write S["output"].s, for example',
    )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the depths."""
        return tuple(depth.layer for depth in self.depths)

    def __iter__(self) -> Iterator[DepthSpectra]:
        return iter(self.depths)

    def __len__(self) -> int:
        return len(self.depths)

    def __contains__(self, depth: object) -> bool:
        return any(depth == one.layer or depth is one for one in self.depths)

    def __getitem__(self, key: str | tuple[str, int | slice]) -> Any:
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
        return str(TextTable(self.model, columns, rows, f"{self._inputs()}: means"))

    def __repr__(self) -> str:
        return f"<NetworkSpectra: {self.model}, {self._inputs()} at {', '.join(self.layers)}>"

    def _inputs(self) -> str:
        return count_noun(len(self.depths[0]), "input")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean spectrum of every depth, with a band of ± one standard deviation.

        No mean is drawn from the first on that is below the mean residual.

        Args:
            ax: Where to draw, of matplotlib; None: on a new figure.

        Raises:
            ArgumentError: If matplotlib is missing, or `ax` is no axes of it.

        Example: ``S.plot().set_title("trained")``.
        """
        for depth in self.depths:
            below = depth.residuals.double().nanmean(0) > depth.mean
            drawn = max(1, int((~below).int().cumprod(0).sum()))
            mean, std = (one[None, :drawn].numpy() for one in (depth.mean, depth.std))
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

        Where a depth has fewer values than another, NaN fills the rest. The coordinates m and n are
        those of each depth; of each input and depth where inputs differ in shape.

        Raises:
            ArgumentError: If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise ArgumentError("to_xarray needs xarray; pip install xarray") from error
        k = max(depth.k for depth in self.depths)
        dims = ("input", "depth", "index")
        shapes = torch.stack([one.shapes for one in self.depths], dim=1)  # (inputs, depths, 2)
        alike = bool((shapes == shapes[:1]).all())
        m, n = np.moveaxis((shapes[0] if alike else shapes).numpy(), -1, 0)
        of_shapes = "depth" if alike else dims[:2]
        counts = np.stack([one.counts.numpy() for one in self.depths], axis=1)
        return xarray.Dataset(
            {
                "s": (dims, _stack([depth.s for depth in self.depths], k)),
                "residuals": (dims, _stack([depth.residuals for depth in self.depths], k)),
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
                "m": (of_shapes, m),
                "n": (of_shapes, n),
            },
            attrs={"model": self.model, "tol": self.tol, "threshold": self.threshold},
        )


def _cells(depth: DepthSpectra) -> list[str]:
    mean = depth.mean
    held = depth.energy_share.nanmean()
    return [
        depth.layer,
        " x ".join(map(_range, depth.shapes.T)),
        _range(depth.s.isfinite().sum(1)),
        significant(float(mean[0])),
        significant(float(mean[-1])),
        "—" if held.isnan() else f"{100 * min(1.0, float(held)):.0f} %",
        depth.dimension.in_a_cell(),
        f"{int(depth.certified.sum())}/{len(depth)}",
    ]


def _range(numbers: Tensor) -> str:
    """Return the smallest and the largest of some whole numbers, or the one that all are."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}" if low == high else f"{low}-{high}"


def _stack(values: list[Tensor], k: int) -> np.ndarray[Any, Any]:
    """Return (inputs, depths, k), the missing values NaN."""
    return torch.stack([_pad(v.double(), k) for v in values], dim=1).numpy()


def _pad(values: Tensor, k: int) -> Tensor:
    """Return (inputs, k) values, the missing ones NaN, or False."""
    fill = np.nan if values.is_floating_point() else 0
    return torch.nn.functional.pad(values, (0, k - values.shape[1]), value=fill)


def join(parts: list[DepthSpectra]) -> DepthSpectra:
    """Return the spectra of several groups of inputs at the same depth as one.

    Where Jacobians differ in shape, some may have fewer values; NaN fills the rest.
    """
    k = max(part.k for part in parts)
    tensors = {name: [getattr(part, name) for part in parts] for name in _TENSORS}
    for name in ("s", "residuals", "converged"):
        tensors[name] = [_pad(each, k) for each in tensors[name]]
    return DepthSpectra(parts[0].layer, **{name: torch.cat(of) for name, of in tensors.items()})


def load_spectra(path: str | os.PathLike[str]) -> NetworkSpectra:
    """Return what `NetworkSpectra.save` wrote.

    Raises:
        DataError: If there is no such file, it is damaged, or holds something else.
    """
    record = read_record(path, KIND, {})
    for number, shape in enumerate(record["shapes"]):  # of every input, in files of version 0.2
        of_all = torch.tensor(shape).expand(len(record[f"{number}.s"]), 2)
        record.setdefault(f"{number}.shapes", of_all)
        record.setdefault(f"{number}.seeds", torch.full((len(of_all),), -1))
        # Where J = 0, files of earlier versions have a share of 1.
        share, nothing = record[f"{number}.energy_share"], record[f"{number}.s"][:, 0] == 0
        record[f"{number}.energy_share"] = share.masked_fill(nothing & (share == 1), np.nan)
    depths = tuple(
        DepthSpectra(layer, **{name: record[f"{number}.{name}"] for name in _TENSORS})
        for number, layer in enumerate(record["layers"])
    )
    return NetworkSpectra(depths, record["model"], record["tol"], record["threshold"])
