"""Find whether the value of a function depends on random numbers that it draws.

A function that is random now and then, as stochastic depth is, mostly gives the same value twice.
So one evaluation notes what is drawn, and follows it through the operations. Only where it gets to
the value, or is read as a number, is the function evaluated again, with other random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.lower_precision import tensors_of
from jvpsvd.operators.function.tensors_by_memory import ByMemory

aten = torch.ops.aten

# Further evaluations of a function that draws random numbers: a guess.
_EVALUATIONS = 8
# Seeds of these follow it. It is one that nobody else is likely to take.
_SEED = 1_732_050_807
# How near to 0 and 1 uniform numbers are put in two of them, so that a branch is taken which is
# taken with a probability of more than this.
_NEAR = 1e-6


class Generator(Protocol):
    """Where random numbers are drawn from."""

    def get_state(self) -> Any:
        """Return its state."""

    def set_state(self, state: Any, /) -> Any:
        """Set its state."""

    def manual_seed(self, seed: int, /) -> Any:
        """Set its state to one that follows from a seed."""


class Draw(NamedTuple):
    """Random numbers that were drawn."""

    by: str
    """The operation of torch, or the library."""
    generator: Generator
    state: Any
    """That of the generator, before."""


class RandomDraws:
    """The random numbers that a function draws, and the tensors that depend on them.

    Args:
        ends: Where to put uniform numbers, near 0 or 1, of some draws, by their number.

    >>> draws = RandomDraws()
    >>> with watch_draws(draws):
    ...     noisy, other = torch.ones(2) + torch.rand(2), torch.ones(2)
    >>> draws.bear_on(noisy), draws.bear_on(other)
    (True, False)
    """

    def __init__(self, ends: Mapping[int, tuple[int, int]] | None = None) -> None:
        self.draws: list[Draw] = []
        self._ends = ends or {}
        self._reached = ByMemory[bool]()
        self._read = False

    def compute(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what an operation of torch gives, and take note of it."""
        if _is_random(operation):
            generator = _generator_of(args, kwargs)
            if generator is not None:
                return self._draw(operation, args, kwargs, generator)
        output = operation(*args, **kwargs)
        if self._reached:
            self._follow(operation, (args, kwargs), output)
        return output

    def read(self, arguments: Any) -> None:
        """Take note of tensors that are read as Python numbers, or by NumPy."""
        if self._reached:
            self._read |= any(self._reached.get(each) for each in tensors_of(arguments))

    def draw_elsewhere(self, draw: Draw) -> None:
        """Take note of numbers that were not drawn by torch."""
        self.draws.append(draw)
        self._read = True

    def bear_on(self, value: Any) -> bool:
        """Return whether a value may depend on what was drawn."""
        return self._read or any(
            self._reached.get(each) for each in tree_leaves(value) if isinstance(each, Tensor)
        )

    def _draw(self, operation: Any, args: Any, kwargs: dict[str, Any], own: Generator) -> Any:
        state = _state_of(own)
        output = operation(*args, **kwargs)
        if _same(state, _state_of(own)):
            return output  # dropout in evaluation mode
        end = self._ends.get(len(self.draws))
        if end is not None:
            _put_near(end, operation, args, kwargs, output)
        self.draws.append(Draw(str(operation._schema.name), own, state))
        self._reach(output)
        return output

    def _reach(self, made: Any) -> None:
        for each in tensors_of(made):
            self._reached.set(each, True)
            # Of a tensor without memory, as sparse ones, nothing can be noted.
            self._read |= self._reached.get(each) is None

    def _follow(self, operation: Any, arguments: Any, output: Any) -> None:
        taken = list(tensors_of(arguments))
        if not any(self._reached.get(each) for each in taken):
            return
        made = list(tensors_of(output))
        if not made and operation._schema.is_mutable:
            made = taken
        # A number, or a shape: what follows from it cannot be seen.
        self._read |= not made or torch.Tag.dynamic_output_shape in operation.tags
        self._reach(made)


class OtherValue(NamedTuple):
    """Evaluations that gave two values, which can be made again."""

    first: Callable[[], object]
    second: Callable[[], object]
    by: str
    """What draws random numbers."""


def find_other_value(
    run: Callable[[], Any], drawn: RandomDraws, is_same: Callable[[Any], bool]
) -> OtherValue | None:
    """Return evaluations that differ by the random numbers that are drawn; None if none are found.

    Numbers from a generator that the function seeds itself are always the same. All generators are
    left as they were.

    Args:
        run: Evaluates the function.
        drawn: What it drew in the evaluation that is compared with.
        is_same: Whether a value is that of this evaluation.

    >>> noisy, drawn = lambda: torch.ones(2) + torch.rand(2), RandomDraws()
    >>> with watch_draws(drawn):
    ...     value = noisy()
    >>> find_other_value(noisy, drawn, value.equal).by
    'aten::rand'
    """
    own = {id(each.generator): each for each in reversed(drawn.draws)}  # the first of each
    # A generator of the function's own that is put back after use gives the same each time.
    own = {at: each for at, each in own.items() if _is_common(each) or _has_moved(each)}

    def repeat() -> Any:
        with _kept(drawn):
            for each in own.values():
                each.generator.set_state(each.state)
            return run()

    def evaluate(
        number: int, ends: Mapping[int, tuple[int, int]] | None = None
    ) -> tuple[Any, RandomDraws]:
        again = RandomDraws(ends)
        with _kept(drawn):
            for each in own.values():
                each.generator.manual_seed(_SEED + number)
            with watch_draws(again):
                return run(), again

    value, again = evaluate(0)
    states = zip(drawn.draws, again.draws, strict=False)
    free = [i for i, (a, b) in enumerate(states) if not _same(a.state, b.state)]
    if not free and is_same(value) and len(again.draws) == len(drawn.draws):
        return None
    # The two halves of the entries at the same seed, so that each entry has been at each end.
    pairs = [(end, half) for end in (0, 1) for half in (0, 1)]
    ends = [None, *(dict.fromkeys(free, pair) for pair in pairs)]
    for number in range(_EVALUATIONS):
        at_ends = ends[number] if number < len(ends) else None
        if number:
            seed = (number + 1) // 2 if at_ends else number
            try:
                value, again = evaluate(seed, at_ends)
            except Exception:
                if at_ends is None:
                    raise
                continue  # a function may rely on it that not so many numbers lie at one end
        if not is_same(value):
            by = drawn.draws[free[0] if free else 0].by
            return OtherValue(repeat, partial(evaluate, seed if number else 0, at_ends), by)
    return None


