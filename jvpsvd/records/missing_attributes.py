"""Attributes that an object has not, each with what it is called here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jvpsvd.arguments import nearest_name
from jvpsvd.errors import UnknownAttributeError


class AnswersOtherNames:
    """An object that answers an attribute of another name with what it is called here."""

    _other_names: Mapping[str, str] = {}
    """What to write in place of names of other packages."""

    if not TYPE_CHECKING:  # a type checker would take it for every attribute

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property, in which an attribute is missing
                return object.__getattribute__(self, name)
            said = f"{type(self).__name__} has no attribute {name}"
            # Without `obj`, Python would add a guess of its own to the message.
            raise UnknownAttributeError(said + self._answer(name), name=name, obj=None)

    def _answer(self, name: str) -> str:
        if name in self._other_names:
            return f"; {self._other_names[name]}"
        if name.startswith("_"):  # asked for by Python, and by packages that look what there is
            return ""
        known = [each for each in dir(self) if not each.startswith("_")]
        near = nearest_name(name, known)
        return f"; did you mean {near}?" if near else ""
