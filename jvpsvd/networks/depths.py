"""A network as a sequence of depths: what any part of it computes as a function of the input.

A depth is what one call of a module returns, or of a function of torch in the forward of a module
that is not torch's own. `place_names` says how they are named; the output of the whole model is
"output".
"""

from __future__ import annotations

import difflib
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jvpsvd.arguments import first_names, listed_names, shown
from jvpsvd.errors import ModelError
from jvpsvd.networks.chosen_arguments import Arguments
from jvpsvd.networks.cut_bypass import InputPaths
from jvpsvd.networks.depth import Depth
from jvpsvd.networks.failures import called_at, evaluated_like
from jvpsvd.networks.forward_pass import See, each_tensor, run_to
from jvpsvd.networks.layer_map import LayerMap, is_same_input
from jvpsvd.networks.list_calls import Call, list_calls
from jvpsvd.networks.place_names import Place, name_places
from jvpsvd.operators import (
    check_network,
    refuse_scripted,
    refuse_weights_without_values,
    uncompiled,
)
from jvpsvd.operators.function.admission import describe_scripted_part
from jvpsvd.operators.function.first_call import FirstCall

logger = logging.getLogger(__name__)


def depths(
    model: nn.Module, x: Any, *, functions: bool = True, since: str | None = None
) -> list[Depth]:
    """Return the depths at which the model can be cut, in the order of computation.

    They are the floating tensors that modules return, by themselves ("layer1") or as parts of a
    tuple, dict or dataclass ("lstm[0]", "output.logits"), and those that functions, operators and
    methods of tensors compute in the forward of modules ("layer1.0.add", "flatten", "relu_1" for
    the second call). Where a module returns what its last function computed, only the module is
    listed.
    Not listed is what happens within the modules of torch itself, scripted parts, custom
    autograd functions and extensions.

    Args:
        model: Any module, in evaluation mode. A compiled module has the depths of the module that
            it was made from.
        x: An input as the model takes it (a batch of one for most image networks).
        functions: Whether to list what functions compute. If that cannot be observed, one line in
            the log says why, and modules are listed alone.
        since: Of these depths, list those that are computed after this one.

    Raises:
        ModelError: If the model is in training mode, fails at x, or has no tensor to cut at; if
            there is no depth `since`.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> [(d.name, d.shape) for d in depths(model, torch.zeros(1, 3))]
    [('0', (1, 4)), ('1', (1, 4)), ('output', (1, 4))]
    >>> class Residual(nn.Linear):
    ...     def forward(self, x):
    ...         return {"logits": x + super().forward(x).relu()}
    >>> [d.name for d in depths(Residual(3, 3).eval(), torch.zeros(1, 3))]
    ['linear', 'relu', 'output.logits']
    """
    cuts, left_out = _list_cuts(model, x, functions=functions)
    if since is not None:
        if since not in cuts:
            cuts, left_out = _list_cuts(model, x, functions=True)
        _locate(uncompiled(model), cuts, since, left_out)
        later = itertools.islice(cuts.items(), list(cuts).index(since) + 1, None)
        cuts = {name: call for name, call in later if functions or call.kind != "function"}
    if functions and left_out is not None:
        logger.warning("%s; what functions compute is not listed", left_out)
    scripted = describe_scripted_part(uncompiled(model), "cut")
    if scripted is not None:
        logger.warning("%s; depths within it are not listed", scripted)
    return [
        Depth(name, call.kind, call.shape, part=bool(call.place.path))
        for name, call in cuts.items()
        if not call.duplicate
    ]


