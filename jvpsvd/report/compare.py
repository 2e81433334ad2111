"""Two runs beside each other: differences depth by depth, with their errors."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jvpsvd.arguments import shown
from jvpsvd.data import Sample
from jvpsvd.errors import ArgumentError
from jvpsvd.report.estimates import (
    BOUNDED,
    NOT_KNOWN,
    Estimates,
    estimate,
    in_words,
    titles,
)
from jvpsvd.report.sentences import describe_starts
from jvpsvd.report.typed_options import seeds_of_random_weights
from jvpsvd.report.values import Array, DepthValues, RunValues, read_values
from jvpsvd.survey import open_store
from jvpsvd.survey.spec.changed_network import changed_network
from jvpsvd.svd.estimate import Estimate, mean_estimate
from jvpsvd.text_table import Column, TextTable, significant

_DIGITS = 12
_NARROW = 0.1  # bounds nearer to each other than this share of the error are not told
# What may differ between two runs of the same, or has a line of its own.
_NOT_TOLD = ("contents", "probe", "batch", "numerics")
# What a probe depends on, beside the network.
_OF_PROBE = ("weights_sha256", "photo_input", "layers", "inputs", "start", "start_shape")

_Name = tuple[Any, ...]
"""By what a photo is known in both runs; its key comes first."""


@dataclass(frozen=True)
class Difference:
    """How one quantity at one depth differs between two runs: the second minus the first."""

    layers: tuple[str, str]
    """The depth in each run."""
    quantity: str
    first: float
    """Mean over the photos that are compared."""
    second: float
    difference: Estimate
    """Mean of the second minus the first: bounds from those of each value, and the standard error,
    of the mean over photos and of what each run sampled; NaN with one photo."""
    photos: tuple[int, int]
    """Photos of each run; the same ones where they are paired."""
    paired: bool
    """Whether the same photos are compared, one by one."""
    means: tuple[Estimate, Estimate] = (NOT_KNOWN, NOT_KNOWN)
    """`first` and `second` with bounds and standard errors of what was sampled."""

    @property
    def errors(self) -> float:
        """The difference in standard errors; NaN where none, or where bounds leave the sign open.

        >>> one = Estimate(2.0, -9.0, 13.0, 0.5)
        >>> Difference(("output",) * 2, "count", 1.0, 3.0, one, (4, 4), True).errors
        nan
        """
        found, error = self.difference, self.difference.standard_error
        known = found.low == found.high or found.low > 0 or found.high < 0
        return found.value / error if error > 0 and known else math.nan


def compare_runs(
    first: RunValues | str | os.PathLike[str],
    second: RunValues | str | os.PathLike[str],
    threshold: float = 1.0,
) -> list[Difference]:
    """Return the differences of two runs at every depth that both have.

    Depths are paired by name, or in their order where no name is common and both have equally many.
    A photo of one run is that of the other which has the same key, size, label and bytes, in a
    shard of the same name where keys repeat. Only those that both runs have are compared; where
    there are none, the means over all are.

    Args:
        first: A run, such as that of a network with random weights: its folder, or its values as
            `read_values` returns them.
        second: Another one, such as that of the trained network.
        threshold: What a value must reach to be counted.

    Raises:
        ArgumentError: If no depth of one belongs to one of the other, or one is something else.
        RunError: If a folder holds no run.

    Example: ``compare_runs("before", "after")[0].difference``.
    """
    first, second = _values_of(first, "first"), _values_of(second, "second")
    names = _common_names(first, second)
    return [
        found
        for one, other in _pair_depths(first, second)
        for found in _compare_depth((first, one), (second, other), names, threshold)
    ]


def differing_fields(
    first: RunValues | str | os.PathLike[str], second: RunValues | str | os.PathLike[str]
) -> list[str]:
    """Return in what the two runs differ, a line for each option."""
    first, second = _values_of(first, "first"), _values_of(second, "second")
    runs = first, second
    one, other = (run.store.identity.fields() for run in runs)
    changed = [] if one["contents"] == other["contents"] else ["bytes of the shards: they differ"]
    for name in one:
        if name in _NOT_TOLD or one[name] == other[name]:
            continue
        told = [_brief(each[name]) for each in (one, other)]
        if name == "weights_sha256":
            told = [_weights_in_words(run, text) for run, text in zip(runs, told, strict=True)]
        if name == "own_starts":
            name, told = "random start", [describe_starts(run.store.identity) for run in runs]
        changed.append(f"{name.replace('_', ' ')}: {' | '.join(told)}")
    return changed + _describe_network(one, other)


def _values_of(run: object, name: str) -> RunValues:
    if isinstance(run, str | os.PathLike):
        return read_values(open_store(run))
    if not isinstance(run, RunValues):
        raise ArgumentError(
            f"{name} is {shown(run)}; give the folder of a run, or read_values(open_store(folder))"
        )
    return run


def _describe_network(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return a line where two networks differ of which all else that is known is the same.

    Code may be another one, and weights that were trained on after they were hashed.
    """
    probes = one["probe"], other["probe"]
    # What is no photo is probed at an example, which may be the first input of the run.
    alike = _OF_PROBE if one["inputs"] is None else (*_OF_PROBE, "contents")
    if not all(probes) or any(one[name] != other[name] for name in alike):
        return []
    change = changed_network(*probes, len(one["layers"]))
    return [f"network: another one of the same weights sha256: {change}"] if change else []


