"""Which arguments of a network are differentiated, and which are held fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jvpsvd.arguments import shown
from jvpsvd.errors import ModelError
from jvpsvd.operators.blocks import COMPLEX_FUNCTION


class Arguments:
    """The input of a network, divided into what is differentiated and what is held fixed.

    Args:
        x: A tensor, or a tuple or mapping of arguments.
        wrt: Name or index of an argument, or several of them; None: all of x.

    >>> import torch
    >>> arguments = Arguments({"sample": torch.zeros(2), "timestep": 7}, "sample")
    >>> arguments.chosen, arguments.fixed
    (tensor([0., 0.]), {'timestep': 7})
    >>> arguments.with_chosen(torch.ones(2))
    {'sample': tensor([1., 1.]), 'timestep': 7}
    """

    def __init__(self, x: Any, wrt: str | int | Sequence[str | int] | None) -> None:
        self._x = dict(x) if isinstance(x, Mapping) else x
        self._wrt = wrt
        self.chosen: Any = self._x
        """What is differentiated: as it is in x, a single argument, or a dict of several."""
        self.fixed: Any = None
        """The other arguments."""
        if wrt is None:
            return
        every = self._x if isinstance(self._x, dict) else dict(enumerate(self._require_tuple(x)))
        names = [wrt] if isinstance(wrt, str | int) else list(wrt)
        for name in names:
            if name not in every:
                there = ", ".join(map(repr, every))
                raise ModelError(f"wrt={shown(name)} is no argument of the input; it has {there}")
        taken = {name: every[name] for name in names}
        self.chosen = taken[wrt] if isinstance(wrt, str | int) else taken
        self.fixed = {name: value for name, value in every.items() if name not in taken}

    def with_chosen(self, z: Any) -> Any:
        """Return the input with other values of what is differentiated."""
        if self._wrt is None:
            return z
        given = {self._wrt: z} if isinstance(self._wrt, str | int) else z
        if isinstance(self._x, dict):
            return {**self._x, **given}
        return tuple(given.get(index, value) for index, value in enumerate(self._x))

    def has_floating(self) -> bool:
        """Return whether there is a tensor to differentiate by."""
        tensors = [leaf for leaf in tree_leaves(self.chosen) if isinstance(leaf, Tensor)]
        return any(leaf.is_floating_point() for leaf in tensors)

    def refuse_complex(self) -> None:
        """Check that no tensor to differentiate by is complex, where none is floating.

        Raises:
            ModelError: Saying how to write the network as one of real numbers.
        """
        tensors = [leaf for leaf in tree_leaves(self.chosen) if isinstance(leaf, Tensor)]
        found = next((leaf for leaf in tensors if leaf.is_complex()), None)
        if found is not None and not self.has_floating():
            which = "the input" if self._wrt is None else f"wrt={shown(self._wrt)}"
            raise ModelError(f"{which} holds a {found.dtype} tensor; {COMPLEX_FUNCTION}")

    def refuse_without_floating(self, model: nn.Module, called: Iterable[str] = ()) -> None:
        """Check that there is a tensor to differentiate by.

        Args:
            model: The network.
            called: Names of its depths, in their order, where they are known.

        Raises:
            ModelError: Naming the embedding to start from, where there is one.
        """
        self.refuse_complex()
        if self.has_floating():
            return
        if self._wrt is not None:
            raise ModelError(
                f"wrt={shown(self._wrt)} holds no floating tensor, and integers have no "
                "derivative: choose another argument, give numbers as x.float(), or name the depth "
                "after the embedding of token ids with since= in place of wrt="
            )
        embedding = find_embedding(model, called)
        example = f", as since='{embedding}'" if embedding else ""
        raise ModelError(
            "the input holds no floating tensor: give numbers, such as pixels, as x.float(); token "
            f"ids have no derivative: name the depth after their embedding with since={example}"
        )

    @staticmethod
    def _require_tuple(x: Any) -> tuple[Any, ...]:
        if not isinstance(x, tuple):
            raise ModelError(
                "wrt= chooses among several arguments, and the input is a "
                f"{type(x).__name__}; leave it out, or give a tuple or a dict"
            )
        return x


def find_embedding(model: nn.Module, called: Iterable[str] = ()) -> str | None:
    """Return the name of the first embedding among some depths, or of the model's first one.

    A model may hold an embedding that is never called, but whose weights others share.

    >>> model = nn.ModuleDict({"shared": nn.Embedding(2, 2), "tokens": nn.Embedding(2, 2)})
    >>> find_embedding(model), find_embedding(model, ["tokens@1", "output"])
    ('shared', 'tokens@1')
    """
    embeddings = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    reached = (name for name in called if name.partition("@")[0] in embeddings)
    return next(reached, embeddings[0] if embeddings else None)