def _list_cuts(
    model: nn.Module, x: Any, *, functions: bool, see: See | None = None
) -> tuple[dict[str, Call], str | None]:
    """Return the calls of the model by the name of their depth, and what was left out and why.

    Autograd keeps a graph where there is a `see` that looks at it.
    """
    check_network(model)
    if not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(x)):
        refuse_weights_without_values(model)
    model = uncompiled(model)
    inference = torch.is_inference_mode_enabled() and see is None
    with (
        torch.inference_mode(inference),
        torch.set_grad_enabled(see is not None),
        called_at(model, x),
    ):
        calls, left_out = list_calls(model, x, functions=functions, see=see)
    if not calls:
        refuse_scripted(model, "cut")
        raise ModelError(
            f"no module of {type(model).__name__} returns a floating tensor to cut at; of a "
            "complex value y let it return torch.view_as_real(y)"
        )
    names = name_places(list(calls), {name for name, _ in model.named_modules()})
    return dict(zip(names, calls.values(), strict=True)), left_out


def _list_cuts_named(
    model: nn.Module, x: Any, names: Sequence[object]
) -> tuple[dict[str, Call], str | None]:
    """List the calls of modules, and those of functions if a name is not among the first."""
    modules, left_out = _list_cuts(model, x, functions=False)
    if all(name in modules for name in names if isinstance(name, str)):
        return modules, left_out
    return _list_cuts(model, x, functions=True)


def layer_map(
    model: nn.Module,
    x: Any,
    to: str,
    since: str | None = None,
    wrt: str | int | Sequence[str | int] | None = None,
) -> tuple[LayerMap, Any]:
    """Return (f, z): the map from the input, or from the depth `since`, to the depth `to`.

    f runs the model up to `to` and no further. With `since`, z is the value of that depth at x, and
    f substitutes its argument there; every path from x to `to` must run through `since`. Without
    it, z is x, or the arguments `wrt` of it. Two such functions are equal if they are of the same
    module and depths, and of equal arguments that are held fixed.

    Args:
        model: Any module, in evaluation mode.
        x: The model's input: a tensor, or a tuple or mapping of arguments, such as a tokenizer
            returns. Floating tensors are differentiated, and others held fixed. With `since` none
            need be floating: token ids count as differentiable from their embedding on. What never
            reaches `since` is held fixed.
        to: A name from `depths`, or the name of a function that computes what a module returns.
        since: Such a name, computed before `to`; None: the input.
        wrt: Name or index of an argument among several, which becomes z; all others are held fixed.
            Several of them become a dict z.

    Raises:
        ModelError: If a name is unknown or ambiguous, the model fails at x, `since` comes after
            `to`, or a path goes around `since`; the message names the depth where that path comes
            in. If nothing of x is floating, and there is no `since`.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> f, z = layer_map(model, torch.zeros(1, 3), to="2", since="0")
    >>> f(z).shape, z.shape
    (torch.Size([1, 2]), torch.Size([1, 4]))
    >>> bilinear = nn.Bilinear(3, 3, 2)
    >>> f, z = layer_map(bilinear, (torch.ones(1, 3), torch.ones(1, 3)), to="output", wrt=0)
    >>> f(z).shape, z.shape
    (torch.Size([1, 2]), torch.Size([1, 3]))
    """
    check_network(model)
    first_call = FirstCall([model])
    f, z = (
        _map_from_input(model, x, to, wrt)
        if since is None
        else _map_since(model, x, to, since, wrt)
    )
    first_call.end()
    f.first_call = first_call
    return f, z


def _map_since(
    model: nn.Module, x: Any, to: str, since: str, wrt: object
) -> tuple[LayerMap, Tensor]:
    if wrt is not None:
        raise ModelError("give since= or wrt=: from a depth, all arguments are held fixed")
    source, (target,), value = _cut(model, x, [to], since)
    model = uncompiled(model)

    def from_depth(z: Tensor) -> Tensor:
        with evaluated_like(value, z, f"'{since}'"):
            given = each_tensor(x, lambda leaf: _in_dtype_of(leaf, z, value.dtype))
            return run_to(model, given, [target], substitute=(source, z))[0]

    return LayerMap(from_depth, model, to, since, x), value


