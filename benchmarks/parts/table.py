"""What `python -m benchmarks NAME` runs, by name: parts are stored as records, commands are not."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

Measured = tuple[dict[str, Any], Iterable[dict[str, Any]]]
"""Settings and rows."""


@dataclass(frozen=True)
class Options:
    """The options of a part, from the command line."""

    quick: bool = False
    problems: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ()
    k: int | None = None
    rounds: int | None = None
    budget: int | None = None
    time_factor: int | None = None
    minutes: float | None = None
    own: tuple[str, ...] = ()
    """Arguments of a script's own command line."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Options:
        """Return the options that JSON stored, lists as tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})


@dataclass(frozen=True)
class Script:
    """A module of `parts` with a command line of its own: `main(arguments)` prints a report."""

    module: str
    arguments: tuple[str, ...] = ()
    quick_arguments: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    """Which of the suite's "-k" and "--rounds" it has, too."""

    def measure(self, options: Options) -> Measured:
        """Run it; its report and what it printed are the only row."""
        module = importlib.import_module(f"benchmarks.parts.{self.module}")
        arguments, printed = self.command_line(options), _Copied(sys.stdout)
        with contextlib.redirect_stdout(printed):
            report = module.main(arguments)
        row = {"report": report, "printed": printed.getvalue().splitlines()}
        return {"arguments": arguments}, [row]

    def command_line(self, options: Options) -> list[str]:
        """Return its arguments for these options."""
        arguments = [*self.arguments, *(self.quick_arguments if options.quick else ())]
        for flag, value in (("-k", options.k), ("--rounds", options.rounds)):
            if flag in self.takes and value is not None:
                arguments += [flag, str(value)]
        return [*arguments, *options.own]


class _Copied(io.StringIO):
    """Text that is kept and passed on."""

    def __init__(self, to: TextIO) -> None:
        super().__init__()
        self._to = to

    def write(self, text: str) -> int:
        """Keep the text, and pass it on."""
        self._to.write(text)
        return super().write(text)

    def flush(self) -> None:
        """Show what was passed on."""
        self._to.flush()


@dataclass(frozen=True)
class Part:
    """One part. It runs in a process of its own: a function of `Options`, or a script."""

    name: str
    about: str
    measure: Callable[[Options], Measured]
    script: Script | None = None
    """The script whose `measure` this is, if it is one."""
    pieces: Callable[[], tuple[str, ...]] | None = None
    """The names that --problem chooses from; each is measured and stored before the next."""


@dataclass(frozen=True)
class Command:
    """A module whose `main(arguments)` has a command line and returns an exit code."""

    name: str
    about: str
    package: str = "parts"

    def run(self, arguments: list[str]) -> int:
        """Run it in this process."""
        module = importlib.import_module(f"benchmarks.{self.package}.{self.name}")
        code = module.main(arguments)
        return code if isinstance(code, int) else 0


def _peers(options: Options) -> Measured:
    from benchmarks.parts import peers

    settings = peers.choose_settings(
        options.problems,
        options.solvers,
        options.quick,
        k=options.k or 0,
        rounds=options.rounds or 0,
        budget=options.budget or 0,
        time_factor=options.time_factor or 0,
    )
    stored = {
        "k": settings.k,
        "rounds": settings.rounds,
        "budget_seconds": settings.budget_seconds,
        "time_factor": settings.time_factor,
    }
    return stored, peers.measure(settings)


def _floors(options: Options) -> Measured:
    from benchmarks.parts import floors

    names = options.problems or (floors.QUICK_NAMES if options.quick else floors.NAMES)
    k = options.k or (10 if options.quick else 500)
    rounds = options.rounds or (1 if options.quick else 3)
    return {"k": k, "rounds": rounds}, floors.measure(names, k, rounds, small=options.quick)


def _growth(options: Options) -> Measured:
    from benchmarks.parts import growth

    axes = growth.QUICK if options.quick else growth.FULL
    chosen = tuple(axis for axis in axes if not options.problems or axis.name in options.problems)
    rounds = options.rounds or (1 if options.quick else 3)
    return {"rounds": rounds}, growth.measure(chosen, rounds)


