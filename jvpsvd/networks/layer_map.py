"""The map from one depth of a network to another, as a function that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from jvpsvd.operators.function.first_call import FirstCall
from jvpsvd.operators.function.pytrees import same_leaf


class LayerMap:
    """The map from the input of a model, or from a depth, to a depth: what `layer_map` returns.

    Two are equal if they are of the same module and depths, and, from a depth, of equal inputs.

    Args:
        run: Computes it.
        model: The model.
        to: The depth to go to.
        since: The depth to start from; None for the input.
        fixed: What is held fixed: the input, where the map starts from a depth, or some of it.

    >>> import torch
    >>> from jvpsvd import layer_map
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> f, g = (layer_map(model, x, to="1")[0] for x in torch.ones(2, 1, 3))
    >>> f, f == g, f == layer_map(model, torch.ones(1, 3), to="0")[0]
    (<LayerMap from the input to '1' of Sequential>, True, False)
    """

    def __init__(
        self, run: Callable[[Any], Tensor], model: nn.Module, to: str, since: str | None, fixed: Any
    ) -> None:
        self.__wrapped__ = model  # where the modules of a function are looked for
        self._run, self._to, self._since, self._fixed = run, to, since, fixed
        self.first_call: FirstCall | None = None
        """What the model keeps of the evaluation that this was made by."""

    def __call__(self, z: Any) -> Tensor:
        """Return the value of the depth at a value of the input, or of the depth started from."""
        return self._run(z)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerMap):
            return NotImplemented
        if self.__wrapped__ is not other.__wrapped__:
            return False
        if (self._to, self._since) != (other._to, other._since):
            return False
        return is_same_input(self._fixed, other._fixed)

    def __hash__(self) -> int:
        return hash((id(self.__wrapped__), self._to, self._since))

    def __repr__(self) -> str:
        start = "the input" if self._since is None else f"'{self._since}'"
        return f"<LayerMap from {start} to '{self._to}' of {type(self.__wrapped__).__name__}>"


def is_same_input(ours: Any, theirs: Any) -> bool:
    """Tell whether two inputs hold the same tensors, entry by entry, and the same objects.

    >>> import torch
    >>> one = {"ids": torch.zeros(2), "steps": 7}
    >>> is_same_input(one, {"ids": torch.zeros(2), "steps": 7})
    True
    >>> is_same_input(one, {"ids": torch.zeros(2), "steps": 8})
    False
    """
    (mine, spec), (others, other_spec) = tree_flatten(ours), tree_flatten(theirs)
    return spec == other_spec and all(map(same_leaf, mine, others))


def share_an_object(ours: Any, theirs: Any) -> bool:
    """Tell whether two inputs hold one object that may have changed unseen between them.

    >>> holder = object()
    >>> share_an_object((1, holder), (1, holder)), share_an_object((1, "a"), (1, "a"))
    (True, False)
    """
    pairs = zip(tree_leaves(ours), tree_leaves(theirs), strict=False)
    return any(one is other and not same_leaf(one, other) for one, other in pairs)


def is_same_but_entries(ours: Any, theirs: Any) -> bool:
    """Tell whether two inputs differ at most in the entries of their tensors.

    Where one tensor stands in two places, one must in the other input, too.

    >>> one = {"ids": torch.zeros(2), "steps": 7}
    >>> is_same_but_entries(one, {"ids": torch.ones(2), "steps": 7})
    True
    >>> is_same_but_entries(one, {"ids": torch.ones(3), "steps": 7})
    False
    """
    (mine, spec), (others, other_spec) = tree_flatten(ours), tree_flatten(theirs)
    if spec != other_spec or not all(map(_same_kind, mine, others)):
        return False
    tensors = [pair for pair in zip(mine, others, strict=True) if isinstance(pair[0], Tensor)]
    pairs = {(id(one), id(other)) for one, other in tensors}
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def _same_kind(ours: Any, theirs: Any) -> bool:
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        return same_leaf(ours, theirs)
    strided = {ours.layout, theirs.layout} == {torch.strided}
    if type(ours) is not type(theirs) or not strided or ours.is_nested or theirs.is_nested:
        return False
    kinds = [(each.shape, each.stride(), each.dtype, each.device) for each in (ours, theirs)]
    return kinds[0] == kinds[1]