def _map_from_input(
    model: nn.Module, x: Any, to: str, wrt: str | int | Sequence[str | int] | None
) -> tuple[LayerMap, Any]:
    arguments = Arguments(x, wrt)
    cuts, left_out = _list_cuts_named(model, x, [to])
    model = uncompiled(model)
    target = _locate(model, cuts, to, left_out)
    arguments.refuse_without_floating(model, cuts)

    def from_input(z: Any) -> Tensor:
        with evaluated_like(arguments.chosen, z, "the input"):
            return run_to(model, arguments.with_chosen(z), [target])[0]

    return LayerMap(from_input, model, to, None, arguments.fixed), arguments.chosen


def _cut(
    model: nn.Module, x: Any, to: Sequence[str], since: str
) -> tuple[Place, list[Place], Tensor]:
    """Return the places of the depths from and to which a map goes, and the value of the first.

    Raises:
        ModelError: As `layer_map`.
    """
    for functions in (False, True):
        paths = InputPaths(x, since)
        cuts, left_out = _list_cuts(model, paths.x, functions=functions, see=paths.see)
        if {*to, since} <= cuts.keys():
            break
    model = uncompiled(model)
    targets = [_locate(model, cuts, name, left_out) for name in to]
    source = _locate(model, cuts, since, left_out)
    order, names = list(cuts), {call.place: name for name, call in cuts.items()}
    for name, target in zip(to, targets, strict=True):
        if target == source:
            raise ModelError(
                f"since='{since}' and to='{name}' are the same depth; go to a later one"
            )
        if order.index(since) > order.index(name):
            raise ModelError(f"since='{since}' is not computed before to='{name}'; exchange them")
        paths.refuse_bypass(source, target, names)
    return source, targets, paths.value(source)


def _in_dtype_of(leaf: Tensor, z: Tensor, before: torch.dtype) -> Tensor:
    """Return a fixed argument in the dtype that the weights were converted to, as z was."""
    return leaf.to(z.dtype) if leaf.dtype == before else leaf


class LayerMaps:
    """The map from the input, or from a depth, to several depths: what `layer_maps` returns.

    Args:
        model: The model.
        targets: The name and the place of each depth to go to.
        source: Those of the depth to start from; None for the input.
        wrt: As for `layer_map`.
        x: The input.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[tuple[str, Place]],
        source: tuple[str, Place] | None,
        wrt: str | int | None,
        x: Any,
    ) -> None:
        self.__wrapped__ = model
        self._names = [name for name, _ in targets]
        self._targets = [place for _, place in targets]
        self._since = None if source is None else source[0]
        self._source = None if source is None else source[1]
        self._wrt = wrt
        self.start(x)

    @property
    def input(self) -> Any:
        """The present input."""
        return self._x

    @property
    def fixed(self) -> Any:
        """What of the present input is held fixed; None where that is nothing."""
        return self._arguments.fixed if self._source is None else self._x

    def start(self, x: Any) -> Tensor:
        """Go over to another input, and return its z.

        Raises:
            ModelError: If the model fails there, or z is not one tensor.
        """
        self._go_over_to(x)
        if self._source is None:
            z = self._arguments.chosen
            if not isinstance(z, Tensor):
                raise ModelError(
                    f"the input is a {type(z).__name__}; choose the argument to differentiate by "
                    "with wrt=, or name a depth to start from with since="
                )
        else:
            with torch.no_grad(), called_at(self.__wrapped__, x):
                z = run_to(self.__wrapped__, x, [self._source])[0]
        self._dtype = z.dtype
        return z

    def holds_same(self, x: Any) -> bool:
        """Tell whether another input holds the same fixed as the present one."""
        other = Arguments(x, self._wrt).fixed if self._source is None else x
        return is_same_input(self.fixed, other)

    @contextmanager
    def holding(self, x: Any) -> Iterator[None]:
        """Hold fixed what another input does, for values at any z."""
        present = self._x
        self._go_over_to(x)
        try:
            yield
        finally:
            self._go_over_to(present)

    def _go_over_to(self, x: Any) -> None:
        own = dict(x) if isinstance(x, Mapping) else x
        self._x, self._arguments = own, Arguments(x, self._wrt)

    def refuse_bypass(self) -> None:
        """Check that the present input, too, reaches every depth through the one to start from.

        Raises:
            ModelError: If a path goes around it, as a mask may let one.
        """
        if self._since is not None:
            _cut(self.__wrapped__, self._x, self._names, self._since)

    def __call__(self, z: Tensor, only: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Return the values of the depths at a value of the input, or of the depth started from.

        The network runs no further than to the last of them; `only` takes some, by their indices.
        """
        targets = self._targets if only is None else [self._targets[index] for index in only]
        if self._source is None:
            with evaluated_like(self._arguments.chosen, z, "the input"):
                return tuple(run_to(self.__wrapped__, self._arguments.with_chosen(z), targets))
        given = each_tensor(self._x, lambda leaf: _in_dtype_of(leaf, z, self._dtype))
        return tuple(run_to(self.__wrapped__, given, targets, (self._source, z)))