def _safety(options: Options) -> Measured:
    from benchmarks.parts import safety
    from benchmarks.problems import hostile
    from benchmarks.solvers import SOLVERS

    # "-ours" differs from its like in the operator only, and there is one operator here.
    every = tuple(name for name in SOLVERS if not name.endswith("-ours"))
    solvers = options.solvers or (safety.QUICK_SOLVERS if options.quick else every)
    cases = options.problems or tuple(hostile.CASES)
    budget = options.budget or 30
    return {"k": hostile.K, "budget_seconds": budget}, safety.measure(solvers, cases, budget)


def _large_models(options: Options) -> Measured:
    from benchmarks.parts import large_models

    cases = large_models.QUICK if options.quick else large_models.CASES
    chosen = {name: cases[name] for name in options.problems or cases}
    return {}, large_models.measure(chosen)


def _gpu(options: Options) -> Measured:
    from benchmarks.parts import gpu

    minutes = options.minutes or (15.0 if options.quick else 10.0)
    k = options.k or (5 if options.quick else 500)
    return {"minutes": minutes, "k": k}, gpu.measure(minutes, k, options.quick)


def _problem_names() -> tuple[str, ...]:
    from benchmarks.parts.peers import FULL

    return FULL.names


def _floor_names() -> tuple[str, ...]:
    from benchmarks.parts.floors import NAMES

    return NAMES


def _axis_names() -> tuple[str, ...]:
    from benchmarks.parts.growth import FULL

    return tuple(axis.name for axis in FULL)


def _large_names() -> tuple[str, ...]:
    from benchmarks.parts.large_models import CASES

    return tuple(CASES)


def _case_names() -> tuple[str, ...]:
    from benchmarks.problems.hostile import CASES

    return tuple(CASES)


def _small(name: str, *takes: str) -> Script:
    return Script("small_timings", (name,), ("--quick",), ("--rounds", *takes))


