"""The site documents every public name, and shows each at work. Building it executes its code."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import torch
from torch import nn

import jvpsvd

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
ROOMS = [
    "operators",
    "svd",
    "networks",
    "data",
    "geometry",
    "studies",
    "survey",
    "report",
    "errors",
]
# A block of code, or what a prompt begins.
CODE = re.compile(r"^```(?:python|\{code-cell\}[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r">>>|Example: ``")
PROMPT = re.compile(r"^ *(?:>>>|\.\.\.) (.*)$", re.MULTILINE)


def names_of(module):
    """`__all__`; of errors, every class."""
    classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
    return getattr(module, "__all__", classes)


def public():
    """Every public name, once: as `jvpsvd.svds`, not also as `jvpsvd.svd.svds`."""
    top = {f"jvpsvd.{name}": getattr(jvpsvd, name) for name in jvpsvd.__all__}
    names = {name: value for name, value in top.items() if name != "jvpsvd.__version__"}
    for room in ROOMS:
        module = importlib.import_module(f"jvpsvd.{room}")
        for name in names_of(module):
            value = getattr(module, name)
            if not any(value is one for one in names.values()):
                names[f"jvpsvd.{room}.{name}"] = value
    return names


def documented():
    """The names of the site's reference."""
    names = []
    for page in (DOCS / "reference").glob("*.md"):
        for module, block in re.findall(
            r"^```\{api\} (\S+)\n(.*?)^```", page.read_text(), re.M | re.S
        ):
            names += [f"{module}.{name}" for name in block.split()]
    return names


def docstrings(value):
    """The docstring of a name, and those of the public members of a class."""
    yield inspect.getdoc(value) or ""
    if inspect.isclass(value):
        for name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if not name.startswith("_") and (callable(function) or isinstance(member, property)):
                yield inspect.getdoc(function) or ""


def words_of_examples():
    """All words of the code on the site's pages, and of the examples of whole rooms."""
    code = []
    for page in PAGES:
        text = page.read_text()
        code += CODE.findall(text) + PROMPT.findall(text)
    for room in ROOMS:
        code += PROMPT.findall(importlib.import_module(f"jvpsvd.{room}").__doc__)
    return set(re.findall(r"\w+", "\n".join(code)))


def returned(value):
    """The names of the types that a function, or the members of a class, return."""
    functions = [value, *vars(value).values()] if inspect.isclass(value) else [value]
    for one in functions:
        function = getattr(one, "__func__", getattr(one, "fget", one))
        annotations = getattr(function, "__annotations__", {})
        yield from re.findall(r"\w+", str(annotations.get("return", "")))


def test_the_reference_has_every_public_name_once():
    assert sorted(documented()) == sorted(public())


def test_every_public_name_has_an_example():
    """A class is shown where a function that is shown returns it; errors have one for all."""
    words = words_of_examples()
    names = {name: value for name, value in public().items() if ".errors." not in name}
    shown = {
        name
        for name, value in names.items()
        if name.split(".")[-1] in words or any(EXAMPLE.search(text) for text in docstrings(value))
    }
    results = {word for name in shown for word in returned(names[name])}
    missing = {name for name in names if name not in shown and name.split(".")[-1] not in results}
    assert missing == set()


def test_the_lines_on_the_home_page_run():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer3, self.head = nn.Linear(130, 120), nn.Linear(120, 110)

        def forward(self, x):
            return self.head(self.layer3(x).tanh())

    names = {"model": Network().eval(), "x": torch.zeros(1, 130), "X": torch.randn(2, 130)}
    (code,) = CODE.findall((DOCS / "index.md").read_text())
    exec(code.replace("k=50", "k=50, progress=False"), names)  # noqa: S102 -- our own page
    assert names["result"].s.shape == (100,)
    assert names["S"].layers == ("layer3", "output")


def test_tutorials_open_with_what_one_learns():
    tutorials = {page for page in (DOCS / "tutorials").glob("*.md") if page.stem != "index"}
    openings = {page: re.search(r"^# .*\n\n(.*)$", page.read_text(), re.M)[1] for page in tutorials}
    assert {page.stem for page, text in openings.items() if "You learn: " not in text} == set()


def test_links_to_files_with_a_page_lead_there(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    module = importlib.import_module("repository_pages")
    monkeypatch.delitem(sys.modules, "repository_pages")
    page = DOCS / "how-to" / "page.md"
    pages = {ROOT / "CHANGELOG.md": DOCS / "about" / "changelog.md"}

    def rewritten(text, folder):
        return module.rewrite_links(text, folder, page, pages)

    assert rewritten("[a](../CHANGELOG.md#x)", DOCS) == "[a](../about/changelog.md#x)"
    assert rewritten("[a](library.md)", DOCS) == "[a](../library.md)"
    assert (
        rewritten("![a](figures/x.png)", ROOT / "examples") == "![a](../../examples/figures/x.png)"
    )
    assert (
        rewritten("[`a`](slurm.sh)", ROOT / "examples") == "{download}`a <../../examples/slurm.sh>`"
    )
    assert rewritten("in [results](results)", ROOT / "benchmarks") == "in results"
    for same in ("[a](https://pytorch.org)", "[a](#b)", "```\n[a](library.md)\n```"):
        assert rewritten(same, DOCS) == same
