"""The command line: arguments, calls, and exit codes.

0 done; 1 finished with failures recorded; 2 the user's mistake, one line on stderr; 130 interrupted
and resumable.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from jvpsvd import networks, survey
from jvpsvd.commands.numbers import integer, number
from jvpsvd.commands.option_values import names
from jvpsvd.commands.other_words import Commands
from jvpsvd.commands.shared_options import (
    memory_option,
    model_option,
    random_weights_option,
    since_option,
    threshold_option,
    weights_option,
)
from jvpsvd.commands.startup import ended_by_signals, prepare_process
from jvpsvd.commands.versions import describe_versions
from jvpsvd.errors import ArgumentError, JvpsvdError

_FAILURES, _MISTAKE, _INTERRUPTED = 1, 2, 130
_HELP = {"help_option_names": ["-h", "--help"]}
_K = 500
_SELECTION = [field.name for field in dataclasses.fields(survey.PhotoSelection)]


@click.group(cls=Commands, context_settings=_HELP, invoke_without_command=True)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(context: click.Context, *, version: bool) -> None:
    """Certified top singular triplets of network Jacobians, over labelled photos.

    \b
    jvpsvd run                     a real run on weights and photos of jvpsvd[demo]
    jvpsvd layers --model SPEC     where a network can be cut, and what each depth would cost
    jvpsvd pack PHOTOS SHARDS      folders of photos, one per class, to shards
    jvpsvd run --shards SHARDS     the same for your photos
    jvpsvd run --status RUN        how far a run is, and how to go on with it
    jvpsvd verify RUN              whether a run is whole
    jvpsvd report RUN              its table, and a page that opens in a browser
    jvpsvd compare RUN1 RUN2       how two runs differ, with standard errors

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
@model_option
@weights_option
@random_weights_option
@since_option
@click.option(
    "--shards",
    metavar="PATTERN|DIR|URL",
    help="Folder, glob or brace range of shards, here or behind a URL. "
    "[default: 20 ImageNet photos of foolbox]",
)
@click.option(
    "--layers",
    callback=names,
    metavar="NAME,NAME|all",
    help="Depths; all: every module with k units or more. [default: five modules spread over the "
    "network]",
)
@click.option(
    "-k",
    type=integer,
    help="Triplets per depth; all of a depth that has fewer. [default: 500; 50 without --shards]",
)
@click.option(
    "--tol",
    type=number,
    help="Residual, over σ1, of a triplet; 0: the least. [default: 1e-5; 1e-4 without --shards]",
)
@click.option(
    "--classes",
    callback=names,
    metavar="CLASS,CLASS",
    help="Only these classes: names, indices or wnids.",
)
@click.option("--per-class", type=integer, metavar="N", help="At most N photos of each class.")
@click.option(
    "--limit",
    type=integer,
    metavar="N",
    help="At most N photos. [default: all; 4 without --shards]",
)
@click.option(
    "--choice",
    type=click.Choice(["random", "first"]),
    help="Which photos: by the seed, or those that come first. "
    "[default: random; first without --shards]",
)
@click.option(
    "--batch",
    type=integer,
    metavar="N",
    help="Photos solved together. [default: 1, more where Jacobians are small or a GPU holds "
    "several]",
)
@click.option(
    "--vectors",
    is_flag=False,
    flag_value="all",
    metavar="[N|all]",
    help="Store singular vectors as well (large); with N small copies of the first N and the last, "
    "which the page shows. [default: none; 4 without --shards]",
)
@click.option(
    "--density",
    is_flag=True,
    help="Count all values by random vectors, in little memory; k is 1 unless -k is given.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@memory_option
@click.option(
    "--seed",
    type=integer,
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
    "--workers",
    type=integer,
    metavar="N",
    help="Number of Ray workers. [default: one per GPU, or CPU]",
)
@click.option(
    "--out", metavar="RUN", default="jvpsvd-run", show_default=True, help="Folder of the run."
)
@threshold_option
@click.option("--compare", metavar="RUN", help="Tell how it differs from RUN, on its page too.")
@click.option("--status", metavar="RUN", help="Only tell how far RUN is, and whether it lives.")
@click.pass_obj
def run(
    interruption: survey.Interruption,
    /,
    status: str | None,
    compare: str | None,
    share: str,
    threshold: float,
    **options: Any,
) -> int:
    """Compute spectra of every photo at every depth; the same command continues a stopped run.

    Prints a table and writes a page into RUN/report. Without --shards it takes real ImageNet
    photos that come with the package foolbox.
    """
    if status is not None:
        from jvpsvd.commands.verify import show_status

        return 0 if show_status(survey.open_store(Path(status))) else _MISTAKE
    if compare is not None:
        survey.open_store(Path(compare))  # a name that is wrong is told before the work
    part = survey.parse_share(share)
    prepare_process(shares=part[1])
    options["vectors"] = survey.parse_vectors(options["vectors"])
    photos = survey.PhotoSelection(**{name: options.pop(name) for name in _SELECTION})
    spec = survey.Spec(share=part, photos=photos, **options)
    try:
        with survey.show_progress() as show:
            outcome = survey.run(spec, interruption.checked(show))
        with ended_by_signals():
            from jvpsvd.commands.run import show_run  # not before there are rows
        show_run(outcome, spec, threshold, compare)
    except KeyboardInterrupt:
        interruption.end()
        _complain("interrupted; the same command continues")
        return _INTERRUPTED
    return _FAILURES if outcome.failures else 0


@cli.command(
    "report",
    epilog="""\b
    jvpsvd report RUN
    jvpsvd report RUN --shards shards/
    jvpsvd report RUN --out report/""",
)
@click.argument("folder", metavar="RUN")
@click.option(
    "--shards",
    metavar="PATTERN|DIR|URL",
    help="Shards of the photos of RUN, to show some with their vectors. [default: RUN/shards]",
)
@click.option("--compare", metavar="RUN", help="Compare it with this run on the page.")
@click.option(
    "--out",
    metavar="REPORT",
    help="Folder to write to, for a run that is read-only. [default: RUN/report]",
)
@threshold_option
def report_run(
    folder: str, shards: str | None, compare: str | None, out: str | None, threshold: float
) -> int:
    """Print the table of a run, and write its page, figures and tables into RUN/report.

    RUN/report/index.html is one file that opens in a browser and asks the network for nothing. The
    run may be unfinished.
    """
    prepare_process("jvpsvd.commands.run")
    from jvpsvd.commands.run import show_report

    show_report(survey.open_store(Path(folder)), threshold, shards, compare, out)
    return 0


@cli.command(
    epilog="""\b
    jvpsvd layers -k 100
    jvpsvd layers --model caffenet --weights bvlc_reference_caffenet.caffemodel
    jvpsvd layers --model mycode.nets:build --functions --json"""
)
@model_option
@weights_option
@random_weights_option
@since_option
@click.option(
    "-k", type=integer, default=_K, show_default=True, help="Triplets to plan for, per depth."
)
@click.option(
    "--tol", type=number, default=1e-5, show_default=True, help="Residual, over σ1, to plan for."
)
@memory_option
@click.option(
    "--device",
    metavar="DEVICE",
    help="Foretell from shapes alone, for 'H100 80GiB' or '80GiB 60TFLOPS'; no weights are read.",
)
@click.option("--tokens", type=integer, metavar="N", help="With --device: length of a text.")
@click.option("--all", "every", is_flag=True, help="List every module, not only blocks.")
@click.option("--functions", is_flag=True, help="List what functions compute, beside all modules.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of every module.")
def layers(
    model: str,
    weights: str | None,
    random_weights: int | None,
    since: str | None,
    k: int,
    tol: float,
    memory: str | None,
    device: str | None,
    tokens: int | None,
    every: bool,
    functions: bool,
    as_json: bool,
) -> int:
    """List where a network can be cut, with the method and cost planned for each depth.

    The network is recorded once, as a run does, and its products are timed on this machine.
    """
    prepare_process("jvpsvd.commands.layers")
    from jvpsvd.commands.layers import foretell_layers, list_layers, refuse_unused

    if device is not None:
        refuse_unused({"weights": weights, "random-weights": random_weights, "memory": memory,
                       "functions": functions, "json": as_json})  # fmt: skip
        foretell_layers(model, device, tokens, k, tol, since=since, every=every)
        return 0
    if tokens is not None:
        raise ArgumentError("--tokens is of a forecast for a device; add --device")
    loaded = networks.load_model(model, weights, since=since, random_weights=random_weights)
    list_layers(loaded, k, tol, memory, functions=functions, every=every, as_json=as_json)
    return 0


@cli.command(epilog="jvpsvd compare untrained trained")
@click.argument("first", metavar="RUN1")
@click.argument("second", metavar="RUN2")
@threshold_option
def compare(first: str, second: str, threshold: float) -> int:
    """Print how RUN2 differs from RUN1 at each depth, with standard errors.

    Trained against untrained, two networks, or two precisions. The same photos are compared one by
    one, by their keys. An error is that of the mean over photos, with what each photo's own random
    start sampled. Runs of older versions share one start, whose error is added: more photos do not
    narrow that part.
    """
    prepare_process("jvpsvd.commands.compare")
    from jvpsvd.commands.compare import show_comparison

    show_comparison(Path(first), Path(second), threshold)
    return 0


@cli.command(epilog="jvpsvd verify RUN || jvpsvd run … --out RUN")
@click.argument("folder", metavar="RUN")
def verify(folder: str) -> int:
    """Check that every sample of RUN's manifest has values, or a reason for none, at every depth.

    It reads rows, vectors, the manifest and run.json, and compares them with their checksums.
    """
    prepare_process("jvpsvd.commands.verify")
    from jvpsvd.commands.verify import verify_run

    return 0 if verify_run(survey.open_store(Path(folder))) else _FAILURES


@cli.command(epilog="jvpsvd pack photos shards && jvpsvd run --shards shards --out RUN")
@click.argument("photos", metavar="PHOTOS")
@click.argument("out", metavar="OUT")
@click.option(
    "--per-shard", type=integer, default=1000, show_default=True, help="Photos of one shard."
)
def pack(photos: str, out: str, per_shard: int) -> int:
    """Write PHOTOS/CLASS/*.jpg to shards in OUT; labels count the classes in sorted order.

    Photos in folders below CLASS are packed too. Files that are left out are listed; if photos may
    be among them, the exit code is 1.
    """
    from jvpsvd.commands.pack import pack_folder

    return 0 if pack_folder(Path(photos), Path(out), per_shard) else _FAILURES


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
        code = _call(arguments, interruption)
    sys.exit(code if isinstance(code, int) else 0)


def _call(arguments: Sequence[str] | None, interruption: survey.Interruption) -> object:
    """Return the exit code of a call, and print a user's mistake as one line."""
    try:
        code: object = cli.main(
            arguments, prog_name="jvpsvd", standalone_mode=False, obj=interruption
        )
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = "" if context is None else f" See '{context.command_path} --help'."
        code = _complain(error.format_message() + where)
    except JvpsvdError as error:
        code = _complain(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        code = _complain(
            f"{error.filename}: {reason}"
            if error.filename  # files without a name are what it prints to
            else f"the output cannot be written: {reason}; send it to another place, or make room"
        )
    except (KeyboardInterrupt, click.Abort):
        interruption.end()
        _complain("interrupted")
        code = _INTERRUPTED
    return code


def _complain(message: str) -> int:
    click.echo(f"jvpsvd: {' '.join(message.split())}", err=True)
    return _MISTAKE
