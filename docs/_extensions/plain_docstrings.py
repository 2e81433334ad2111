"""Docstrings as they are written: |x| is a norm, not a substitution of reStructuredText."""

import re

from sphinx.application import Sphinx

# What stands in backticks stays as it is; outside of them these characters would be markup.
_CODE = re.compile(r"(``.*?``|`[^`]*`)")
_MARKUP = re.compile(r"(?<!\\)\||(?<=\w)_(?=[\s,.;:)|]|$)")
_STAR = re.compile(r"(?<!\\)\*")
# Napoleon takes what stands before a colon for the type of an attribute; here it is prose.
_PROSE = ("attribute", "data", "property")


def escape_markup(
    app: Sphinx, kind: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Escape what would be markup, in all lines but those of examples."""
    in_example = False
    for index, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            parts = _CODE.split(line)
            alone = sum(len(_STAR.findall(part)) for part in parts[::2]) % 2
            for at in range(0, len(parts), 2):
                parts[at] = _MARKUP.sub(lambda found: "\\" + found[0], parts[at])
                parts[at] = _STAR.sub(r"\\*", parts[at]) if alone else parts[at]
            lines[index] = "".join(parts)
    if kind in _PROSE:
        app.plain_docstrings[name] = list(lines)  # type: ignore[attr-defined]


def restore_prose(
    app: Sphinx, kind: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Undo what napoleon has made of an attribute, unless it has sections."""
    before = app.plain_docstrings.pop(name, None)  # type: ignore[attr-defined]
    if before is not None and "Raises:" not in before:
        lines[:] = before


def escape_help(app: Sphinx, context: object, lines: list[str]) -> None:
    """Escape stars in the help of a command: they are part of file patterns."""
    lines[:] = [_STAR.sub(r"\\*", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.plain_docstrings = {}  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", escape_markup, priority=100)
    app.connect("autodoc-process-docstring", restore_prose, priority=900)
    app.connect("sphinx-click-process-description", escape_help)
    return {"parallel_read_safe": True}