def _from_script(name: str, about: str, script: Script) -> Part:
    return Part(name, about, script.measure, script)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "peers", "every solver on every problem, to one residual", _peers, pieces=_problem_names
        ),
        Part(
            "floors",
            "wall time over the floor, stacked by parts, and the machine's peaks",
            _floors,
            pieces=_floor_names,
        ),
        Part(
            "growth",
            "wall and memory by k, n, images, workers, ranks; exponents",
            _growth,
            pieces=_axis_names,
        ),
        Part(
            "safety",
            "hostile operators: right, wrong and said so, wrong in silence",
            _safety,
            pieces=_case_names,
        ),
        Part(
            "large_models",
            "operators of language models: seconds to make, memory above the weights, products",
            _large_models,
            pieces=_large_names,
        ),
        Part("gpu", "correctness, then times, on one CUDA card in ten minutes", _gpu),
        _from_script("allocator", "what keep_freed_memory saves", _small("allocator")),
        _from_script(
            "products",
            "a product beside an inference",
            Script("products", quick_arguments=("--rounds", "1"), takes=("--rounds",)),
        ),
        _from_script(
            "solver",
            "svds on EfficientNet-Lite0: floor, blocks, warm starts, ARPACK",
            Script("solver", quick_arguments=("-k", "20", "--skip-arpack"), takes=("-k",)),
        ),
        _from_script(
            "forecast",
            "what jvpsvd layers foretells beside what solves take",
            Script("forecast", quick_arguments=("-k", "5", "--layers", "output"), takes=("-k",)),
        ),
        _from_script(
            "survey",
            "what a survey adds to its solves",
            Script("survey", quick_arguments=("--only", "overhead")),
        ),
        _from_script(
            "many_cores",
            "photos per hour of one process, of shares and of Ray's workers, and a model of them",
            Script(
                "many_cores",
                quick_arguments=("-k", "5", "--photos", "3", "--layers", "output"),
                takes=("-k", "--rounds"),
            ),
        ),
        _from_script(
            "waiting",
            "a run beside busy processes, by how threads wait; shares of a run",
            Script(
                "waiting",
                quick_arguments=("-k", "5", "--rounds", "1", "--spins", "5000"),
                takes=("-k", "--rounds"),
            ),
        ),
        _from_script(
            "widths",
            "solves by the width of their blocks, and what of them is not products",
            Script(
                "widths",
                quick_arguments=("-k", "20", "--depths", "output", "--widths", "4,8"),
                takes=("-k", "--rounds"),
            ),
        ),
        _from_script(
            "choice",
            "the method that svds chooses for matrices in memory, beside both and LAPACK",
            Script("choice", quick_arguments=("--quick",), takes=("--rounds",)),
        ),
        _from_script(
            "small_networks",
            "Jacobians of small networks by both methods, beside the whole matrix",
            Script("small_networks", quick_arguments=("--quick",), takes=("--rounds",)),
        ),
        _from_script(
            "first_result",
            "what commands take to answer, and a run to its first row, by phases",
            Script(
                "first_result",
                arguments=("--against", "fceda69"),
                quick_arguments=("-k", "3", "--layers", "output", "--rounds", "1"),
                takes=("-k", "--rounds"),
            ),
        ),
        _from_script(
            "starts",
            "products beside those of blocks of one vector, from random and from given starts",
            Script(
                "starts",
                quick_arguments=("--photos", "2", "-k", "5", "--layers", "_blocks.13,_blocks.15"),
                takes=("-k",),
            ),
        ),
        _from_script(
            "batches",
            "all values of many small Jacobians beside svdvals",
            _small("batches", "-k"),
        ),
        _from_script(
            "together",
            "many small Jacobians in one batch beside one after another",
            _small("together", "-k"),
        ),
        _from_script(
            "projected",
            "the leading part of the projected problem beside all of it",
            _small("projected", "-k"),
        ),
        _from_script(
            "repeated_points",
            "Jacobians of one network at 100 points, and one small one, beside torch.func by hand",
            _small("repeated_points", "-k"),
        ),
        _from_script(
            "tangent_kernel",
            "eigenpairs of a tangent kernel beside torch.func and LAPACK by hand",
            _small("tangent_kernel", "-k"),
        ),
        _from_script(
            "sparse",
            "ten sparse matrices, by SciPy's ARPACK and by svds",
            _small("sparse", "-k"),
        ),
        _from_script(
            "tall",
            "a tall basis against a few vectors, by blocks of rows and by BLAS",
            _small("tall"),
        ),
        _from_script(
            "page",
            "the report of 10 000 photos at 10 depths: size, and time to open it",
            Script(
                "page",
                quick_arguments=("--photos", "50", "--depths", "2", "-k", "5", "--rounds", "1"),
                takes=("-k", "--rounds"),
            ),
        ),
    )
}

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("random_hostile", "random hostile problems: is any wrong value marked converged?"),
        Command("derivative_check", "how often the check of products against differences is right"),
        Command("defined_to", "how well a ReLU network's Jacobian is defined"),
        Command("rounding", "which tolerances rounding lets residuals meet"),
        Command("density", "counts from densities, ours beside that of curvlinops"),
        Command("laws", "counts of large random matrices, beside the laws that they follow"),
        Command("whole_spectra", "whole spectra of trained networks, beside dense SVDs"),
        Command("spectrum_coverage", "estimates of whole spectra: coverage, and bounds that hold"),
        Command("tiny_bases", "values that met the tolerance in bases that restart at few columns"),
        Command("thresholds", "what each threshold of the solvers decides"),
        Command("fuzz", "readers of foreign files, given what no file should be"),
        Command("damage", "finished runs, damaged: does verify name each damage?"),
        Command(
            "small_timings",
            "pairs of functions that do the same thing, timed in turns; not stored",
        ),
        Command("sparse_phases", "where sparse solves spend their time, ARPACK's and ours"),
        Command(
            "gpu_graphs", "products as CUDA graphs beside those that are called; a part of gpu"
        ),
        Command("reach", "published architectures: do they work, how, and how exactly"),
        Command("figures", "draw figures of stored results", "publish"),
        Command("readme", "write the performance section of a README", "publish"),
    )
}
