"""Values that depend on weights alone, computed again when the weights change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.func import functional_call

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.derivatives.linear_map import WEIGHTS_CHANGED, Held, make_change_check
from jvpsvd.operators.function.fingerprint import fingerprint, is_dense, sample_fingerprint
from jvpsvd.operators.recording.passes.fx_tools import copy_uncompiled

# Weights of fewer bytes are copied: to compare with copies is less work than fingerprints are.
COPIED_BYTES = 1 << 26
# All entries of weights are compared again after so many times the seconds which that takes: a
# tenth of the time at most where they are read in place, less where copies are.
_BETWEEN, _BETWEEN_COPIED = 10.0, 100.0


class Constants:
    """The values that a recording computes from weights alone, such as kernels turned round.

    They are computed again when the weights are no longer the same. Version counters would miss
    ``parameter.data.mul_(2)``, which leaves them as they are.

    Args:
        graph: Computes them.
        private: Weights that nothing else can change, such as those that we converted ourselves.
    """

    def __init__(self, graph: fx.GraphModule, private: Sequence[Tensor] = ()) -> None:
        self.graph, self._private = graph, tuple(private)
        self._weights = dict((*graph.named_parameters(), *graph.named_buffers()))
        self._latest: ConstantValues | None = None
        self._fixed = False

    def fix_weights(self) -> None:
        """Refuse weights that are not what they are now, instead of computing from them."""
        self.values()
        self._fixed = True

    def with_others(self, others: Mapping[int, Tensor]) -> Constants:
        """Return the same of other tensors in place of some, by the identities of these."""
        graph = copy_uncompiled(self.graph)
        for name, weight in self._weights.items():
            if id(weight) in others:
                graph.register_buffer(name, others[id(weight)])
        graph.recompile()
        return Constants(graph, self._private)

    def release(self) -> None:
        """Free the values, which are computed again when they are asked for."""
        if not self._fixed:
            self._latest = None

    def values(self, *, all_entries: bool = True) -> ConstantValues:
        """Return the values for the weights as they are now.

        Args:
            all_entries: Whether to compare all entries of the weights, or a sample of them.

        Raises:
            ArgumentError: If they have changed since they were fixed.
        """
        latest = self._latest
        if latest is None or not latest.weights.are_unchanged(all_entries=all_entries):
            if self._fixed:
                raise ArgumentError(WEIGHTS_CHANGED)
            weights = HeldWeights(self._weights, self._private)
            with torch.no_grad():
                tensors = tuple(functional_call(self.graph, weights.read, ()))
            latest = ConstantValues(tensors, weights, weights.held_with(tensors))
            self._latest = latest
        return latest


class ConstantValues(NamedTuple):
    """What a recording computed from weights, and these weights."""

    tensors: tuple[Tensor, ...]
    weights: HeldWeights
    held: Held
    """What they take besides the weights."""


class HeldWeights:
    """Weights as they are at one time, and whether they still are.

    Few weights are copied, and the copies are read. Many are read where they are; fingerprints of
    them are kept. Private ones are read where they are, and never compared.

    >>> weight = torch.ones(3)
    >>> held = HeldWeights({"weight": weight})
    >>> held.are_unchanged()
    True
    >>> _ = weight.data.mul_(2)
    >>> held.are_unchanged(), held.read["weight"]
    (False, tensor([1., 1., 1.]))
    """

    def __init__(self, weights: Mapping[str, Tensor], private: Sequence[Tensor] = ()) -> None:
        own, self._private = set(map(id, private)), private
        self._weights = {n: weight for n, weight in weights.items() if id(weight) not in own}
        self.read = {name: weight.detach() for name, weight in weights.items()}
        """What to compute with."""
        size = sum(weight.nbytes for weight in self._weights.values())
        self._in_place = size > COPIED_BYTES and all(map(is_dense, self._weights.values()))
        if self._in_place:
            began = time.monotonic()
            self._fingerprints = {n: fingerprint(self.read[n]) for n in self._weights}
            self._samples = self._sample()
        else:
            self.read |= {name: weight.detach().clone() for name, weight in self._weights.items()}
            began = time.monotonic()
            self.are_unchanged()
        self._compared = time.monotonic()
        between = _BETWEEN if self._in_place else _BETWEEN_COPIED
        self._between = between * (self._compared - began)

    def held_with(self, tensors: Iterable[Tensor]) -> Held:
        """Return the bytes of copies and of what was computed from the weights, each once."""
        read = (*self.read.values(), *self._private, *tensors)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in read}
        for weight in self._weights.values():
            storages.pop(weight.untyped_storage().data_ptr(), None)
        return Held(sum(storage.nbytes() for storage in storages.values()), shared=True)

    def are_unchanged(self, *, all_entries: bool = True) -> bool:
        """Return whether all weights are as they were.

        Args:
            all_entries: Whether to compare all entries, or those of a sample of each weight.
        """
        if not self._in_place:
            return all(_same(self.read[name], weight) for name, weight in self._weights.items())
        if any(
            weight.data_ptr() != self.read[name].data_ptr()
            or _kind(weight) != _kind(self.read[name])
            for name, weight in self._weights.items()
        ):
            return False
        if not all_entries:
            return self._is_sample_unchanged()
        return all(
            torch.equal(self._fingerprints[name], fingerprint(weight))
            for name, weight in self._weights.items()
        )

    def make_check(self) -> Callable[[], None]:
        """Return a check, before a product, that the weights which it reads are as they are now.

        The check raises `ArgumentError` if torch has counted a change, or a sample of a weight
        that is read in place shows one. From time to time it compares all their entries: products
        of copies are right in any case, and refused since they are not those of fn as it is.
        """
        check = make_change_check(tuple(self._weights.values()))

        def check_weights() -> None:
            check()
            due = time.monotonic() - self._compared > self._between
            if (due or self._in_place) and not self.are_unchanged(all_entries=due):
                raise ArgumentError(WEIGHTS_CHANGED)
            if due:
                self._compared = time.monotonic()

        return check_weights

    def _sample(self) -> dict[torch.device, Tensor]:
        """Return the samples of the weights on each device, so that each is waited for once."""
        samples: dict[torch.device, list[Tensor]] = {}
        for weight in map(self.read.__getitem__, self._weights):
            samples.setdefault(weight.device, []).append(sample_fingerprint(weight))
        return {device: torch.cat(each) for device, each in samples.items()}

    def _is_sample_unchanged(self) -> bool:
        return all(
            torch.equal(self._samples[device], each) for device, each in self._sample().items()
        )


def _same(copy: Tensor, weight: Tensor) -> bool:
    if _kind(copy) != _kind(weight):
        return False
    if torch.equal(copy, weight):
        return True
    if not (copy.is_floating_point() and is_dense(copy) and is_dense(weight)):
        return False
    return torch.equal(copy.nan_to_num(), weight.nan_to_num()) and torch.equal(
        copy.isnan(), weight.isnan()
    )


def _kind(weight: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return weight.shape, weight.dtype, weight.device
