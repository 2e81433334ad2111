"""How a member of a shard that is no photo becomes the input of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jvpsvd.errors import ModelError
from jvpsvd.records import ComparedByFields

SUFFIXES = ("txt", "npy", "wav", "safetensors")
"""Endings of members that can be inputs: a text, a tensor, a sound, and tensors by name."""


@dataclass(frozen=True, eq=False)
class Inputs(ComparedByFields):
    """How members become arguments of a network, and from where it is differentiated.

    A factory returns it beside its network, as (module, inputs).

    >>> inputs = Inputs("txt", "An example.", lambda text: {"input_ids": text}, since="embedding")
    >>> inputs.arguments("words")
    {'input_ids': 'words'}
    """

    suffix: str
    """The ending of the members: "txt", "npy", "wav" or "safetensors"."""
    example: Any
    """What such a member may hold: a text, a tensor, a sound as a tensor (channels, samples), or a
    dict of tensors. Every other one gives arguments of the same shapes: texts are cut or padded."""
    arguments: Callable[[Any], Any] = lambda content: content
    """Takes what a member holds to the input of the network: a tensor, a tuple or a dict."""
    since: str | None = None
    """The depth to differentiate from, such as that of embedded tokens; None: the input."""
    wrt: str | int | None = None
    """The argument to differentiate by, where the input has several and `since` is None."""
    rate: int | None = None
    """Samples per second of "wav" members; one of another rate is refused, never resampled."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ModelError: On an unknown ending, both `since` and `wrt`, or a `rate` that is missing or
                not of sounds.
        """
        if self.suffix not in SUFFIXES:
            raise ModelError(f"Inputs suffix={self.suffix!r}; use one of {', '.join(SUFFIXES)}")
        if not callable(self.arguments):
            raise ModelError("Inputs arguments must be a function of what a member holds")
        if self.since is not None and self.wrt is not None:
            raise ModelError("Inputs has since= and wrt=; give one of them")
        if self.suffix != "wav" and self.rate is not None:
            raise ModelError(f'Inputs rate= is of "wav" members, and these are {self.suffix!r}')
        if self.suffix == "wav" and not (isinstance(self.rate, int) and self.rate > 0):
            raise ModelError(
                "Inputs of .wav need rate=, the samples per second that the network is made for"
            )
