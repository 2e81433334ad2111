"""The command line that asks for a survey."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jvpsvd.survey.spec.parse_options import parse_share
from jvpsvd.survey.spec.selection import PhotoSelection
from jvpsvd.survey.spec.spec import Spec

_MOST_SHARES = 1 << 16


def command_of(spec: Spec) -> str | None:
    """Return what to type for a survey; None where it can be had from Python alone.

    >>> command_of(Spec(shards="my photos/", k=100, out="run"))
    "jvpsvd run --shards 'my photos/' -k 100 --out run"
    """
    if not isinstance(spec.model, str) or spec.inputs is not None or spec.wrt is not None:
        return None
    if isinstance(spec.k, str):
        return None
    if not isinstance(spec.shards, str | os.PathLike | None):
        return None
    options = [word for pair in _options(spec) for word in pair]
    return shlex.join(["jvpsvd", "run", *options, "--out", str(Path(spec.out))])


def command_for_folder(command: str, where: str, folder: Path) -> str:
    """Return a command that was typed somewhere, with a run's present folder as --out.

    A run that was copied or moved would be continued at its former place.

    >>> command_for_folder("jvpsvd run -k 5 --out run", "/data", Path("/copies/run 1"))
    "jvpsvd run -k 5 --out '/copies/run 1'"
    """
    try:
        words = shlex.split(command)
        place = words.index("--out") + 1
        moved = Path(where, words[place]).resolve() != folder.resolve()
    except (ValueError, IndexError, OSError):  # of a journal that was changed
        return command
    if moved:
        words[place] = str(folder.resolve())
    return shlex.join(words) if moved else command


def commands_of_other_shares(command: str, typed: Sequence[str]) -> list[str]:
    """Return the command of a share for those shares that are not among the commands typed.

    Where none is left, or it is of no share, that is the command without a share.

    >>> commands_of_other_shares("run --share 0/3", ["run --share 0/3", "run --share 2/3"])
    ['run --share 1/3']
    >>> commands_of_other_shares("run --share 0/1", ["run --share 0/1"])
    ['run']
    """
    try:
        words = shlex.split(command)
        place = words.index("--share")
        _, count = parse_share(words[place + 1])
    except (ValueError, IndexError):
        return [command]
    before, after = words[:place], words[place + 2 :]
    others = (
        shlex.join([*before, "--share", f"{index}/{count}", *after])
        for index in range(min(count, _MOST_SHARES))
    )
    return [each for each in others if each not in typed] or [shlex.join([*before, *after])]


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
