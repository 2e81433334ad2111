"""Spectra of a network at several depths and many inputs, in one call."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Never

import torch
from torch import Tensor, nn

from jvpsvd.arguments import (
    listed_names,
    refuse_unknown_names,
    shown,
    threshold_number,
    whole_number,
)
from jvpsvd.errors import ArgumentError, JvpsvdError, NonFiniteError
from jvpsvd.imports import is_installed
from jvpsvd.machine import parse_memory
from jvpsvd.networks import OUTPUT, Arguments, Derivatives, choose_batch, depths
from jvpsvd.networks.batch_dimension import refuse_without_batch_of_inputs
from jvpsvd.networks.depth import with_values
from jvpsvd.operators import BatchedMap, JacobianOperator, LinearMap, LinearOperator, uncompiled
from jvpsvd.operators.function.conversion import check_dtype
from jvpsvd.studies.inputs import (
    count_inputs,
    each_input,
    list_arguments,
    list_kinds,
    refuse_mixed_list,
    refuse_other_kind,
    told_how_read,
)
from jvpsvd.studies.network_spectra import DepthSpectra, NetworkSpectra, join
from jvpsvd.svd import SVDResult, svds
from jvpsvd.svd.kernels.random_numbers import derive_seed
from jvpsvd.svd.progress import bar_console
from jvpsvd.svd.request import choose_seed, reached_tolerance

logger = logging.getLogger(__name__)

# Tiny Jacobians that are solved together. A survey takes fewer, to lose less when it is killed.
_MOST_TOGETHER = 128

_OTHER_NAMES = {
    "device": "it runs where the model lies; move the model there",
    "vectors": "it keeps values alone; svds(JacobianOperator(model, x)) has vectors",
    "method": "it is chosen; svds(JacobianOperator(model, x), method=…) takes it",
    **dict.fromkeys(
        ("args", "kwargs"),
        "give inputs as dicts of all arguments, and wrt= that to differentiate by",
    ),
}


def spectra(
    model: nn.Module,
    X: Any,
    layers: str | Sequence[str] = (OUTPUT,),
    k: int | Literal["all"] = 50,
    *,
    since: str | None = None,
    wrt: str | None = None,
    tol: float = 1e-5,
    threshold: float = 1.0,
    batch: int | None = None,
    seed: int | None = 0,
    memory: int | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    **other_names: Never,
) -> NetworkSpectra:
    """Return the k largest singular values of the Jacobian to each depth, for every input.

    The network is recorded once and replayed at every input; small Jacobians are solved together,
    and on a GPU large ones too. It is the library twin of a survey, and gives the same values to
    the tolerance.

    Args:
        model: The network, in evaluation mode.
        X: A tensor of inputs along the first dimension, a DataLoader, or a dataset, list or other
            iterable whose items are one input each, without the dimension of the batch: that is put
            in front, and must be the one along which the network takes its batch. In a pair (input,
            label) the input comes first; a network of several arguments takes pairs with a class
            index alone, and otherwise dicts of tensors. NumPy's arrays, and those of other
            libraries, stand for tensors.
        layers: Names of `depths`; "all": all modules that have k values, or all if none has.
        k: How many values, min(m, n) at a depth that has fewer; "all" of each depth.
        since: A depth to differentiate from, instead of the input, as token ids need it.
        wrt: The argument to differentiate by, where inputs are dicts; the others are held fixed.
            With it or `since` inputs may differ in shape, and the network is recorded anew for
            another shape. Inputs with other masks share a recording, unless the network reads a
            number from the mask, or decides by one. Without them inputs may not differ in shape: a
            list is refused before the work, a dataset or an iterable when such an input is read.
        tol: Tolerance of each solve.
        threshold: All min(m, n) values from here on are counted, by each solve's `spectrum`.
        batch: Inputs that are solved together; None: many where Jacobians are small, or on a GPU.
        seed: Seed of all solves. The first input is solved with it, and each of the others with one
            that is derived from it and from the input's index (`seeds` of a depth has them): what
            random starts sample is independent, and averages out over inputs. Two calls with one
            seed share these starts; where their means are to be averaged, give each another seed.
            None: another one each time.
        memory: Bytes of each solve, as `svds` takes them.
        dtype: Differentiate and solve in this dtype, as `JacobianOperator` does: float64 for values
            below the rounding of float32 (unless the network casts to it inside), float32 for a
            network in half precision. The model and X stay as they are, and are given in one dtype.
            None: in that one.
        progress: Whether to show a bar on stderr.
        other_names: None: each is refused in a line that says what it is called here.

    Raises:
        ArgumentError: If there is no input, or inputs differ in shape and neither `since` nor `wrt`
            is given. If the network computes something else of two inputs together than of each
            alone, inputs have a batch already, or a pair holds what may be another argument.
        ModelError, NonFiniteError, DerivativeError: As `JacobianOperator` does; the message names
            the input.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    >>> S = spectra(model, torch.zeros(5, 3), layers=["1", "output"], k=3, progress=False)
    >>> S["1"].s.shape, S["output"].s.shape
    (torch.Size([5, 3]), torch.Size([5, 2]))
    """
    refuse_unknown_names(spectra, other_names, _OTHER_NAMES)
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model is {shown(model)}; give a torch module, then its inputs X")
    names = list(dict.fromkeys(listed_names("layers", layers)))
    if not names:
        raise ArgumentError("layers is empty; name one depth at least, as layers=['output']")
    check_dtype(dtype)
    threshold = threshold_number("threshold", threshold)
    _check_solve(tol, memory)
    root = choose_seed(seed)
    count = None if isinstance(k, str) and k == "all" else whole_number("k", k, 1)
    least = 1 if count is None else count
    batch = None if batch is None else whole_number("batch", batch, 1)
    if wrt is not None and not isinstance(wrt, str):
        raise ArgumentError(f"wrt={shown(wrt)} must be the name of an argument of inputs in dicts")
    if since is not None and wrt is not None:
        raise ArgumentError("give since= or wrt=: from a depth, all arguments are held fixed")
    one_by_one = since is not None or wrt is not None
    arguments = list_arguments(model)
    if not one_by_one:
        refuse_mixed_list(X, arguments)
    inputs = _show_bar(each_input(X, _device_of(model), arguments), count_inputs(X), progress)
    if names == ["all"]:
        names, inputs = _list_modules(model, inputs, since, wrt, least)

    def solve(name: str, J: LinearOperator, first: int) -> DepthSpectra:
        inputs = range(first, first + (J.batch[0] if J.batch else 1))
        seeds = [_input_seed(root, index) for index in inputs]
        result = svds(
            J,
            "all" if count is None else min(count, *J.shape[-2:]),
            tol=tol,
            seed=seeds if J.batch else seeds[0],
            memory=memory,
            vectors=False,
            on_unconverged="ignore",
        )
        return _depth_spectra(name, J, result, threshold, seeds)

    def choose(first: Tensor, rows: int) -> int:
        if batch is not None:
            return batch
        values = min(first.numel(), rows) if count is None else count
        size = first.numel(), rows, values
        return choose_batch(*size, device=first.device, memory=memory, most=_MOST_TOGETHER)

    if one_by_one:
        parts = _one_by_one(model, inputs, names, since, wrt, dtype, solve)
    else:
        parts = _through_recording(model, inputs, names, dtype, choose, solve)
    groups = list(zip(*parts, strict=True))
    if not groups:
        raise ArgumentError(f"X={shown(X)} holds no input; give at least one")
    found = tuple(join(list(of)) for of in groups)
    return NetworkSpectra(found, type(uncompiled(model)).__name__, tol, threshold)


def _list_modules(
    model: nn.Module, inputs: Iterator[Any], since: str | None, wrt: str | None, k: int
) -> tuple[list[str], Iterator[Any]]:
    """Return the depths of modules that have k values, as a survey chooses them, and the inputs."""
    first = next(inputs, None)
    if first is None:
        return [OUTPUT], inputs
    with told_how_read(first):
        every = depths(model, first, functions=False)
        later = every if since is None else depths(model, first, functions=False, since=since)
    start = first[wrt] if wrt is not None and isinstance(first, dict) and wrt in first else first
    sizes = [each.numel for each in every if each.name == since]
    if since is None and isinstance(start, Tensor):
        sizes = [start.numel()]
    modules = [depth for depth in later if not depth.part] or later
    names = [depth.name for depth in with_values(modules, k, min(sizes, default=k))]
    return names, itertools.chain([first], inputs)


def _refuse_other_dtype(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> None:
    weights = {each.dtype for each in model.parameters() if each.is_floating_point()}
    if dtype is not None and x.is_floating_point() and weights and x.dtype not in weights:
        raise ArgumentError(
            f"X is {x.dtype} and the weights of the model are {min(map(str, weights))}; give X in "
            "the dtype of the weights: dtype= converts both"
        )


def _check_solve(tol: float, memory: int | str | None) -> None:
    """Refuse what no solve would take, before the network is recorded."""
    reached_tolerance(tol, torch.float32)
    if memory is not None:
        parse_memory(memory)


def _input_seed(root: int, index: int) -> int:
    """Return the seed of an input. The first has that of the caller, so it is what svds gives."""
    return derive_seed(root, index) if index else root


_Solve = Callable[[str, LinearOperator, int], DepthSpectra]
"""Solves a depth, given its name, the Jacobian and the index of the first of its inputs."""


def _through_recording(
    model: nn.Module,
    inputs: Iterator[Any],
    names: list[str],
    dtype: torch.dtype | None,
    choose: Callable[[Tensor, int], int],
    solve: _Solve,
) -> Iterator[list[DepthSpectra]]:
    """Yield the spectra of one group of inputs after another, at every depth."""
    first = next(inputs, None)
    if first is None:
        return
    if not isinstance(first, Tensor):
        raise ArgumentError(
            "inputs are dicts; name the argument to differentiate by with wrt=, or the depth to "
            "differentiate from with since=, such as that of the embedding"
        )
    Arguments(first, None).refuse_without_floating(model)
    _refuse_other_dtype(model, first, dtype)
    with told_how_read(first):
        derivatives = Derivatives(model, first, names, dtype=dtype)
        refuse_without_batch_of_inputs(model, derivatives.values, first)
        values = derivatives.values(first)
    batch = choose(first, max(value.numel() for value in values))
    group: list[Tensor] = []
    for index, x in enumerate(itertools.chain([first], inputs)):
        refuse_other_kind(x, first, index)
        group.append(x)
        if len(group) == batch:
            yield _solve_group(derivatives, group, names, index + 1 - batch, solve)
            group = []
    if group:
        yield _solve_group(derivatives, group, names, index + 1 - len(group), solve)


def _solve_group(
    derivatives: Derivatives, group: list[Tensor], names: list[str], start: int, solve: _Solve
) -> list[DepthSpectra]:
    """Return the spectra of some inputs, solved together where there are several."""
    if len(group) > 1:
        try:
            together = derivatives.at_many(torch.stack(group))
            if together:
                return [
                    _solve_one(J, n, start, solve, len(group))
                    for J, n in zip(together, names, strict=True)
                ]
        except NonFiniteError:  # of one of the inputs, which is named below
            pass
        except JvpsvdError as error:
            logger.warning("%s; these inputs are solved one by one", error)
    parts = []
    for index, x in enumerate(group, start):  # solved before the next is taken
        found = derivatives.at(x, f"input {index}")
        parts.append([_solve_one(J, n, index, solve) for J, n in zip(found, names, strict=True)])
    return [join(list(of)) for of in zip(*parts, strict=True)]


def _solve_one(
    J: LinearMap | BatchedMap | JvpsvdError, name: str, first: int, solve: _Solve, count: int = 1
) -> DepthSpectra:
    """Return the spectra of an input, or of `count` that follow each other."""
    several = f"inputs {first} to {first + count - 1}"
    with _name_in_errors(f"input {first}" if count == 1 else several, name):
        if isinstance(J, JvpsvdError):
            raise J
        operator = JacobianOperator.from_linear_map(J)
        return solve(name, operator, first)


def _one_by_one(
    model: nn.Module,
    inputs: Iterator[Any],
    names: list[str],
    since: str | None,
    wrt: str | None,
    dtype: torch.dtype | None,
    solve: _Solve,
) -> Iterator[list[DepthSpectra]]:
    """Yield the spectra of one input after another, from a depth or an argument on."""
    derivatives: Derivatives | None = None
    kind: dict[str | None, str] = {}
    for index, x in enumerate(inputs):
        which = f"input {index}"
        if wrt is not None and not isinstance(x, dict):
            raise ArgumentError(
                f"wrt={shown(wrt)} chooses among the arguments of inputs in dicts, and {which} is "
                "a tensor; leave it out, or give dicts of all arguments"
            )
        with _name_in_errors(which, ", ".join(names)), told_how_read(x):
            here = list_kinds(x, batch_dims=0)
            if derivatives is None or here != kind:
                if wrt is not None:
                    Arguments(x, wrt).refuse_without_floating(model)
                first = derivatives is None
                derivatives = Derivatives(model, x, names, since, wrt, dtype)
                if first:
                    refuse_without_batch_of_inputs(model, derivatives.values, x)
            kind, found = here, derivatives.at(x, which)
        yield [_solve_one(J, name, index, solve) for J, name in zip(found, names, strict=True)]


def _depth_spectra(
    name: str, J: LinearOperator, result: SVDResult, threshold: float, seeds: list[int]
) -> DepthSpectra:
    k = result.s.shape[-1]
    certificates = result.certificates
    count = len(certificates)
    converged = result.converged.reshape(-1, k).cpu()
    each = [result] if not J.batch else [result.of(i) for i in range(count)]
    found = [one.spectrum.count(threshold) for one in each]
    vouched = torch.tensor([one.sound and one.complete for one in certificates])
    return DepthSpectra(
        layer=name,
        shapes=torch.tensor(J.shape[-2:]).expand(count, 2),
        s=result.s.reshape(-1, k).cpu(),
        residuals=result.residuals.reshape(-1, k).cpu(),
        converged=converged,
        certified=vouched & converged.all(-1),
        energy_share=torch.tensor(
            [one.energy_share if one.fro2 else math.nan for one in certificates]
        ),
        counts=torch.tensor(
            [[one.value, one.low, one.high, one.standard_error] for one in found],
            dtype=torch.float64,
        ),
        products=torch.full((count,), result.products.total // count),
        seconds=torch.full((count,), result.seconds / count),
        seeds=torch.tensor(seeds),
    )


@contextmanager
def _name_in_errors(which: str, layer: str) -> Iterator[None]:
    """Let errors say at which input and depth they were raised."""
    try:
        yield
    except JvpsvdError as error:
        infinite = isinstance(error, NonFiniteError)
        advice = f"; if others are finite, drop {which}, or run a survey" if infinite else ""
        raise type(error)(f"{which} at {layer}: {error}{advice}") from error


def _device_of(model: nn.Module) -> torch.device:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _show_bar(inputs: Iterator[Any], total: int | None, progress: bool) -> Iterator[Any]:
    """Yield the inputs, with a bar on stderr where rich is there to draw it."""
    if not progress or not is_installed("rich"):
        return inputs
    from rich.progress import track

    return iter(track(inputs, description="spectra", total=total, console=bar_console()))
