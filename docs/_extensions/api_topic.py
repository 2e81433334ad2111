"""The directive `api`: a table of public names of one module, then the documentation of each.

```{api} jvpsvd.svd
Estimate
Curve
```
"""

import importlib
import inspect

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

_PAGE = """```{{eval-rst}}
.. currentmodule:: {module}

.. autosummary::
   :nosignatures:

   {names}

{entries}
```
"""


def entry_of(module: str, name: str) -> str:
    """Return the directive of autodoc that documents a name."""
    found = getattr(importlib.import_module(module), name)
    if inspect.isclass(found) and issubclass(found, BaseException):
        return f".. autoexception:: {name}\n   :show-inheritance:\n"
    if inspect.isclass(found):
        return f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n"
    return f".. {'autofunction' if callable(found) else 'autodata'}:: {name}\n"


class Api(SphinxDirective):
    """See the module."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the parsed table and entries."""
        module, names = self.arguments[0], [name.strip() for name in self.content if name.strip()]
        entries = "\n".join(entry_of(module, name) for name in names)
        page = _PAGE.format(module=module, names="\n   ".join(names), entries=entries)
        return self.parse_text_to_nodes(page)


def find_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Resolve `SVDResult` or `Spectrum.count` where one object alone has that name."""
    if node.get("refdomain") != "py":
        return None
    objects = env.domains.python_domain.objects
    target = node["reftarget"]
    ends = [name for name in objects if name.endswith(f".{target}") or name == target]
    if len(ends) != 1:
        return None
    found = objects[ends[0]]
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.add_directive("api", Api)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True}
