"""Packages whose names are imported when they are first used, so that nothing waits for torch."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """A package that knows where its names are."""

    _sources: dict[str, tuple[str, str]]
    """Module and name there, of each name here."""

    def __getattr__(self, name: str) -> Any:
        if name not in self._sources:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        source, original = self._sources[name]
        if source == self.__name__:
            return importlib.import_module(f"{source}.{original}")
        value = getattr(importlib.import_module(source), original)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        source, _ = self._sources.get(name, (self.__name__, name))
        if source != self.__name__ and isinstance(value, ModuleType):
            return  # a submodule that was imported must not hide a function of its name
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__all__, *self._sources})


def import_at_first_use(package: str) -> None:
    """Have the names that a package imports under `if TYPE_CHECKING:` imported at their first use.

    Type checkers and readers see plain imports. Python sees them when a name is asked for.

    Args:
        package: Its `__name__`; it calls this under `else:`.

    >>> import jvpsvd.networks
    >>> jvpsvd.networks.PhotoInput(size=8).size
    8
    """
    module = sys.modules[package]
    sources: dict[str, tuple[str, str]] = {}
    for block in ast.parse(inspect.getsource(module)).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                if isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        sources[alias.asname or alias.name] = node.module or "", alias.name
    module.__dict__["_sources"] = sources
    module.__class__ = _Package
