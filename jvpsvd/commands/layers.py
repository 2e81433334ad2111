"""`jvpsvd layers`: where a network can be cut, and what each depth would cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import click

from jvpsvd.commands.printing import say, show
from jvpsvd.errors import ArgumentError
from jvpsvd.machine import in_words
from jvpsvd.networks import Model, load_model, shapes_of_hf
from jvpsvd.networks.zoo import PUBLISHED
from jvpsvd.report import costs_table, foretold_table
from jvpsvd.survey import Forecast, device_named, forecast, foretell
from jvpsvd.text_table import brief_seconds, count_noun

_SECONDS = "seconds: of one solve with products as fast as they are here"
_ITERATED = (
    "; golub-kahan takes two to three times as many products where values lie close together, as "
    "they often do at early depths"
)


def list_layers(
    model: Model,
    k: int,
    tol: float,
    memory: str | None,
    *,
    functions: bool,
    every: bool,
    as_json: bool,
) -> None:
    """Print the depths of a network with their costs, as a table or as JSON."""
    whole = every or functions or as_json
    click.echo("recording the network once, to time its products", err=True)
    found = forecast(model, k, memory, tol, functions=functions, only_blocks=not whole)
    if as_json:
        records = [dataclasses.asdict(cost) for cost in found.depths]
        planned = {
            "model": model.spec,
            "k": k,
            "tol": tol,
            "recording": found.recording,
            "layers": records,
        }
        click.echo(json.dumps(planned, indent=2))
        return
    count = len(found.depths) + found.left_out
    of = f"{len(found.depths)} of {count}" if found.left_out else f"{count}"
    subtitle = f"{of} depth{'' if count == 1 else 's'}, planned for k = {k}, tol = {tol:g}"
    iterated = any(cost.method == "golub-kahan" for cost in found.depths)
    notes = [_SECONDS + _ITERATED * iterated] if found.recording is not None else []
    show(costs_table(found.depths, model.spec, subtitle, notes))
    for line in _further(found):
        say(line)


def foretell_layers(
    spec: str,
    device: str,
    tokens: int | None,
    k: int,
    tol: float,
    *,
    since: str | None,
    every: bool,
) -> None:
    """Print what a network would hold and take on a device that is not at hand."""
    found_device = device_named(device)
    if tokens is not None and (tokens < 1 or not spec.startswith("hf:")):
        raise ArgumentError(
            f"--tokens {tokens} must be at least 1, and --model an hf: language model"
        )
    if tokens is not None:
        model = shapes_of_hf(spec, tokens, since)
    else:
        own = ":" in spec and spec.partition(":")[0] not in PUBLISHED
        model = load_model(spec, since=since, random_weights=None if own else 0)
    found = foretell(model, found_device, k, tol, only_blocks=not every)
    text = "" if tokens is None else f"{count_noun(tokens, 'token')}, "
    start = "" if model.since is None else f", from {model.since}"
    subtitle = f"{text}k = {k}, tol = {tol:g}{start}"
    show(foretold_table(found, spec, subtitle))
    if found.left_out:
        say(f"--all lists {count_noun(found.left_out, 'depth')} within blocks as well")


def refuse_unused(options: Mapping[str, object]) -> None:
    """Refuse options that say nothing of a device that is not at hand.

    Raises:
        ArgumentError: Naming the first that was given.
    """
    for name, value in options.items():
        if value is not None and value is not False:
            raise ArgumentError(f"--device foretells from shapes alone; leave out --{name}")


def _further(found: Forecast) -> list[str]:
    """Return what the table leaves out, in sentences."""
    lines = []
    if found.recording is not None:
        seconds = brief_seconds(found.recording)
        lines.append(f"recording: {seconds} s, once in a run, for all its depths")
    most = max((cost.activations or 0 for cost in found.depths), default=0)
    if most:
        size = in_words(most)
        lines.append(f"activations: up to {size} at one input, besides; --memory counts them")
    if found.left_out:
        lines.append(f"--all lists {count_noun(found.left_out, 'depth')} within blocks as well")
    return lines
