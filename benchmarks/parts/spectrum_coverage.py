"""Estimates of whole spectra beside the truth: do intervals cover it, and do bounds hold?

    python -m benchmarks spectrum_coverage [--first 0] [--last 1000] [--json FILE]

Each number draws one spectrum, known in full, and one way to solve it: k, tol, method, precision,
with or without vectors, with memory for all bases or so little that they restart. Intervals of 95 %
should cover the truth in 93 to 97 % of cases where sampling rules, that is where the bounds are
nearer than half a standard error, and in more where the bounds are wider. Where nothing was
sampled, bounds alone should hold the truth. The bounds themselves must hold in all cases for the
measure that the random start has sampled, which is known here since the operators are diagonal.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.publish.tables import table
from jvpsvd import SVDResult, svds
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.kernels.orthogonalize import random_columns
from jvpsvd.svd.kernels.random_numbers import seeded_generator

CONFIDENCE = 0.95
RULES = 0.5
"""Sampling rules where the bounds are at most so many standard errors apart."""
KINDS = ("flat", "bulk", "power", "exponential", "deficient", "repeated", "layer", "uniform")


@dataclass(frozen=True)
class Case:
    """A spectrum and a way to solve it."""

    kind: str
    values: Tensor
    """(p,) descending, float64."""
    dtype: torch.dtype
    method: str
    options: dict[str, object]


@dataclass
class Coverage:
    """Cases of one group."""

    exact: int = 0
    right: int = 0
    ruled: int = 0
    covered: int = 0
    others: int = 0
    others_covered: int = 0
    broken: list[str] = field(default_factory=list)


def draw_case(number: int) -> Case:
    """Return the case of this number."""
    generator = torch.Generator().manual_seed(number)

    def choose(*of: object) -> object:
        return of[int(torch.randint(len(of), (), generator=generator))]

    p = int(torch.randint(200, 900, (), generator=generator))
    kind = str(choose(*KINDS))
    values = draw_values(kind, p, generator)
    method = str(choose("golub-kahan", "golub-kahan", "golub-kahan", "randomized"))
    k = int(choose(5, 20, 60, 100))  # type: ignore[call-overload]
    options: dict[str, object] = {"k": k, "seed": number, "vectors": choose(True, False)}
    if method == "golub-kahan":
        options |= {"tol": choose(1e-3, 1e-5), "block_size": choose(None, 4, 8, 16)}
        if choose(True, False, False):
            # Bases of the solver, operator and triplets: about 3 k columns.
            options["memory"] = (4 << 20) + 16 * p * (3 * k + 60)
    dtype = torch.float64 if choose(True, False) else torch.float32
    return Case(kind, values, dtype, method, options)


def draw_values(kind: str, p: int, generator: torch.Generator) -> Tensor:
    """Return a spectrum of p values, descending."""
    i = torch.arange(1, p + 1, dtype=torch.float64)
    u = torch.rand(p, generator=generator, dtype=torch.float64)
    rate = 0.5 + float(torch.rand((), generator=generator))
    spikes = 1 + p // 20
    shapes = {
        "flat": lambda: torch.full_like(i, rate),
        "bulk": lambda: torch.cat([10 + 40 * u[:spikes], 2 * u[spikes:]]),
        "power": lambda: 20 * i**-rate,
        "exponential": lambda: 30 * torch.exp(-10 * rate * i / p),
        "deficient": lambda: torch.where(i <= p // 3, 1 + 3 * u, 0.0),
        "repeated": lambda: 0.2 + (12 * u).floor() / 3,
        "layer": lambda: layer_values(int(1e6 * u[0])),
        "uniform": lambda: 3 * u,
    }
    return shapes[kind]().sort(descending=True).values


def layer_values(seed: int) -> Tensor:
    """Return all singular values of the Jacobian of a small CNN with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
        x = torch.randn(1, 3, 12, 12)
    J = torch.autograd.functional.jacobian(net, x).reshape(-1, x.numel())
    return torch.linalg.svdvals(J.double())


def truths(values: Tensor, thresholds: Tensor) -> dict[str, float]:
    """Return what the estimates are of."""
    shares = values**2 / (values**2).sum()
    entropy = float(-torch.xlogy(shares, shares).sum())
    counts = {f"count {i}": float((values >= t).sum()) for i, t in enumerate(thresholds)}
    return counts | {
        "participation": float(1 / (shares**2).sum()),
        "entropy": entropy,
        "nuclear": float(values.sum()),
        "schatten 3": float((values**3).sum() ** (1 / 3)),
    }