@contextmanager
def watch_draws(draws: RandomDraws) -> Iterator[None]:
    """Take note of the random numbers that torch draws meanwhile.

    >>> draws = RandomDraws()
    >>> with watch_draws(draws):
    ...     _ = torch.nn.functional.dropout(torch.ones(2), 0.5)
    >>> [each.by for each in draws.draws]
    ['aten::bernoulli_']
    """
    with _DrawsMode(draws):
        yield


@contextmanager
def watch_draws_elsewhere(draws: RandomDraws) -> Iterator[None]:
    """Take note of whether Python or NumPy draw random numbers meanwhile.

    >>> draws = RandomDraws()
    >>> with watch_draws_elsewhere(draws):
    ...     _ = random.random()
    >>> [each.by for each in draws.draws]
    ["Python's random"]
    """
    before = [(name, own, own.get_state()) for name, own in _ELSEWHERE]
    yield
    for name, own, state in before:
        if not _same(state, own.get_state()):
            draws.draw_elsewhere(Draw(name, own, state))


class _DrawsMode(DispatchMode):
    def __init__(self, draws: RandomDraws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._draws.compute(func, args, kwargs or {})


class _PythonsGenerator:
    get_state = staticmethod(random.getstate)
    set_state = staticmethod(random.setstate)
    manual_seed = staticmethod(random.seed)


class _NumpysGenerator:
    set_state = staticmethod(np.random.set_state)
    manual_seed = staticmethod(np.random.seed)

    def get_state(self) -> Any:
        return np.random.get_state(legacy=False)


_ELSEWHERE: tuple[tuple[str, Generator], ...] = (
    ("Python's random", _PythonsGenerator()),
    ("numpy.random", _NumpysGenerator()),
)


@cache
def _is_random(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operation.tags


def _generator_of(args: Any, kwargs: dict[str, Any]) -> Generator | None:
    """Return the generator that an operation draws from; None where it cannot be had."""
    leaves = tree_leaves((args, kwargs))
    given = [each for each in leaves if isinstance(each, torch.Generator)]
    if given:
        return given[0]
    places = [kwargs.get("device"), *(each.device for each in leaves if isinstance(each, Tensor))]
    device = next((each for each in places if each is not None), torch.device("cpu"))
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator if device.type == "cpu" else None


def _state_of(generator: Generator) -> Any:
    with torch._C.DisableTorchFunction():  # it is no tensor of the function
        return generator.get_state()


def _same(ours: Any, theirs: Any) -> bool:
    """Return whether two states of a generator are one."""
    if isinstance(ours, Tensor):
        with torch._C.DisableTorchFunction():
            return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return all(_same(ours[name], theirs[name]) for name in ours)
    return np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else bool(ours == theirs)


def _is_common(draw: Draw) -> bool:
    """Return whether a generator is torch's, Python's or NumPy's, or is not on the CPU."""
    own = draw.generator
    return (
        not isinstance(own, torch.Generator)
        or own is torch.default_generator
        or own.device.type != "cpu"
    )


def _has_moved(draw: Draw) -> bool:
    return not _same(draw.state, _state_of(draw.generator))


def _put_near(
    at: tuple[int, int], operation: Any, args: Any, kwargs: dict[str, Any], output: Any
) -> None:
    """Let half of the uniform numbers lie near 0 or 1, as they might, and random bits be 0 or 1."""
    packet, (end, half) = operation._overloadpacket, at
    with torch._C.DisableTorchFunction():
        places = torch.arange(output.numel(), device=output.device).reshape(output.shape)
        # Multiples of the golden ratio scatter the halves; a single number is in both.
        moved = ((places * 0.6180339887) % 1 < 0.5) != bool(half)
        moved = moved if output.numel() > 1 else torch.ones_like(moved)
        if packet in (aten.bernoulli, aten.bernoulli_):
            own = args[0] if packet is aten.bernoulli else 0.5
            p = torch.as_tensor(args[1] if len(args) > 1 else kwargs.get("p", own))
            moved = moved & ((p != 0) & (p != 1)).to(output.device)
            output.masked_fill_(moved, end)
        elif packet in (aten.rand, aten.rand_like, aten.uniform_) and output.is_floating_point():
            near = max(_NEAR, torch.finfo(output.dtype).eps)
            low, high = (*args[1:3], 0.0, 1.0)[:2] if packet is aten.uniform_ else (0.0, 1.0)
            output.masked_fill_(moved, low + (high - low) * (1 - near if end else near))


@contextmanager
def _kept(drawn: RandomDraws) -> Iterator[None]:
    """Restore the generators that were drawn from."""
    generators = {id(each.generator): each.generator for each in drawn.draws}.values()
    before = [(each, each.get_state()) for each in generators]
    try:
        yield
    finally:
        for each, state in before:
            each.set_state(state)
