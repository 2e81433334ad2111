"""Record the operations that torch carries out for a function as a graph.

`torch.fx.experimental.proxy_tensor.make_fx` does the same for more kinds of values. It takes
longer for each operation, and refuses every number that is read from a tensor. A language
model asks whether its attention mask is all ones, a network reads its own scale: what no argument
decides is the same at every point, so that the branch that is taken belongs to the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.weak import WeakTensorKeyDictionary

from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.recording.passes.fx_tools import add_call
from jvpsvd.operators.recording.sizes import (
    call_of_same_shapes,
    is_sized_by_values,
    shapes_of,
    without_masks,
)

_aten = torch.ops.aten
_SIZES = {_aten.size.default, _aten.stride.default, _aten.storage_offset.default}
_ALIASES = {_aten.alias.default, _aten.detach.default}
_BILINEAR = {_aten.mm.default, _aten.bmm.default, _aten.mv.default}
_OUR_OWN = {Tensor, nn.Parameter, nn.Buffer}


class TooLargeError(BaseException):
    """Results take more bytes than they may; no handler in fn is to take it for an error of fn."""


def record_operations(
    fn: Callable[..., Any],
    *args: Tensor,
    most_bytes: float = math.inf,
    described: bool = True,
    read: int = 0,
) -> fx.GraphModule:
    """Return the operations of fn at `args` as a graph that takes these, and what else it reads.

    Tensors that fn reads and no operation made are attributes of the graph module. Each node has
    in `meta["val"]` a tensor without memory of the shape, strides, dtype and device of its value.
    The module is not compiled: call its `recompile` before the module itself.

    Args:
        fn: Returns tensors in any nesting of tuples. It changes no shape in place: functionalize a
            function that may.
        args: The arguments.
        most_bytes: Largest number of bytes of all results that are no views.
        described: Whether nodes are to have `meta["val"]`, which takes time.
        read: Of how many arguments, the last ones, fn may read numbers. With any, each number that
            is read is a node, so that two graphs can be compared by them, too.

    Raises:
        RuntimeError: If fn reads a number that depends on another argument.
        TooLargeError: If results take more.

    >>> mask = torch.ones(2)
    >>> graph = record_operations(lambda x: 2 * x if (mask > 0).all() else x, torch.ones(2))
    >>> graph.recompile() and graph(torch.tensor([1.0, 3.0]))
    tensor([2., 6.])
    >>> record_operations(lambda x: 2 * x if (x > 0).all() else x, torch.ones(2))
    Traceback (most recent call last):
    RuntimeError: aten._local_scalar_dense.default reads a number that depends on the argument
    """
    tape = _Tape(args, most_bytes, described, read)
    with _cast_anew(), tape:
        results = fn(*args)
    return tape.finish(results)


class _Tape(DispatchMode):
    """The mode under which operations are carried out and recorded."""

    def __init__(
        self, args: tuple[Tensor, ...], most_bytes: float, described: bool, read: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = fx.GraphModule(nn.Module(), fx.Graph())
        self._graph = self._module.graph
        self._describe = _descriptions() if described else None
        # Tensors are freed as they would be without us.
        self._nodes = WeakTensorKeyDictionary()
        self._dependent: set[fx.Node] = set()
        self._constants = 0
        self._bytes_left, self._notes_numbers = most_bytes, read > 0
        for index, argument in enumerate(args):
            node = self._graph.placeholder(f"argument_{index}")
            if index < len(args) - read:
                self._dependent.add(node)
            self._name(argument, node)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _OUR_OWN.issuperset(types):
            return NotImplemented  # the subclass goes on, with operations on what it holds
        if _is_composite(func):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        by_indices = without_masks(func, args)
        if by_indices is not None:
            with self:
                return by_indices()
        inputs, options = self._of(args), self._of(kwargs)
        if torch.Tag.data_dependent_output in func.tags:
            if not self._dependent.isdisjoint(_nodes_in((inputs, options))):
                raise RuntimeError(f"{func} reads a number that depends on the argument")
            number = func(*args, **kwargs)
            if self._notes_numbers:
                add_call(self._graph, func, inputs, {**options, "read": number})
            return number
        if func is _aten.lift_fresh.default:  # of a constant, which no change in place must reach
            func = _aten.lift_fresh_copy.default
        if func in _BILINEAR and any(map(_is_zero, inputs)):
            # Forward mode of a layer multiplies by a change of its weights, which is zero.
            result: Any = _zeros_like_result(func, args)
            func, inputs = _aten.zeros.default, (list(result.shape),)
            options = {"dtype": result.dtype, "device": result.device}
        else:
            result = func(*args, **kwargs)
        if _makes_memory(func):
            parts = result if isinstance(result, tuple | list) else (result,)
            self._bytes_left -= sum(part.nbytes for part in parts if isinstance(part, Tensor))
            if self._bytes_left < 0:
                raise TooLargeError
        if func in _ALIASES:
            self._nodes[result] = inputs[0]
            return result
        if is_sized_by_values(func):
            func, inputs = call_of_same_shapes, (func, (shapes_of(result),), *inputs)
        elif _only_tells(func):
            return result
        node = add_call(self._graph, func, inputs, options)
        if not self._dependent.isdisjoint(node.all_input_nodes):
            self._dependent.add(node)
        self._name(result, node)
        return result

    def finish(self, results: Any) -> fx.GraphModule:
        """Return the graph that ends with these results."""
        self._graph.output(self._of(results))
        return self._module

    def _name(self, result: Any, node: fx.Node) -> None:
        """Let a node, and others for its parts, stand for what an operation returned."""
        if isinstance(result, Tensor):
            self._nodes[result] = node
            if self._describe is not None:
                node.meta["val"] = self._describe(
                    result.shape, result.stride(), result.dtype, result.device
                )
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    item = add_call(self._graph, getitem, (node, index))
                    if node in self._dependent:
                        self._dependent.add(item)
                    self._name(part, item)

    def _of(self, value: Any) -> Any:
        """Return the node of a tensor, and those of all in a structure."""
        if isinstance(value, Tensor):
            node: fx.Node | None = self._nodes.get(value)  # type: ignore[no-untyped-call]
            return self._add_constant(value) if node is None else node
        if isinstance(value, tuple | list):
            return (
                [*map(self._of, value)] if isinstance(value, list) else tuple(map(self._of, value))
            )
        if isinstance(value, dict):
            return {name: self._of(each) for name, each in value.items()}
        return value

    def _add_constant(self, value: Tensor) -> fx.Node:
        name = f"constant_{self._constants}"
        self._constants += 1
        if isinstance(value, nn.Parameter):
            self._module.register_parameter(name, value)
        else:
            self._module.register_buffer(name, value)
        node = self._graph.get_attr(name)
        self._name(value, node)
        return node


def _is_zero(node: Any) -> bool:
    """Return whether a node is one zero that is expanded, as torch makes what does not change."""
    if not isinstance(node, fx.Node):
        return False
    if node.target in (_aten.expand.default, _aten.alias.default):
        return _is_zero(node.args[0])
    return node.target is _aten.zeros.default and node.args[0] == []


def _zeros_like_result(func: OpOverload, args: Any) -> Tensor:
    """Return zeros in place of a product."""
    (device,) = {each.device for each in args}
    of_kind = func(*(torch.empty_like(each, device="meta") for each in args))
    return torch.zeros_like(of_kind, device=device)


@cache
def _makes_memory(func: OpOverload) -> bool:
    """Return whether results of an operation are neither views nor changed in place."""
    return all(each.alias_info is None for each in func._schema.returns)


@cache
def _only_tells(func: OpOverload) -> bool:
    """Return whether an operation neither returns tensors nor changes any."""
    kinds = {str(each.type) for each in func._schema.returns}
    return not func._schema.is_mutable and kinds <= {"bool", "int", "float"}


@cache
def _is_composite(func: OpOverload) -> bool:
    """Return whether autograd, where it is off, has left an operation in one piece."""
    if func in _SIZES:
        return False
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    name: str = func.name()  # type: ignore[no-untyped-call]
    return has_kernel(name, "CompositeImplicitAutograd")


def _nodes_in(value: Any) -> Iterator[fx.Node]:
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _nodes_in(each)


def _descriptions() -> Callable[..., Tensor]:
    """Return a function that makes tensors without memory, one for each kind."""
    without_memory = FakeTensorMode()

    @cache
    def describe(
        shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        with without_memory:
            return torch.empty_strided(shape, strides, dtype=dtype, device=device)

    return describe


@contextmanager
def _cast_anew() -> Iterator[None]:
    """Keep autocast from reusing weights that it cast before: no operation would have made them."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
