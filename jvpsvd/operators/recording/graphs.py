"""The graphs of a recording: one of the values, and one for each product of each output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.func import vmap

from jvpsvd.operators.derivatives.batched_map import BatchedMap, BatchedProduct, replay_at_points
from jvpsvd.operators.derivatives.chunk_tuning import Chunks
from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.derivatives.linear_map import (
    Cost,
    Held,
    LinearMap,
    disable_grad,
    make_change_check,
)
from jvpsvd.operators.function.evaluate import close
from jvpsvd.operators.recording.constants import Constants, ConstantValues
from jvpsvd.operators.recording.passes.channel_chains import channel_graph
from jvpsvd.operators.recording.passes.fx_tools import dependents, peak_elements
from jvpsvd.operators.recording.passes.inactive_channels import ChannelCache, ChannelGraph
from jvpsvd.operators.recording.sizes import call_of_same_shapes

logger = logging.getLogger(__name__)


class Product(Protocol):
    """One product, J v or J' u, of an output."""

    @property
    def graph(self) -> fx.GraphModule | None:
        """The graph of one direction; None of an output that does not depend on x."""

    def at(
        self,
        kept: Sequence[Tensor],
        zeros: Tensor,
        check_weights: Callable[[], None],
        channels: ChannelCache,
    ) -> Callable[[Tensor], Tensor]:
        """Return the product of a block at one point, refused once a weight has changed."""

    def at_many(
        self,
        kept: Sequence[Tensor],
        varies: Sequence[bool],
        zeros: Tensor,
        check_weights: Callable[[], None],
    ) -> BatchedProduct:
        """Return the product at many points; what varies over them has a dimension for them."""

    def channel_graph(self) -> ChannelGraph | None:
        """Return its graph without inactive channels; None where there are none to leave out."""

    def reduce_channels(
        self, reduced: ChannelGraph | None, kept: Sequence[Tensor], along: Tensor
    ) -> Product:
        """Return this product able to leave out inactive channels, if it stays the same."""

    def peak(self) -> int:
        """Return how many elements one vector takes at most, alive at once on its way."""

    def widest(self) -> int:
        """Return how many elements the largest tensor has that one vector becomes on its way."""


@dataclass(frozen=True)
class ProductGraph:
    """The graph of one product, J v or J' u, for one vector.

    Its further inputs are some of the values that the primal graph keeps.
    """

    graph: fx.GraphModule | None
    """None of an output that does not depend on x."""
    saved: tuple[int, ...]
    """Indices of its inputs among the kept values."""
    reduced: ChannelGraph | None = None
    """The same without the channels that are inactive at a point; None where it has none."""

    def at(
        self,
        kept: Sequence[Tensor],
        zeros: Tensor,
        check_weights: Callable[[], None],
        channels: ChannelCache,
    ) -> Callable[[Tensor], Tensor]:
        """Return the product of a block at one point, refused once a weight has changed."""
        graph, reduced = self.graph, self.reduced
        if graph is None:
            return lambda block: zeros.expand(block.shape[0], *zeros.shape)
        saved = tuple(kept[i] for i in self.saved)
        check = make_change_check(saved)

        @cache
        def multiply() -> Callable[[Tensor], Tensor]:
            fewer = None if reduced is None else reduced.inputs(saved, channels)
            if reduced is None or fewer is None:
                return over_directions(graph, saved)
            return over_directions(reduced.graph, fewer)

        def product(block: Tensor) -> Tensor:
            check()
            check_weights()
            return multiply()(block)  # the first product selects channels

        return disable_grad(product)

    def channel_graph(self) -> ChannelGraph | None:
        """Return this graph without inactive channels; None where there are none to leave out."""
        return None if self.graph is None else channel_graph(self.graph)

    def reduce_channels(
        self, reduced: ChannelGraph | None, kept: Sequence[Tensor], along: Tensor
    ) -> ProductGraph:
        """Return this graph able to leave out inactive channels, if its product stays the same.

        Args:
            reduced: The graph that leaves them out.
            kept: The values at any point.
            along: The direction to compare on, with most channels inactive.
        """
        graph = self.graph
        if graph is None or reduced is None:
            return self
        inactive = reduced.mostly_inactive([kept[i] for i in self.saved])
        try:
            fewer = reduced.inputs(inactive, ChannelCache())
            if fewer is None:
                return self
            part = over_directions(reduced.graph, fewer)(along[None])
            whole = over_directions(graph, inactive)(along[None])
        except Exception as error:  # a layout that some operation cannot take
            logger.info("keeping inactive channels: %s", error)
            return self
        return replace(self, reduced=reduced) if close(part, whole) else self

    def at_many(
        self,
        kept: Sequence[Tensor],
        varies: Sequence[bool],
        zeros: Tensor,
        check_weights: Callable[[], None],
    ) -> BatchedProduct:
        """Return the product at many points; what varies over them has a dimension for them."""
        if self.graph is None:
            return replay_at_points(lambda direction: zeros, (), ())
        inputs = tuple(kept[i] for i in self.saved)
        return replay_at_points(
            self.graph, inputs, tuple(varies[i] for i in self.saved), check_weights
        )

    def peak(self) -> int:
        """Return how many elements one vector takes at most, alive at once on its way."""
        return 0 if self.graph is None else peak_elements(self.graph.graph)

    def widest(self) -> int:
        """Return how many elements the largest tensor has that one vector becomes on its way."""
        if self.graph is None:
            return 0
        saved = set(self.graph.graph.find_nodes(op="placeholder")[1:])
        passed = (node for node in self.graph.graph.nodes if node not in saved)
        values = (node.meta.get("val") for node in passed)
        return max((v.numel() for v in values if isinstance(v, Tensor)), default=0)


