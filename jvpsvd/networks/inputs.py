"""How a member of a shard that is no photo becomes the input of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jvpsvd.errors import ModelError

SUFFIXES = ("txt", "npy", "safetensors")
"""Endings of members that can be inputs: a text, a tensor, and tensors by name."""


@dataclass(frozen=True)
class Inputs:
    """How members become arguments of a network, and from where it is differentiated.

    A factory returns it beside its network, as (module, inputs).

    >>> inputs = Inputs("txt", "An example.", lambda text: {"input_ids": text}, since="embedding")
    >>> inputs.arguments("words")
    {'input_ids': 'words'}
    """

    suffix: str
    """The ending of the members: "txt", "npy" or "safetensors"."""
    example: Any
    """What such a member may hold: a text, a tensor, or a dict of tensors. Every other one is to
    give arguments of the same shapes, so that texts are to be cut or padded to one length."""
    arguments: Callable[[Any], Any] = lambda content: content
    """Takes what a member holds to the input of the network: a tensor, a tuple or a dict."""
    since: str | None = None
    """The depth to differentiate from, such as that of embedded tokens; None: the input."""
    wrt: str | int | None = None
    """The argument to differentiate by, where the input has several and `since` is None."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ModelError: On an unknown ending, or both `since` and `wrt`.
        """
        if self.suffix not in SUFFIXES:
            raise ModelError(f"Inputs suffix={self.suffix!r}; use one of {', '.join(SUFFIXES)}")
        if not callable(self.arguments):
            raise ModelError("Inputs arguments must be a function of what a member holds")
        if self.since is not None and self.wrt is not None:
            raise ModelError("Inputs has since= and wrt=; give one of them")
