"""A network as a sequence of depths: any module's output as a function of the input, or of another.

A depth is the output of one call of one module, and has the module's name. A module that is called
several times in a forward pass gives the depths `name@1`, `name@2`, … . The output of the whole
model is "output".
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jvpsvd.arguments import listed_names, shown
from jvpsvd.errors import ModelError
from jvpsvd.networks.failures import called_at, evaluated_like, scripted_part
from jvpsvd.networks.layer_map import LayerMap
from jvpsvd.operators import (
    check_network,
    eager_execution,
    refuse_scripted,
    refuse_weights_without_values,
    restored_attributes,
    uncompiled,
)
from jvpsvd.operators.function.modules import forward_hooks

OUTPUT = "output"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Depth:
    """A depth at which a network can be cut."""

    name: str
    """Module name, with @call where the module is called more than once."""
    kind: str
    """Class of the module."""
    shape: tuple[int, ...]
    """Shape of its output at the example input."""

    @property
    def numel(self) -> int:
        """Number of rows of the Jacobian to this depth."""
        return int(torch.Size(self.shape).numel())


def depths(model: nn.Module, x: Any) -> list[Depth]:
    """Return the depths at which the model can be cut, in the order of computation.

    Args:
        model: Any module, in evaluation mode. A compiled module has the depths of the module that
            it was made from.
        x: An input as the model takes it (a batch of one for most image networks).

    Raises:
        ModelError: If the model is in training mode, fails at x, or has no tensor to cut at.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> [(d.name, d.shape) for d in depths(model, torch.zeros(1, 3))]
    [('0', (1, 4)), ('1', (1, 4)), ('output', (1, 4))]
    """
    found = _depths(model, x)
    scripted = scripted_part(uncompiled(model))
    if scripted is not None:
        logger.warning("%s; depths within it are not listed", scripted)
    return found


def _depths(model: nn.Module, x: Any) -> list[Depth]:
    check_network(model)
    if not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(x)):
        refuse_weights_without_values(model)
    model = uncompiled(model)
    with torch.no_grad(), called_at(model, x):
        calls = _record(model, x)
    times: dict[str, int] = {}
    for call in calls:
        times[call.name] = max(times.get(call.name, 0), call.number)
    found = [
        Depth(
            call.name if times[call.name] == 1 else f"{call.name}@{call.number}",
            call.kind,
            tuple(call.value.shape),
        )
        for call in calls
    ]
    if not found:
        refuse_scripted(model, "cut")
        raise ModelError(f"no module of {type(model).__name__} returns a floating tensor to cut at")
    return found


def layer_map(
    model: nn.Module, x: Any, to: str, since: str | None = None
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return (f, z): the map from the input, or from the depth `since`, to the depth `to`.

    f runs the model up to `to` and no further. With `since`, z is the value of that depth at x, and
    f substitutes its argument there; every path from x to `to` must run through `since`. Two such
    functions are equal if they are of the same module and depths, and, with `since`, of equal x.

    Args:
        model: Any module, in evaluation mode.
        x: The model's input: a tensor, or a tuple or mapping of arguments. With `since` it need not
            be differentiable (token ids, say). What is not, and what never reaches `since`, is held
            fixed; token ids count as differentiable from their embedding on.
        to: A name from `depths`.
        since: A name from `depths`, computed before `to`; None: the input.

    Raises:
        ModelError: If a name is unknown or ambiguous, the model fails at x, `since` comes after
            `to`, or a path goes around `since`; the message names the module where that path comes
            in.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> f, z = layer_map(model, torch.zeros(1, 3), to="2", since="0")
    >>> f(z).shape, z.shape
    (torch.Size([1, 2]), torch.Size([1, 4]))
    """
    cuts = [depth.name for depth in _depths(model, x)]
    model = uncompiled(model)
    target = _locate(model, cuts, to)
    if since is None:
        if not isinstance(x, Tensor):
            raise ModelError(
                f"the input is a {type(x).__name__}, not a tensor; name the depth to differentiate "
                "from with since="
            )

        def from_input(z: Tensor) -> Tensor:
            with evaluated_like(x, z, "the input"):
                return _run(model, z, [target])[0]

        return LayerMap(from_input, model, to, None, x), x
    source = _locate(model, cuts, since)
    if cuts.index(since) >= cuts.index(to):
        raise ModelError(f"since='{since}' is not computed before to='{to}'; exchange them")
    with called_at(model, x):
        _refuse_bypass(model, x, source, target, since, to)

    def from_depth(z: Tensor) -> Tensor:
        with evaluated_like(value, z, f"'{since}'"):
            return _run(model, x, [target], substitute=(source, z))[0]

    with torch.no_grad(), called_at(model, x):
        value = _run(model, x, [source])[0]
    return LayerMap(from_depth, model, to, since, x), value


