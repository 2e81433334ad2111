"""Dicts and tuples of tensors as one vector, for functions that take or return several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import copysign
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.blocks import COMPLEX_FUNCTION

# Leaves that are compared, or cannot change.
_IMMUTABLE = (bool, int, float, complex, str, bytes, np.generic, Enum, range, slice, type(None))
_COMPARED = (Tensor, *_IMMUTABLE, torch.Size, torch.dtype, torch.device, torch.layout)


@dataclass(frozen=True)
class Structure:
    """How the floating tensors of a tree follow each other in one vector.

    >>> structure, vector = Structure.of({"a": torch.ones(2), "ids": torch.tensor([3])}, "x")
    >>> structure.tree(2 * vector)
    {'a': tensor([2., 2.]), 'ids': tensor([3])}
    """

    spec: TreeSpec
    leaves: tuple[Any, ...]
    """The shape of each floating tensor, and every other leaf as it is, which is held fixed."""

    @classmethod
    def of(cls, tree: Any, name: str, batch_dims: int = 0) -> tuple[Structure, Tensor]:
        """Return the structure of a tree and its vector, or a vector (B, numel) for each point.

        A mapping of another kind than dict, such as a tokenizer returns, becomes a dict.

        Raises:
            ArgumentError: If there is no floating tensor, or they differ in dtype or device; with
                batch_dims=1, if one has another number of points, or there is a fixed tensor.
        """
        leaves, spec = tree_flatten(tree)
        if spec.is_leaf() and isinstance(tree, Mapping):
            leaves, spec = tree_flatten(dict(tree))
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.is_complex():
                raise ArgumentError(
                    f"{name} holds a {leaf.dtype} tensor; {COMPLEX_FUNCTION}; or give it through "
                    "args or kwargs to hold it fixed"
                )
        floating = [leaf for leaf in leaves if _is_floating(leaf)]
        if not floating:
            raise ArgumentError(
                f"{name} holds no tensor of a floating dtype to differentiate{_instead(leaves)}"
            )
        for leaf in floating:
            if leaf.is_nested or leaf.layout != torch.strided or leaf.is_quantized:
                raise ArgumentError(
                    f"{name} holds a sparse, nested or quantized tensor; give a dense one"
                )
        first = floating[0]
        for leaf in floating:
            if (leaf.dtype, leaf.device) != (first.dtype, first.device):
                raise ArgumentError(
                    f"{name} holds a tensor in {first.dtype} on {first.device} and one in "
                    f"{leaf.dtype} on {leaf.device}; give them in one dtype on one device"
                )
            if leaf.ndim < batch_dims or leaf.shape[:batch_dims] != first.shape[:batch_dims]:
                raise ArgumentError(
                    f"{name} holds tensors of shape {tuple(first.shape)} and {tuple(leaf.shape)}; "
                    "with batch_dims=1 all have the points along their first dimension"
                )
        if batch_dims and any(isinstance(x, Tensor) and not _is_floating(x) for x in leaves):
            raise ArgumentError(
                f"{name} holds a tensor that is not floating; with batch_dims=1 give what is the "
                "same at all points through args or kwargs"
            )
        kept = tuple(x.shape[batch_dims:] if _is_floating(x) else x for x in leaves)
        parts = [x.detach().reshape(*x.shape[:batch_dims], -1) for x in floating]
        return cls(spec, kept), torch.cat(parts, dim=-1)

    def tree(self, vector: Tensor) -> Any:
        r"""Return a vector as a tree; one of shape (\\*b, numel) gives tensors (\\*b, \\*shape)."""
        shapes = [leaf for leaf in self.leaves if isinstance(leaf, torch.Size)]
        parts = iter(torch.split(vector, [shape.numel() for shape in shapes], dim=-1))
        lead = vector.shape[:-1]
        leaves = [
            next(parts).reshape((*lead, *leaf)) if isinstance(leaf, torch.Size) else leaf
            for leaf in self.leaves
        ]
        return tree_unflatten(leaves, self.spec)


def same_structure(ours: Structure | None, theirs: Structure | None) -> bool:
    """Return whether two points are of one structure, with the same leaves that are held fixed.

    >>> points = ((torch.ones(2), torch.tensor([i])) for i in (3, 3, 4))
    >>> first, same, other = (Structure.of(point, "x")[0] for point in points)
    >>> same_structure(first, same), same_structure(first, other)
    (True, False)
    """
    if ours is None or theirs is None:
        return ours is theirs
    if ours.spec != theirs.spec:
        return False
    pairs = zip(ours.leaves, theirs.leaves, strict=True)
    return all(same_leaf(a, b) for a, b in pairs)


def same_leaf(ours: Any, theirs: Any) -> bool:
    """Return whether two leaves are equal tensors, numbers, texts or sizes; 0.0 is not -0.0.

    An object of another kind may have changed unseen, so that it is not the same even as itself.

    >>> same_leaf(torch.ones(2), torch.ones(2)), same_leaf(1, 1.0), same_leaf(0.0, -0.0)
    (True, False, False)
    """
    if not isinstance(ours, _COMPARED):
        return False
    if ours is theirs:
        return True
    if not isinstance(ours, Tensor):
        return is_same_number(ours, theirs)
    if not isinstance(theirs, Tensor):
        return False
    same = (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
    try:
        return same and torch.equal(ours, theirs) and _same_signs(ours, theirs)
    except (RuntimeError, AttributeError):  # torch compares no sparse, nested or meta tensors
        return False


def is_same_number(ours: Any, theirs: Any) -> bool:
    """Return whether two numbers or texts have one type and are equal, in the sign of 0 too.

    >>> is_same_number(1, 1), is_same_number(1, True), is_same_number(0.0, -0.0)
    (True, False, False)
    """
    same = type(ours) is type(theirs) and bool(ours == theirs)
    return same and (not isinstance(ours, float) or copysign(1, ours) == copysign(1, theirs))


def _same_signs(ours: Tensor, theirs: Tensor) -> bool:
    if ours.is_complex():
        ours, theirs = (torch.view_as_real(each.resolve_conj()) for each in (ours, theirs))
    return not ours.is_floating_point() or torch.equal(ours.signbit(), theirs.signbit())


class OfVector:
    """A function of a tree as a function of a vector; its value is a vector where it was a tree.

    >>> fn = OfVector(lambda t: {"y": t[0] * t[1]}, Structure.of((torch.ones(2),) * 2, "x")[0])
    >>> fn(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([3., 8.])
    """

    def __init__(self, fn: Callable[[Any], Any], source: Structure | None) -> None:
        self._fn, self._source = fn, source
        self.__wrapped__ = fn  # for `called_modules`
        self.target: Structure | None = None
        """The structure of the last value; None if that was a tensor."""

    def __call__(self, x: Tensor) -> Any:
        """Return the value at a vector, or at a tensor where no tree is taken."""
        value = self._fn(self.tree(x))
        if isinstance(value, Tensor):
            refuse_without_entries(value, "the function returned")
            self.target = None
            return value
        return self._vector(value)

    def tree(self, x: Tensor) -> Any:
        """Return a vector as the function takes it."""
        return x if self._source is None else self._source.tree(x)

    def _vector(self, value: Any) -> Tensor:
        leaves, spec = tree_flatten(value)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                refuse_without_entries(leaf, "the function returned a tree that holds")
            if not _is_floating(leaf):
                what = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                holds = "" if leaf is value else f" that holds a leaf {what}"
                raise ArgumentError(
                    f"the function returned a {type(value).__name__}{holds}; "
                    + (COMPLEX_FUNCTION if "complex" in str(what) else _describe_choice(value))
                )
        if not leaves:
            raise ArgumentError(f"the function returned an empty {type(value).__name__}")
        devices = dict.fromkeys(str(leaf.device) for leaf in leaves)
        if len(devices) > 1:
            raise ArgumentError(
                f"the function returned tensors on {' and '.join(devices)}; let it return each as "
                "y.to(x.device)"
            )
        dtypes = dict.fromkeys(str(leaf.dtype) for leaf in leaves)
        if len(dtypes) > 1:
            raise ArgumentError(
                f"the function returned tensors in {' and '.join(dtypes)}, and the rows of a "
                "Jacobian are in one dtype; let it return each as y.to(x.dtype)"
            )
        self.target = Structure(spec, tuple(leaf.shape for leaf in leaves))
        return torch.cat([leaf.flatten() for leaf in leaves])


def refuse_without_entries(value: Tensor, what: str) -> None:
    """Refuse a value of a function some entries of which are not there: sparse, nested or masked.

    Raises:
        ArgumentError: If it is one.

    >>> refuse_without_entries(torch.eye(2).to_sparse(), "the function returned")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the function returned a tensor in torch.sparse_coo; let it ...
    """
    if value.is_nested:
        kind, dense = "a nested tensor", "torch.nested.to_padded_tensor(y, 0.0)"
    elif isinstance(value, torch.masked.MaskedTensor):
        kind, dense = "a masked tensor", "y.to_tensor(0.0)"
    elif value.layout != torch.strided:
        kind, dense = f"a tensor in {value.layout}", "y.to_dense()"
    else:
        return
    raise ArgumentError(f"{what} {kind}; let it return a dense tensor, {dense}")


def _describe_choice(value: Any) -> str:
    """Return how to make a function return only the tensors of its value."""
    if isinstance(value, Mapping):
        names = [name for name, entry in value.items() if _is_floating(entry)]
        how = "[{!r}]"
    else:
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        found = {field.name: getattr(value, field.name) for field in fields}
        entries = found or dict(getattr(value, "__dict__", {}))
        names = [name for name, entry in entries.items() if _is_floating(entry)]
        how = ".{}"
    if not names:
        return "wrap it so that it returns floating tensors only"
    others = f" (or {', '.join(map(str, names[1:6]))})" if len(names) > 1 else ""
    return f"choose what to differentiate: lambda x: fn(x){how.format(names[0])}{others}"


def _instead(leaves: list[Any]) -> str:
    """Return what to give instead of leaves that are no floating tensors."""
    if not leaves:
        return ""
    kind, leaf = type(leaves[0]).__name__, leaves[0]
    if isinstance(leaf, Tensor):
        return (
            f", but {leaf.dtype}: give numbers, such as pixels, as x.float(); token ids have no "
            "derivative: name a layer after their embedding with layer_map(…, since=…)"
        )
    if kind == "ndarray":
        return "; give torch.from_numpy(x)"
    if dataclasses.is_dataclass(leaf):
        return f"; a {kind} is not looked into: give its tensors in a dict or a tuple"
    return f", but a {kind}; give tensors, alone or in a dict, tuple or list"


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def floating_tensors(tree: Any) -> list[Tensor]:
    """Return the leaves of a tree that are tensors of a floating dtype."""
    return [leaf for leaf in tree_leaves(tree) if _is_floating(leaf)]