def comparison_table(found: Sequence[Difference], title: str, one: str = "photo") -> TextTable:
    """Return differences as a table for a terminal.

    Example: ``print(comparison_table(compare_runs(before, after), "before and after"))``.
    """
    columns = (
        Column("depth", left=True),
        Column("quantity", left=True),
        Column("first", drop=2),
        Column("second", drop=3),
        Column(
            "difference",
            f"difference: second less first, ± standard error of the mean over {one}s and of what "
            "each run sampled, and bounds where values are known between bounds; bounds do not "
            "cancel: not even of one run and itself",
        ),
        Column("errors", "errors: the difference in standard errors", drop=4),
        Column(f"{one}s", drop=1),
    )
    rows = [
        [
            each.layers[0] if each.layers[0] == each.layers[1] else " | ".join(each.layers),
            each.quantity,
            *map(_mean_in_words, each.means),
            _difference_in_words(each.difference),
            "—" if math.isnan(each.errors) else f"{each.errors:+.1f}",
            str(each.photos[0]) if each.paired else f"{each.photos[0]} | {each.photos[1]}",
        ]
        for each in found
    ]
    paired = all(each.paired for each in found)
    subtitle = f"paired over the same {one}s" if paired else f"not paired: no {one} is in both"
    return TextTable(title, columns, rows, subtitle)


def _pair_depths(first: RunValues, second: RunValues) -> list[tuple[DepthValues, DepthValues]]:
    named = {depth.layer: depth for depth in second.depths}
    pairs = [(depth, named[depth.layer]) for depth in first.depths if depth.layer in named]
    if pairs:
        return pairs
    if len(first.depths) == len(second.depths):
        return list(zip(first.depths, second.depths, strict=True))
    one, other = (", ".join(d.layer for d in run.depths) for run in (first, second))
    raise ArgumentError(f"no depth is in both runs: {one} in the first, {other} in the second")


def _common_names(first: RunValues, second: RunValues) -> tuple[dict[int, _Name], ...]:
    """Return by which names photos that both runs have are known, by their indices in each run."""
    for name_of in (_by_key, _by_shard):
        names = [dict(enumerate(map(name_of, run.samples))) for run in (first, second)]
        once = [{n for n, c in Counter(of.values()).items() if c == 1 and n[0]} for of in names]
        common = once[0] & once[1] - _names_of_other_bytes(first, second, names)
        if common:
            return tuple({i: n for i, n in of.items() if n in common} for of in names)
    return {}, {}


def _names_of_other_bytes(
    first: RunValues, second: RunValues, names: Sequence[dict[int, _Name]]
) -> set[_Name]:
    """Return the names under which the two runs have other photos, as far as rows tell."""
    one, other = (
        {of[photo]: checksum for photo, checksum in run.checksums.items()}
        for run, of in zip((first, second), names, strict=True)
    )
    return {name for name in one.keys() & other.keys() if one[name] != other[name]}


def _by_key(sample: Sample) -> _Name:
    return sample.key, sample.size, sample.label, sample.wnid


def _by_shard(sample: Sample) -> _Name:
    return sample.key, sample.shard, sample.size, sample.label, sample.wnid


def _compare_depth(
    first: tuple[RunValues, DepthValues],
    second: tuple[RunValues, DepthValues],
    names: Sequence[dict[int, _Name]],
    threshold: float,
) -> Iterator[Difference]:
    """Yield the differences at one depth, over the common photos, or over all without any."""
    paired = bool(names[0])
    rows = [
        {of[photo]: row for row, photo in enumerate(depth.photo.tolist()) if photo in of}
        for (_, depth), of in zip((first, second), names, strict=True)
    ]
    common = [name for name in rows[0] if name in rows[1]]
    taken = [
        np.array([of[name] for name in common], dtype=np.int64)
        if paired
        else np.arange(len(depth.photo))
        for of, (_, depth) in zip(rows, (first, second), strict=True)
    ]
    if not (len(taken[0]) and len(taken[1])):
        return
    k = min(first[1].s.shape[1], second[1].s.shape[1])
    numbers = [
        _numbers(run, depth, at, k, threshold)
        for (run, depth), at in zip((first, second), taken, strict=True)
    ]
    layers, photos = (first[1].layer, second[1].layer), (len(taken[0]), len(taken[1]))
    for quantity, one in numbers[0].items():
        other = numbers[1][quantity]
        known = [np.isfinite(each[0]) for each in (one, other)]
        if paired:
            known = [known[0] & known[1]] * 2
        one, other = one[:, known[0]], other[:, known[1]]
        own_starts = first[1].own_starts, second[1].own_starts
        difference = _subtract((one, other), own_starts, paired=paired)
        before, after = (
            mean_estimate(numbers, own_starts=own) if numbers.size else NOT_KNOWN
            for numbers, own in zip((one, other), own_starts, strict=True)
        )
        values, means = (before.value, after.value), (before, after)
        yield Difference(layers, quantity, *values, difference, photos, paired, means)


