"""The command line: arguments, calls, and exit codes.

0 done; 1 finished with failures recorded; 2 the user's mistake, one line on stderr; 130 interrupted
and resumable.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jvpsvd import data, networks, report, survey
from jvpsvd.commands.option_values import positive_number, share_of
from jvpsvd.commands.startup import prepare_process
from jvpsvd.commands.versions import describe_versions
from jvpsvd.errors import ArgumentError, JvpsvdError

if TYPE_CHECKING:
    from rich.console import Console

_FAILURES, _MISTAKE, _INTERRUPTED = 1, 2, 130
_MODEL, _K = survey.Spec.model, 500
_SELECTION = [field.name for field in dataclasses.fields(survey.PhotoSelection)]

_model = click.option(
    "--model",
    default=_MODEL,
    show_default=True,
    metavar="SPEC",
    help="Built-in name, torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER, or "
    "package.module:factory (your own).",
)
_weights = click.option(
    "--weights",
    metavar="FILE",
    help="State dict (.safetensors or torch), or .caffemodel; no pickles are run.",
)
_since = click.option(
    "--since", metavar="NAME", help="Depth to differentiate from. [default: input]"
)
_random_weights = click.option(
    "--random-weights", type=int, metavar="SEED", help="Random weights, for comparison."
)
_memory = click.option(
    "--memory",
    metavar="SIZE",
    help="Budget of one solve, as 8GiB. [default: half the GPU's, the job's or the machine's]",
)
_threshold = click.option(
    "--threshold",
    callback=positive_number,
    type=float,
    default=1.0,
    show_default=True,
    metavar="T",
    help="Count singular values ≥ T in the table, of each whole spectrum.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(context: click.Context, *, version: bool) -> None:
    """Certified top singular triplets of network Jacobians, over labelled photos.

    \b
    jvpsvd run                     a real run on weights and photos of jvpsvd[demo]
    jvpsvd layers --model SPEC     where a network can be cut, and what each depth would cost
    jvpsvd pack PHOTOS SHARDS      folders of photos, one per class, to shards
    jvpsvd run --shards SHARDS     the same for your photos
    jvpsvd verify RUN              whether a run is whole
    jvpsvd report RUN              its table, and a page that opens in a browser

    \b
    Names complete with TAB after  eval "$(_JVPSVD_COMPLETE=bash_source jvpsvd)"
    (zsh_source and fish_source likewise).
    """  # noqa: D301 -- \b keeps click from reflowing the list
    if version:
        click.echo(describe_versions())
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(
    epilog="""\b
    jvpsvd run
    jvpsvd run --shards shards/ --layers _blocks.9,output -k 100 --out RUN
    jvpsvd run --shards 's3://bucket/train-{0000..0146}.tar' --per-class 10 --engine ray --out RUN
    jvpsvd run --status RUN"""
)
@_model
@_weights
@_random_weights
@_since
@click.option(
    "--shards",
    metavar="PATTERN|DIR|URL",
    help="Folder, glob or brace range of shards, here or behind a URL. "
    "[default: 20 ImageNet photos of foolbox]",
)
@click.option(
    "--layers",
    metavar="NAME,NAME|all",
    help="Depths; all: every module with k units or more. [default: five modules spread over the "
    "network]",
)
@click.option(
    "-k",
    type=int,
    help="Triplets per depth; all of a depth that has fewer. [default: 500; 50 without --shards]",
)
@click.option(
    "--tol",
    type=float,
    help="Residual, over σ1, of a converged triplet. [default: 1e-5; 1e-4 without --shards]",
)
@click.option("--classes", metavar="CLASS,CLASS", help="Only these class indices or wnids.")
@click.option("--per-class", type=int, metavar="N", help="At most N photos of each class.")
@click.option(
    "--limit", type=int, metavar="N", help="At most N photos. [default: all; 4 without --shards]"
)
@click.option(
    "--choice",
    type=click.Choice(["random", "first"]),
    help="Which photos: by the seed, or those that come first. "
    "[default: random; first without --shards]",
)
@click.option(
    "--batch",
    type=int,
    metavar="N",
    help="Photos solved together. [default: 1, more where Jacobians are small]",
)
@click.option("--vectors", is_flag=True, help="Store singular vectors as well (large).")
@click.option(
    "--density",
    is_flag=True,
    help="Count all values by random vectors, in little memory; k is 1 unless -k is given.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@_memory
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the solver and of the choice of photos.",
)
@click.option(
    "--share",
    metavar="I/N",
    default="0/1",
    show_default=True,
    help="Do part I of N, counted from 0 (job arrays); outside of one, with 1/N of the cores.",
)
@click.option(
    "--engine",
    type=click.Choice(list(survey.ENGINES)),
    default="local",
    show_default=True,
    help="This process, or workers of a Ray cluster.",
)
@click.option(
    "--address", help="HOST:PORT of a running Ray cluster. [default: one is started here]"
)
@click.option(
    "--workers", type=int, metavar="N", help="Number of Ray workers. [default: one per GPU, or CPU]"
)
@click.option(
    "--out", metavar="RUN", default="jvpsvd-run", show_default=True, help="Folder of the run."
)
@_threshold
@click.option("--status", metavar="RUN", help="Only tell how far RUN is, and whether it lives.")
@click.pass_obj
def run(
    interruption: survey.Interruption,
    /,
    status: str | None,
    share: str,
    threshold: float,
    **options: Any,
) -> int:
    """Compute spectra of every photo at every depth; the same command continues a stopped run.

    Prints a table and draws one figure into RUN/report. Without --shards it takes real ImageNet
    photos that come with the package foolbox.
    """
    if status is not None:
        found = survey.status(survey.open_store(Path(status)))
        for line in found.lines():
            click.echo(line)
        return 2 if found.problem else 0
    part = share_of(share)
    prepare_process(shares=part[1])
    for name in ("layers", "classes"):
        text = options[name]
        if text is not None:
            options[name] = [part.strip() for part in text.split(",") if part.strip()]
    photos = survey.PhotoSelection(**{name: options.pop(name) for name in _SELECTION})
    spec = survey.Spec(share=part, photos=photos, **options)
    try:
        with survey.show_progress() as show:
            outcome = survey.run(spec, interruption.checked(show))
        _show(outcome.store, threshold)
    except KeyboardInterrupt:
        interruption.end()
        _complain("interrupted; the same command continues")
        return _INTERRUPTED
    click.echo(
        f"{outcome.computed} photos computed, {outcome.skipped} finished before, "
        f"{outcome.failures} rows failed: {spec.out}"
    )
    return _FAILURES if outcome.failures else 0


@cli.command(
    "report",
    epilog="""\b
    jvpsvd report RUN
    jvpsvd report RUN --shards shards/""",
)
@click.argument("folder", metavar="RUN")
@click.option(
    "--shards",
    metavar="PATTERN|DIR|URL",
    help="Shards of the photos of RUN, to show some with their vectors. [default: RUN/shards]",
)
@_threshold
def report_run(folder: str, shards: str | None, threshold: float) -> int:
    """Print the table of a run, and write its page, figures and tables into RUN/report.

    RUN/report/index.html is one file that opens in a browser and asks the network for nothing. The
    run may be unfinished.
    """
    prepare_process()
    store = survey.open_store(Path(folder))
    own = store.folder / "shards"
    where = shards or (str(own) if any(own.glob("*.tar")) else None)
    photos = data.find_shards(where) if where else ()
    values = report.read_values(store)
    _console().print(report.table(store, report.summaries_of(values, threshold)))
    written = report.write_report(values, photos, threshold)
    for line in written.missing:
        click.echo(f"not made: {line}", err=True)
    click.echo("files: " + " ".join(str(file) for file in written.files))
    if written.page is not None:
        click.echo(f"page: {written.page}")
    return 0


@cli.command(
    epilog="""\b
    jvpsvd layers -k 100
    jvpsvd layers --model caffenet --weights bvlc_reference_caffenet.caffemodel
    jvpsvd layers --model mycode.nets:build --functions --json"""
)
@_model
@_weights
@_random_weights
@_since
@click.option(
    "-k", type=int, default=_K, show_default=True, help="Triplets to plan for, per depth."
)
@click.option(
    "--tol", type=float, default=1e-5, show_default=True, help="Residual, over σ1, to plan for."
)
@_memory
@click.option("--functions", is_flag=True, help="List what functions compute, beside modules.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def layers(
    model: str,
    weights: str | None,
    random_weights: int | None,
    since: str | None,
    k: int,
    tol: float,
    memory: str | None,
    functions: bool,
    as_json: bool,
) -> int:
    """List where a network can be cut, with the method and cost planned for each depth.

    Seconds are products times one inference, timed here: a rough figure for this machine.
    """
    prepare_process()
    loaded = networks.load_model(model, weights, since=since, random_weights=random_weights)
    costs = survey.depth_costs(loaded, k, memory, tol, functions=functions)
    if as_json:
        records = [dataclasses.asdict(cost) for cost in costs]
        planned = {"model": model, "k": k, "tol": tol, "layers": records}
        click.echo(json.dumps(planned, indent=2))
    else:
        title = f"{model}: {len(costs)} depths, planned for k = {k}, tol = {tol:g}"
        _console().print(report.costs_table(costs, title))
    return 0


@cli.command(epilog="jvpsvd verify RUN || jvpsvd run … --out RUN")
@click.argument("folder", metavar="RUN")
def verify(folder: str) -> int:
    """Check that every sample of RUN's manifest has values, or a reason for none, at every depth.

    It reads rows, vectors, the manifest and run.json, and compares them with their checksums.
    """
    prepare_process()
    verification = survey.verify(survey.open_store(Path(folder)))
    for problem in verification.problems:
        click.echo(problem)
    click.echo(
        f"{verification.values} rows with values "
        f"({verification.unconverged} triplets above the tolerance), "
        f"{verification.failures} with a reason, {len(verification.problems)} problems"
    )
    if verification.unchecked:
        click.echo(
            f"{verification.unchecked} rows have no checksum "
            "(their run was begun by an older jvpsvd): "
            "changed values are noticed only where they are impossible"
        )
    return _FAILURES if verification.problems else 0


@cli.command(epilog="jvpsvd pack photos shards && jvpsvd run --shards shards --out RUN")
@click.argument("photos", metavar="PHOTOS")
@click.argument("out", metavar="OUT")
@click.option("--per-shard", type=int, default=1000, show_default=True, help="Photos of one shard.")
def pack(photos: str, out: str, per_shard: int) -> int:
    """Write PHOTOS/CLASS/*.jpg to shards in OUT; labels count the classes in sorted order.

    Photos in folders below CLASS are packed too. Files that are left out are listed; if photos may
    be among them, the exit code is 1.
    """
    found = data.list_folder(Path(photos))
    written = data.pack(found.photos, Path(out), per_shard=per_shard, source=Path(photos))
    for one in found.left_out:
        click.echo(str(one), err=True)
    classes = len({photo.label for photo in found.photos})
    click.echo(f"{len(found.photos)} photos of {classes} classes in {len(written)} shards: {out}")
    return _FAILURES if any(one.may_be_photos for one in found.left_out) else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. A user's mistake is one line on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a σ must not end a run on an ASCII terminal
    log = logging.getLogger("jvpsvd")  # what other packages log is not ours
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.handlers[0].setFormatter(logging.Formatter("jvpsvd: %(message)s"))
    code: object
    interruption = survey.Interruption()
    with interruption.installed():
        code = _called(arguments, interruption)
    sys.exit(code if isinstance(code, int) else 0)


def _called(arguments: Sequence[str] | None, interruption: survey.Interruption) -> object:
    """Return the exit code of a call, and print a user's mistake as one line."""
    try:
        code: object = cli.main(
            arguments, prog_name="jvpsvd", standalone_mode=False, obj=interruption
        )
    except click.ClickException as error:
        code = _complain(error.format_message() + _where_help(error))
    except JvpsvdError as error:
        code = _complain(str(error))
    except OSError as error:
        code = _complain(f"{error.filename or 'writing failed'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort):
        interruption.end()
        _complain("interrupted")
        code = _INTERRUPTED
    return code


def _complain(message: str) -> int:
    click.echo(f"jvpsvd: {' '.join(message.split())}", err=True)
    return _MISTAKE


def _where_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See '{context.command_path} --help'." if context is not None else ""


def _console() -> Console:
    from rich.console import Console

    # Tables fit the width of a terminal. In a file or a pipe they are not cut.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _show(store: survey.Store, threshold: float) -> None:
    summaries = report.summarize(store, threshold)
    _console().print(report.table(store, summaries))
    try:
        files = report.draw_spectra(summaries, store.identity.model, store.folder / "report")
    except ArgumentError as error:
        click.echo(f"no figure: {error}", err=True)
    else:
        click.echo("figure: " + " ".join(str(file) for file in files))