def layer_maps(
    model: nn.Module,
    x: Any,
    to: str | Sequence[str],
    since: str | None = None,
    wrt: str | int | None = None,
) -> LayerMaps:
    """Return the map to several depths at once, in one forward pass.

    Args:
        model: Any module, in evaluation mode.
        x: The model's input.
        to: Names of depths.
        since: The depth to start from, which every path runs through; None: the input.
        wrt: The argument to start from, where there are several.

    Raises:
        ModelError: If a name is unknown or ambiguous, or a path goes around `since`.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> [y.shape for y in layer_maps(model, torch.zeros(1, 3), ["0", "1"])(torch.zeros(1, 3))]
    [torch.Size([1, 4]), torch.Size([1, 4])]
    """
    names = listed_names("to", to)
    source = None
    if since is None:
        cuts, left_out = _list_cuts_named(model, x, names)
        targets = [_locate(uncompiled(model), cuts, name, left_out) for name in names]
    else:
        place, targets, _ = _cut(model, x, names, since)
        source = since, place
    return LayerMaps(uncompiled(model), list(zip(names, targets, strict=True)), source, wrt, x)


def places_of(model: nn.Module, x: Any, names: Sequence[str]) -> dict[str, Place]:
    """Return where in a forward pass each of these depths is computed.

    Raises:
        ModelError: If a name is unknown or ambiguous.
    """
    cuts, left_out = _list_cuts_named(model, x, names)
    return {name: _locate(uncompiled(model), cuts, name, left_out) for name in names}


def _locate(model: nn.Module, cuts: dict[str, Call], name: object, left_out: str | None) -> Place:
    """Return the place of a depth."""
    listed = [cut for cut, call in cuts.items() if not call.duplicate]
    if not isinstance(name, str):
        raise ModelError(
            f"a depth is named by a string, got {shown(name)}; there are "
            f"{first_names(list(map(repr, listed)))}"
        )
    if name in cuts:
        return cuts[name].place
    calls = [cut for cut in cuts if re.fullmatch(f"{re.escape(name)}@[0-9]+", cut)]
    if calls:
        raise ModelError(f"'{name}' is called {len(calls)} times; say which: {', '.join(calls)}")
    parts = [cut for cut, call in cuts.items() if call.place.path and name in call.place.bases]
    if parts:
        raise ModelError(
            f"'{name}' returns no tensor itself; name one that it holds: {first_names(parts)}"
        )
    similar = difflib.get_close_matches(name, cuts, n=3)
    if similar:
        hint = f"did you mean {' or '.join(similar)}?"
    elif name == "input":
        hint = "a map starts at the input unless since= names another depth"
    else:
        scripted = describe_scripted_part(model, "cut")  # they have no hooks
        hint = left_out or scripted or f"there are {first_names(listed)}"
    raise ModelError(f"no depth '{name}' among the {len(listed)} of this model; {hint}")