def estimates(result: SVDResult, thresholds: Tensor) -> dict[str, Estimate]:
    """Return the estimates."""
    spectrum = result.spectrum
    counts = {f"count {i}": spectrum.count(float(t)) for i, t in enumerate(thresholds)}
    return counts | {
        "participation": spectrum.participation_ratio(),
        "entropy": spectrum.entropy(),
        "nuclear": spectrum.schatten(1),
        "schatten 3": spectrum.schatten(3),
    }


def broken_bounds(case: Case, result: SVDResult, thresholds: Tensor) -> list[str]:
    """Return the counts whose bounds the sampled measure does not keep."""
    spectrum = result.spectrum
    rest = spectrum.rest
    if rest is None:
        return []
    p = len(case.values)
    generator = seeded_generator(result.seed)
    start = random_columns(torch.empty(p, 0, dtype=case.dtype), rest.columns, generator)
    mass = (start.double() ** 2).sum(-1)
    mass[: spectrum.above] = 0  # of known values
    broken = []
    for threshold in thresholds.tolist():
        found = spectrum.count(threshold)
        share = float(mass[case.values >= threshold].sum() / mass.sum())
        known = case.values[: len(spectrum.values)]
        above = int((known[: spectrum.above] >= threshold).sum())
        sampled = max(int((known >= threshold).sum()), above + rest.size * share)
        if found.standard_error == 0 and threshold > spectrum.values[-1]:  # all above are known
            sampled = int((case.values >= threshold).sum())
        # Known values come from the operator in its precision, and have their residuals.
        off = 1e-4 * p * max(result.tol / 1e-5, 1.0) + 1e-6
        if (
            threshold > 10 * spectrum.rounding
            and not found.low - off <= sampled <= found.high + off
        ):
            broken.append(f"count({threshold:.3g}): {sampled:.2f} not in {found}")
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of groups; return 1 if a bound is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks spectrum_coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args(arguments)
    groups: dict[str, Coverage] = defaultdict(Coverage)
    for number in range(options.first, options.last):
        case = draw_case(number)
        values = case.values.to(case.dtype)
        k = min(int(case.options["k"]), len(values) - 1)  # type: ignore[call-overload]
        result = svds(
            torch.diag(values),
            on_unconverged="ignore",
            method=case.method,
            **(case.options | {"k": k}),  # type: ignore[arg-type]
        )
        truth_values = values.double()
        positive = truth_values[truth_values > 1e-4 * truth_values[0]]
        thresholds = torch.quantile(positive, torch.tensor([0.02, 0.2, 0.5, 0.8]).double()) * 1.001
        expected, found = truths(truth_values, thresholds), estimates(result, thresholds)
        names = [case.kind, case.method, str(case.dtype).removeprefix("torch.")]
        for name, estimate in found.items():
            low, high = estimate.interval(CONFIDENCE)
            off = 1e-6 * abs(expected[name])
            covers = low - off <= expected[name] <= high + off
            width, error = estimate.high - estimate.low, estimate.standard_error
            for group in [*names, name.split()[0], "all"]:
                coverage = groups[group]
                if error < 1e-6 * abs(expected[name]):
                    coverage.exact += 1
                    coverage.right += covers
                elif width <= RULES * error:
                    coverage.ruled += 1
                    coverage.covered += covers
                else:
                    coverage.others += 1
                    coverage.others_covered += covers
        for fault in broken_bounds(case, result, thresholds):
            print(f"{number} ({case.kind}, {case.method}): {fault}", flush=True)
            groups["all"].broken.append(fault)
    rows = [
        [
            name,
            *(str(coverage.exact), _percent(coverage.right, coverage.exact)),
            *(str(coverage.ruled), _percent(coverage.covered, coverage.ruled)),
            *(str(coverage.others), _percent(coverage.others_covered, coverage.others)),
        ]
        for name, coverage in groups.items()
    ]
    heads = ["group", "known", "right", "sampling rules", "covered", "bounds rule", "covered"]
    print("\n".join(table(heads, rows)))
    broken = len(groups["all"].broken)
    print(f"bounds of the sampled measure that were broken: {broken}")
    if options.json:
        options.json.write_text(json.dumps({"heads": heads, "rows": rows, "broken": broken}))
    return int(broken > 0)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
