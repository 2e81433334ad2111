"""The command line: arguments, calls, and exit codes.

0 done; 1 finished with failures recorded; 2 the user's mistake, one line on stderr; 130 interrupted
and resumable.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console

from jvpsvd import __version__, data, report, survey
from jvpsvd.errors import ArgumentError, JvpsvdError
from jvpsvd.networks import load_model
from jvpsvd.operators import keep_freed_memory
from jvpsvd.svd import parse_memory

_FAILURES, _MISTAKE, _INTERRUPTED = 1, 2, 130
_MODEL, _K, _TOL = "efficientnet-lite0", 500, 1e-5
# Without --shards: small enough for a laptop.
_DEMO_K, _DEMO_TOL, _DEMO_PHOTOS = 50, 1e-4, 4
_DEMO_LAYERS = ("_blocks.2", "_blocks.5", "_blocks.10", "_blocks.15", "output")

_model = click.option(
    "--model",
    default=_MODEL,
    show_default=True,
    metavar="SPEC",
    help="Built-in name, torchvision:NAME, timm:NAME, or package.module:factory (your own).",
)
_weights = click.option(
    "--weights", metavar="FILE", help="State dict (.safetensors or torch), read without pickles."
)
_memory = click.option(
    "--memory", metavar="SIZE", help="Budget of one solve, as 8GiB. [default: half the machine's]"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(
    __version__,
    message=f"jvpsvd %(version)s (torch {torch.__version__}, Python {platform.python_version()})",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Certified top singular triplets of network Jacobians, over labelled photos.

    \b
    jvpsvd run                     a real run on embedded weights and photos, in minutes
    jvpsvd layers --model SPEC     where a network can be cut, and what each depth would cost
    jvpsvd pack PHOTOS SHARDS      folders of photos, one per class, to shards
    jvpsvd run --shards SHARDS     the same for your photos
    jvpsvd verify RUN              whether a run is whole
    jvpsvd report RUN              its table and figure, from the stored numbers
    """  # noqa: D301 -- \b keeps click from reflowing the list
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@_model
@_weights
@click.option(
    "--shards", metavar="PATTERN|DIR", help="Shards. [default: 20 ImageNet photos of foolbox]"
)
@click.option(
    "--layers", metavar="NAME,NAME|all", help="Depths. [default: five spread over the network]"
)
@click.option(
    "-k", type=int, help=f"Triplets per depth. [default: {_K}; {_DEMO_K} without --shards]"
)
@click.option(
    "--tol",
    type=float,
    help="Residual, over σ1, of a converged triplet. "
    f"[default: {_TOL:g}; {_DEMO_TOL:g} without --shards]",
)
@click.option("--per-class", type=int, metavar="N", help="At most N photos of each class.")
@click.option(
    "--limit",
    type=int,
    metavar="N",
    help=f"At most N photos. [default: all; {_DEMO_PHOTOS} without --shards]",
)
@click.option("--vectors", is_flag=True, help="Store singular vectors as well (large).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@_memory
@click.option("--seed", type=int, default=0, show_default=True, help="Of the solver.")
@click.option(
    "--share", metavar="I/N", default="0/1", help="Do part I of N, counted from 0 (job arrays)."
)
@click.option(
    "--out", metavar="RUN", default="jvpsvd-run", show_default=True, help="Folder of the run."
)
def run(
    model: str,
    weights: str | None,
    shards: str | None,
    layers: str | None,
    k: int | None,
    tol: float | None,
    per_class: int | None,
    limit: int | None,
    vectors: bool,
    device: str,
    memory: str | None,
    seed: int,
    share: str,
    out: str,
) -> int:
    """Compute spectra of every photo at every depth; the same command again continues.

    Prints a table and draws one figure into RUN/report. Without --shards it takes real ImageNet
    photos that come with the package foolbox.
    """
    keep_freed_memory()
    part, place = _share(share), _device(device)
    if memory is not None:
        parse_memory(memory)
    network = load_model(model, weights)
    names = None if layers is None else [name.strip() for name in layers.split(",")]
    if shards is None:
        found = data.demo_shards(Path(out))
        k = _DEMO_K if k is None else k
        tol = _DEMO_TOL if tol is None else tol
        limit = _DEMO_PHOTOS if limit is None else limit
        if names is None and model == _MODEL:
            names = list(_DEMO_LAYERS)
    else:
        found = data.find_shards(shards)
    spec, depths = survey.specify(
        network,
        found,
        layers=names,
        k=_K if k is None else k,
        tol=_TOL if tol is None else tol,
        seed=seed,
        limit=limit,
        per_class=per_class,
        vectors=vectors,
    )
    try:
        with survey.on_stderr() as watch:
            outcome = survey.run(
                spec,
                depths,
                network,
                found,
                Path(out),
                device=place,
                memory=memory,
                share=part,
                watch=watch,
            )
    except KeyboardInterrupt:
        _complain("interrupted; the same command continues")
        return _INTERRUPTED
    _show(outcome.store)
    click.echo(
        f"{outcome.computed} photos computed, {outcome.skipped} finished before, "
        f"{len(outcome.failures)} rows failed: {out}"
    )
    return _FAILURES if outcome.failures else 0


@cli.command("report")
@click.argument("folder", metavar="RUN")
def report_run(folder: str) -> int:
    """Print the table of a run and draw its figure again, from the stored numbers."""
    _show(survey.open_run(Path(folder)))
    return 0


@cli.command()
@_model
@_weights
@click.option("-k", type=int, default=_K, show_default=True, help="Triplets to plan for.")
@_memory
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def layers(model: str, weights: str | None, k: int, memory: str | None, as_json: bool) -> int:
    """List where a network can be cut, with the method and cost planned for each depth.

    Seconds are products times one inference, timed here: a rough figure for this machine.
    """
    keep_freed_memory()
    costs = survey.depth_costs(load_model(model, weights), k, memory)
    if as_json:
        records = [dataclasses.asdict(cost) for cost in costs]
        click.echo(json.dumps({"model": model, "k": k, "layers": records}, indent=2))
    else:
        title = f"{model}: {len(costs)} depths, planned for k = {k}"
        _console().print(report.costs_table(costs, title))
    return 0


@cli.command()
@click.argument("folder", metavar="RUN")
def verify(folder: str) -> int:
    """Check that every sample of RUN's manifest has values, or a reason, at every depth."""
    verdict = survey.verify(survey.open_run(Path(folder)))
    for problem in verdict.problems:
        click.echo(problem)
    click.echo(
        f"{verdict.values} rows with values ({verdict.unconverged} triplets above the tolerance), "
        f"{verdict.failures} with a reason, {len(verdict.problems)} problems"
    )
    return _FAILURES if verdict.problems else 0


@cli.command()
@click.argument("photos", metavar="PHOTOS")
@click.argument("out", metavar="OUT")
@click.option("--per-shard", type=int, default=1000, show_default=True, help="Photos of one shard.")
def pack(photos: str, out: str, per_shard: int) -> int:
    """Write PHOTOS/CLASS/*.jpg to shards in OUT; labels count the classes in sorted order."""
    found = data.photos_by_class(Path(photos))
    written = data.pack(found, Path(out), per_shard=per_shard)
    classes = len({photo.label for photo in found})
    click.echo(f"{len(found)} photos of {classes} classes in {len(written)} shards: {out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; a mistake is one line on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a σ must not end a run on an ASCII terminal
    logging.basicConfig(level=logging.WARNING, format="jvpsvd: %(message)s")
    code: object
    try:
        code = cli.main(arguments, prog_name="jvpsvd", standalone_mode=False)
    except click.ClickException as error:
        code = _complain(error.format_message() + _where_help(error))
    except JvpsvdError as error:
        code = _complain(str(error))
    except OSError as error:
        code = _complain(f"{error.filename or 'writing failed'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        code = _INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    click.echo(f"jvpsvd: {' '.join(message.split())}", err=True)
    return _MISTAKE


def _where_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See '{context.command_path} --help'." if context is not None else ""


def _console() -> Console:
    # Tables are fitted to the width of a terminal; in a file or a pipe they stay whole.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _show(store: survey.Store) -> None:
    summaries = report.summarize(store)
    _console().print(report.table(store, summaries))
    try:
        files = report.draw_spectra(summaries, store.spec.model, store.folder / "report")
    except ArgumentError as error:
        click.echo(f"no figure: {error}", err=True)
    else:
        click.echo("figure: " + " ".join(str(file) for file in files))


def _share(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ArgumentError(f"--share {text} is not I/N with 0 <= I < N; write 0/4, 1/4, …")
    return int(index), int(count)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ArgumentError(f"--device {name} cannot be used ({first}); try cpu") from error
    return name