def _numbers(
    run: RunValues, depth: DepthValues, at: Array, k: int, threshold: float
) -> dict[str, Array]:
    """Return (4, photos) value, low, high and standard error of each quantity.

    A single value lies within its residual.
    """
    estimates: Estimates = estimate(depth, run.store.identity.tol, threshold)
    found = {}
    for index in (1, k)[: min(k, 2)]:
        s, off = depth.s[at, index - 1], depth.residuals[at, index - 1]
        found[f"σ{index}"] = np.stack([s, s - off, s + off, 0 * s])
    for name in BOUNDED:
        ranges = estimates.ranges[name][:, at]
        found[titles(threshold)[name]] = np.stack([estimates.values[name][at], *ranges])
    return found


def _mean_in_words(found: Estimate) -> str:
    """Return a mean as the table of a run has it: a range where no more is known.

    >>> _mean_in_words(Estimate(8325.0, 928.0, 15680.0, 31.0))
    '928 to 15680 (± 31)'
    """
    return in_words(found, at_least=math.isinf(found.high))


def _subtract(
    numbers: tuple[Array, Array], own_starts: tuple[bool, bool], *, paired: bool
) -> Estimate:
    """Return the mean of the second less the first, with its bounds and standard error.

    Where each photo has a random start of its own, the scatter over photos holds what was sampled,
    less what cancels between runs of one seed. Where a run has one start for all, of an older
    version, this does not average out, and is added to the scatter.
    """
    one, other = numbers
    if not (one.shape[1] and other.shape[1]):
        return NOT_KNOWN
    scatter = sum(
        float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan
        for values in ([other[0] - one[0]] if paired else [one[0], other[0]])
    )
    before, after = (
        mean_estimate(each, own_starts=own) for each, own in zip(numbers, own_starts, strict=True)
    )
    shared = [
        0.0 if own else mean.standard_error
        for mean, own in zip((before, after), own_starts, strict=True)
    ]
    return Estimate(
        after.value - before.value,
        after.low - before.high,
        after.high - before.low,
        math.hypot(math.sqrt(scatter), *shared),
    )


def _difference_in_words(found: Estimate) -> str:
    """Return a difference with its sign, error and bounds.

    >>> _difference_in_words(Estimate(-12.3456, -12.3456, -12.3456, 0.71))
    '-12.35 ± 0.71'
    >>> _difference_in_words(Estimate(5.0, -math.inf, math.inf, math.nan))
    '+5 (unbounded)'
    >>> _difference_in_words(Estimate(5.0, 4.0, 6.5, 0.2))
    '+5 ± 0.2 (+4 to +6.5)'
    >>> _difference_in_words(Estimate(-626.6, -626.62, -626.58, 5.2))  # all the same in print
    '-626.6 ± 5.2'
    >>> _difference_in_words(Estimate(-7.409, -7.41, -7.408, 4.9))  # nothing beside the error
    '-7.409 ± 4.9'
    """
    if math.isnan(found.value):
        return "—"

    def signed(number: float) -> str:
        return f"{'+' if number > 0 else ''}{significant(number)}"

    text, error = signed(found.value), found.standard_error
    text += "" if math.isnan(error) else f" ± {significant(error, 2)}"
    if math.isinf(found.low) or math.isinf(found.high):
        return f"{text} (unbounded)"
    low, high = signed(found.low), signed(found.high)
    narrow = low == high or found.high - found.low < _NARROW * error
    return text if narrow else f"{text} ({low} to {high})"


def _weights_in_words(run: RunValues, sha256: str) -> str:
    """Return the first digits of a hash, and the seed where weights were drawn."""
    seeds = seeds_of_random_weights(run.store.folder)
    drawn = f", seed {seeds.pop()}" if len(seeds) == 1 else ""
    return sha256[:_DIGITS] + (f" (random weights{drawn})" if drawn or seeds else "")


def _brief(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "none"
