"""The command line that asks for a survey."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jvpsvd.survey.spec.selection import PhotoSelection
from jvpsvd.survey.spec.spec import Spec


def command_of(spec: Spec) -> str | None:
    """Return what to type for a survey; None where it can be had from Python alone.

    >>> command_of(Spec(shards="my photos/", k=100, out="run"))
    "jvpsvd run --shards 'my photos/' -k 100 --out run"
    """
    if not isinstance(spec.model, str) or spec.inputs is not None or spec.wrt is not None:
        return None
    if not isinstance(spec.shards, str | os.PathLike | None):
        return None
    options = [word for pair in _options(spec) for word in pair]
    return shlex.join(["jvpsvd", "run", *options, "--out", str(Path(spec.out))])


def _options(spec: Spec) -> Iterator[tuple[str, ...]]:
    """Yield each option that is not at its default, with its value."""
    given = dataclasses.fields(spec)
    for field in given:
        value = getattr(spec, field.name)
        if field.name == "photos":
            for one in dataclasses.fields(PhotoSelection):
                yield from _option(one.name, getattr(value, one.name), one.default)
        elif field.name != "out":
            yield from _option(field.name, value, field.default)


def _option(name: str, value: Any, default: Any) -> Iterator[tuple[str, ...]]:
    if value == default:
        return
    if name == "vectors" and value is False:
        value = 0
    option = "-k" if name == "k" else f"--{name.replace('_', '-')}"
    if value is True:
        yield (option,)
    elif name == "share":
        yield option, f"{value[0]}/{value[1]}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield option, ",".join(value)
    else:
        yield option, str(value)
