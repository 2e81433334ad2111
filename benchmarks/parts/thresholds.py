"""What each threshold of the solvers decides: products and faults with half of it and twice.

    python -m benchmarks thresholds [NAME ...] [--problems 200] [--first 300000]

A threshold is a number that a module of jvpsvd.svd names in capitals. For each, the same random
hostile problems are solved with half of it, with it, and with twice it. A row has the products that
were taken, over those of today's value, the share of all values that are marked converged, and the
wrong ones among them (`random_hostile` says what counts). Rows of 1.00 without a fault
are left out: those thresholds decide about time, memory or a GPU, or about rarer problems.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import pkgutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

import jvpsvd.svd
from benchmarks.parts.random_hostile import FAULTS, find_faults
from benchmarks.problems.random_problems import draw_problem
from benchmarks.publish.tables import table
from jvpsvd import svds
from jvpsvd.errors import JvpsvdError, JvpsvdWarning

FACTORS = (0.5, 2.0)
_LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Threshold:
    """A number that a module names in capitals."""

    module: ModuleType
    name: str
    value: float

    @property
    def title(self) -> str:
        """Its name after that of its file."""
        return f"{self.module.__name__.split('.')[-1]} {self.name}"

    @contextlib.contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Replace the number by a multiple; a whole number stays whole, and at least 1."""
        value = factor * self.value
        setattr(self.module, self.name, max(1, round(value)) if self._is_whole else value)
        try:
            yield
        finally:
            setattr(self.module, self.name, self.value)

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.value, int)


def find_thresholds(words: Sequence[str] = ()) -> list[Threshold]:
    """Return the thresholds whose title contains one of the words; all of them if there is none."""
    found = []
    for info in pkgutil.walk_packages(jvpsvd.svd.__path__, "jvpsvd.svd."):
        module = importlib.import_module(info.name)
        found += [
            Threshold(module, name, value)
            for name, value in vars(module).items()
            if name.startswith("_") and name.isupper() and type(value) in (int, float)
        ]
    return [one for one in found if not words or any(word in one.title for word in words)]


def count(seeds: range) -> collections.Counter[str]:
    """Solve problems; return products, values, converged values and faults."""
    counts: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        problem = draw_problem(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", JvpsvdWarning)
            try:
                signal.setitimer(signal.ITIMER_PROF, _LIMIT_SECONDS)
                result = svds(problem.given, **problem.options)
            except JvpsvdError:
                counts["refused"] += 1
                continue
            except Exception:  # a changed threshold may break what relies on it
                counts["raw"] += 1
                continue
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        counts["products"] += result.products.total
        counts["values"] += result.s.numel()
        counts["converged"] += int(result.converged.sum())
        counts.update(fault.split(":")[0] for fault in find_faults(problem, result))
    return counts


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no answer in {_LIMIT_SECONDS} s of the processor")


def _cells(counts: collections.Counter[str], today: collections.Counter[str]) -> list[str]:
    return [
        f"{counts['products'] / today['products']:.3f}",
        f"{100 * counts['converged'] / counts['values']:.1f} %",
        str(sum(counts[kind] for kind in FAULTS)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks thresholds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="words of their titles")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--first", type=int, default=300_000, metavar="SEED")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _give_up)
    seeds = range(options.first, options.first + options.problems)
    found, today = find_thresholds(options.names), count(seeds)
    rows = []
    for one in found:
        each = []
        for factor in FACTORS:
            with one.scaled(factor):
                each.append(count(seeds))
        if any(counts != today for counts in each):
            cells = [cell for counts in each for cell in _cells(counts, today)]
            rows.append([one.title, f"{one.value:g}", *cells])
    heads = ["threshold", "today"]
    for word in ("half", "twice"):
        heads += [f"{word}: products", "converged", "faults"]
    print("\n".join(table(heads, rows)))
    print(f"\ntoday: {today['products']} products, {' '.join(_cells(today, today)[1:])} faults")
    print(f"{len(found) - len(rows)} others of {len(found)} changed nothing")
    return 0