def over_directions(graph: Callable[..., Any], inputs: Sequence[Any]) -> Callable[..., Any]:
    """Return the graph of one direction as a map of a block of them."""
    # Not as arguments: torch would flatten the tree of these at every call.
    return vmap(lambda *vectors: graph(*vectors, *inputs))


@dataclass(frozen=True)
class OutputGraphs:
    """The two product graphs of one output, and what is known of their products."""

    jvp: Product
    vjp: Product
    cost: Cost
    chunks: Chunks
    """Tuned by the products at all points."""


@dataclass(frozen=True)
class AtPoint:
    """What the primal graph gives at a point, and what it was computed with."""

    x: Tensor
    constants: ConstantValues
    values: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    probed: tuple[Tensor, ...] | None = None
    """J times `probe_block(x)` of each output, where a check has computed it."""


@dataclass(frozen=True)
class AtPoints:
    """The same at many points together; what does not vary has no dimension for them."""

    X: Tensor
    constants: ConstantValues
    values: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    varies: tuple[bool, ...]
    """Which of the kept values vary."""

    def at(self, index: int) -> AtPoint:
        """Return what there is at one of the points."""
        kept = zip(self.kept, self.varies, strict=True)
        return AtPoint(
            self.X[index],
            self.constants,
            tuple(value[index] for value in self.values),
            tuple(one[index] if varies else one for one, varies in kept),
        )