def layer_maps(
    model: nn.Module, x: Tensor, to: Sequence[str]
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the map from the input to several depths at once, in one forward pass.

    Raises:
        ModelError: If a name is unknown or ambiguous.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> [y.shape for y in layer_maps(model, torch.zeros(1, 3), ["0", "1"])(torch.zeros(1, 3))]
    [torch.Size([1, 4]), torch.Size([1, 4])]
    """
    cuts = [depth.name for depth in _depths(model, x)]
    model = uncompiled(model)
    names = [to] if isinstance(to, str) else listed_names("to", to)
    targets = [_locate(model, cuts, name) for name in names]

    def from_input(z: Tensor) -> tuple[Tensor, ...]:
        with evaluated_like(x, z, "the input"):
            return tuple(_run(model, z, targets))

    return from_input


@dataclass(frozen=True)
class _Call:
    """One call of one module in a forward pass."""

    name: str
    number: int
    kind: str
    value: Tensor


_CallKey = tuple[str, int]


class _ReachedAll(Exception):  # noqa: N818 -- a jump, not an error
    """Ends a forward pass once every wanted depth has been computed."""


_See = Callable[[str, int, nn.Module, tuple[Any, ...], Any], Any]
"""Called with name, call number, module, arguments and output. Returns a replacement of the output,
or None.
"""


@contextmanager
def _hooked(model: nn.Module, see: _See) -> Iterator[None]:
    """Call `see` after every module."""
    numbers: dict[str, int] = {}

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        name = name or OUTPUT
        numbers[name] = numbers.get(name, 0) + 1
        return see(name, numbers[name], module, args, output)

    with forward_hooks(model, hook):
        yield


def _forward(model: nn.Module, x: Any) -> Any:
    """Run the model on a copy of x, because it may begin with an in-place operation."""
    return _call(model, _each(x, lambda value: value.clone()))


def _call(model: nn.Module, x: Any) -> Any:
    with eager_execution(), restored_attributes([model]):
        return _called(model, x)


def _called(model: nn.Module, x: Any) -> Any:
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def _each(x: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    """Return x with `apply` applied to the tensors among its arguments."""

    def one(value: Any) -> Any:
        return apply(value) if isinstance(value, Tensor) else value

    if isinstance(x, Mapping):
        return {name: one(value) for name, value in x.items()}
    return tuple(map(one, x)) if isinstance(x, tuple) else one(x)


def _record(model: nn.Module, x: Any) -> list[_Call]:
    calls: list[_Call] = []

    def see(name: str, number: int, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            calls.append(_Call(name, number, type(module).__name__, output))

    with _hooked(model, see):
        _forward(model, x)
    return calls


def _run(
    model: nn.Module,
    x: Any,
    targets: Sequence[_CallKey],
    substitute: tuple[_CallKey, Tensor] | None = None,
) -> list[Tensor]:
    """Run the model until all targets are computed, and return their values in the given order."""
    values: dict[_CallKey, Tensor] = {}
    wanted = set(targets)

    def see(name: str, number: int, module: nn.Module, _: Any, output: Any) -> Any:
        call = (name, number)
        if substitute is not None and call == substitute[0]:
            output = substitute[1].clone()  # a later module may work in place on it
        if call in wanted:
            # A later module may work in place on this very tensor.
            values[call] = output.clone() if len(wanted) > 1 else output
            if len(values) == len(wanted):
                raise _ReachedAll
        return output

    with _hooked(model, see), suppress(_ReachedAll):
        _forward(model, x)
    for name, number in targets:
        if (name, number) not in values:
            raise ModelError(
                f"the forward pass never reached call {number} of '{name}': the model took another "
                "path for this input"
            )
    return [values[call] for call in targets]


def _locate(model: nn.Module, cuts: list[str], name: object) -> _CallKey:
    if not isinstance(name, str):
        raise ModelError(
            f"a depth is named by a string, got {shown(name)}; there are "
            f"{', '.join(map(repr, cuts[:6]))}, …"
        )
    if name in cuts:
        module, _, number = name.rpartition("@")
        return (module, int(number)) if module and number.isdecimal() else (name, 1)
    calls = [cut for cut in cuts if cut.startswith(f"{name}@")]
    if calls:
        raise ModelError(f"'{name}' is called {len(calls)} times; say which: {', '.join(calls)}")
    similar = difflib.get_close_matches(name, cuts, n=3)
    if similar:
        hint = f"did you mean {' or '.join(similar)}?"
    else:
        hint = scripted_part(model) or f"there are {', '.join(cuts[:6])}, …"
    raise ModelError(f"no depth '{name}' among the {len(cuts)} of this model; {hint}")


def _refuse_bypass(
    model: nn.Module, x: Any, source: _CallKey, target: _CallKey, since: str, to: str
) -> None:
    """Check that x reaches `target` only through `source`: a derivative with `source` cut is 0."""
    leaves: list[Tensor] = []
    ids: set[int] = set()
    later: list[_Call] = []
    passed = False

    def leaf(value: Tensor) -> Tensor:
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()

    def prepare(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return leaf(value)
        value = value.clone()
        ids.add(_storage(value))
        return value

    def see(name: str, number: int, module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal passed
        if (
            not passed
            and isinstance(module, nn.Embedding)
            and any(_storage(arg) in ids for arg in args)
        ):
            output = leaf(output)
        if (name, number) == source:
            passed = True
            if not isinstance(x, Tensor):
                leaves[:] = [each for each in leaves if _depends(output, each)]
            return output.detach()
        if passed and isinstance(output, Tensor):
            later.append(_Call(name, number, type(module).__name__, output))
        if (name, number) == target:
            raise _ReachedAll
        return output

    with torch.inference_mode(False), torch.enable_grad():
        try:
            with _hooked(model, see), suppress(_ReachedAll):
                _call(model, _each(x, prepare))
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise ModelError(
                f"the model goes through tensors made under torch.inference_mode before '{to}', "
                "which torch cannot differentiate; take that out of it"
            ) from error
        reached = [call for call in later if any(_depends(call.value, each) for each in leaves)]
    if reached and (reached[-1].name, reached[-1].number) == target:
        around = reached[0]
        raise ModelError(
            f"since='{since}' is not a cut: a path from the input to '{to}' goes around it, "
            f"through '{around.name}' ({around.kind}); choose a depth that every path runs through"
        )


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _depends(value: Tensor, leaf: Tensor) -> bool:
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(
        value.sum(), leaf, allow_unused=True, retain_graph=True, materialize_grads=False
    )
    return gradient is not None
