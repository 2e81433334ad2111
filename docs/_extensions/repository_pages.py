"""Pages that stand elsewhere in the repository, and links from pages to the repository's files.

Such a page has one line in docs/, `# Title` aside: the name of the file in a comment,
``% file: CHANGELOG.md``. A link to a file of the repository becomes a link to its page, where it
has one, and a download elsewhere; a link to a folder becomes its name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_FILE = re.compile(r"^% file: (\S+)$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```\s*?$)", re.MULTILINE | re.DOTALL)


def pages_of_files(docs: Path) -> dict[Path, Path]:
    """Return the page of each file of the repository that is shown as a page."""
    found = {docs.parent / "README.md": docs / "index.md"}
    for page in docs.rglob("*.md"):
        stub = _FILE.match(page.read_text())
        if stub:
            found[docs.parent / stub[1]] = page
    return found


def rewrite_links(text: str, folder: Path, page: Path, pages: dict[Path, Path]) -> str:
    """Return Markdown of `folder` as it reads on `page`."""

    def rewrite(match: re.Match[str]) -> str:
        image, words, name, anchor = match.groups(default="")
        target = Path(os.path.normpath(folder / name))
        shown = pages.get(target, target)
        if shown.is_dir():
            return words
        link = os.path.relpath(shown, page.parent)
        if image or shown.suffix == ".md":
            return f"{image}[{words}]({link}{anchor})"
        return f"{{download}}`{words.replace('`', '')} <{link}>`"

    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fetch the page's text, and rewrite its links."""
    docs, page = Path(app.srcdir), Path(app.env.doc2path(docname))
    file = _FILE.match(source[0])
    folder = page.parent
    if file:
        written = docs.parent / file[1]
        app.env.note_dependency(str(written), docname=docname)
        source[0], folder = written.read_text(), written.parent
    source[0] = rewrite_links(source[0], folder, page, pages_of_files(docs))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True}