@dataclass(frozen=True)
class Recording:
    """The primal graph of a function with several outputs, and two product graphs per output."""

    constants: Constants
    primal: fx.GraphModule
    r"""(x, \*constants) ↦ (values of the outputs, values that the product graphs need)."""
    outputs: tuple[OutputGraphs, ...]
    bytes_of_point: int
    """What the derivatives at one point hold, besides the weights."""

    def at(self, x: Tensor, *, all_entries: bool = True) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x, which is kept.

        Args:
            x: The point.
            all_entries: Whether to compare all entries of the weights with what they were when
                constants were computed from them, or only a sample.
        """
        return self.maps(self.evaluate(x, all_entries=all_entries))

    def evaluate(
        self, x: Tensor, *, all_entries: bool = True, known: AtPoint | None = None
    ) -> AtPoint:
        """Return what the primal graph gives at x, or what is known of it, if it still holds."""
        constants = self.constants.values(all_entries=all_entries)
        if known is not None and known.constants is constants and torch.equal(known.x, x):
            return known
        return self._evaluate(x, constants)

    def _evaluate(self, x: Tensor, constants: ConstantValues) -> AtPoint:
        with torch.no_grad():
            values, kept = self.primal(x, *constants.tensors)
        return AtPoint(x, constants, tuple(values), tuple(kept))

    def maps(self, there: AtPoint) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at a point where the primal graph has run."""
        constants = there.constants
        check, channels = constants.weights.make_check(), ChannelCache()
        held = (Held(self.bytes_of_point), there.constants.held)

        def elsewhere(index: int, z: Tensor) -> LinearMap:
            check()
            return self.maps(self._evaluate(z, constants))[index]

        return tuple(
            LinearMap(
                point=there.x,
                value=value,
                jvp=output.jvp.at(there.kept, torch.zeros_like(value), check, channels),
                vjp=output.vjp.at(there.kept, torch.zeros_like(there.x), check, channels),
                cost=output.cost,
                chunks=output.chunks,
                # The same function, of weights that have not changed.
                at=partial(elsewhere, index),
                held=held,
                probed=None if there.probed is None else there.probed[index],
            )
            for index, (value, output) in enumerate(zip(there.values, self.outputs, strict=True))
        )

    def reduce_channels(self, there: AtPoint) -> Recording:
        """Return this recording with graphs that leave out channels that are inactive at a point.

        Args:
            there: Any point.
        """
        reduced = [
            (output.jvp.channel_graph(), output.vjp.channel_graph()) for output in self.outputs
        ]
        if all(graph is None for pair in reduced for graph in pair):
            return self
        with torch.no_grad():
            v = direction(there.x)
            outputs = tuple(
                replace(
                    output,
                    jvp=output.jvp.reduce_channels(fewer[0], there.kept, v),
                    vjp=output.vjp.reduce_channels(fewer[1], there.kept, direction(value)),
                )
                for output, fewer, value in zip(self.outputs, reduced, there.values, strict=True)
            )
        return replace(self, outputs=outputs)

    def has_sizes_of_values(self) -> bool:
        """Return whether values that depend on x decide on sizes: `torch.func.vmap` takes none."""
        return any(
            node.target is call_of_same_shapes and node.args[0].namespace == "aten"
            for node in self.primal.graph.nodes
        )

    def at_many(self, X: Tensor) -> tuple[BatchedMap, ...]:
        """Return the derivative of each output at the points X[0], X[1], …, which are kept.

        Whatever `torch.func.vmap` cannot do is raised, here or by the maps.
        """
        return self.maps_at_many(self.evaluate_many(X))

    def evaluate_many(self, X: Tensor) -> AtPoints:
        """Return what the primal graph gives at all points together."""
        graph = self.primal.graph
        output: Any = graph.output_node().args[0]
        x, *_ = graph.find_nodes(op="placeholder")
        varying = dependents(graph, x)
        # A dimension for the points in what was taken not to depend on them is an error of vmap.
        dims: Any = tuple([0 if node in varying else None for node in nodes] for nodes in output)
        with torch.no_grad():
            constants = self.constants.values()
            in_dims = (0, *(None for _ in constants.tensors))
            over_points = vmap(self.primal, in_dims, out_dims=dims)
            values, kept = over_points(X, *constants.tensors)
        return AtPoints(
            X,
            constants,
            tuple(
                value if dim == 0 else value.expand(len(X), *value.shape)
                for value, dim in zip(values, dims[0], strict=True)
            ),
            tuple(kept),
            tuple(dim == 0 for dim in dims[1]),
        )

    def maps_at_many(self, there: AtPoints) -> tuple[BatchedMap, ...]:
        """Return the derivative of each output at points where the primal graph has run."""
        X, kept, varies = there.X, there.kept, there.varies
        check = there.constants.weights.make_check()
        held = (Held(len(X) * self.bytes_of_point), there.constants.held)
        maps = []
        for index, (value, one) in enumerate(zip(there.values, self.outputs, strict=True)):
            jvp = one.jvp.at_many(kept, varies, torch.zeros_like(value[0]), check)
            vjp = one.vjp.at_many(kept, varies, torch.zeros_like(X[0]), check)
            widest = max(one.jvp.widest(), one.vjp.widest(), 1)
            elsewhere = partial(self._at_many_of, index)
            maps.append(BatchedMap(X, value, jvp, vjp, widest, elsewhere, held=held))
        return tuple(maps)

    def _at_many_of(self, index: int, X: Tensor) -> BatchedMap:
        return self.at_many(X)[index]
