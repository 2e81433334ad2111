"""Which arguments of a network are differentiated, and which are held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jvpsvd.arguments import shown
from jvpsvd.errors import ModelError


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

    def refuse_without_floating(self, model: nn.Module) -> None:
        """Check that there is a tensor to differentiate by.

        Raises:
            ModelError: Naming the embeddings to start from, where there are such.
        """
        tensors = [leaf for leaf in tree_leaves(self.chosen) if isinstance(leaf, Tensor)]
        if any(leaf.is_floating_point() for leaf in tensors):
            return
        embeddings = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
        example = f", as since='{embeddings[0]}'" if embeddings else ""
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
