"""A function recorded once as three graphs: its value, its tangents and its cotangents.

Forward mode evaluates the function again with every block of tangents. Here (x, v, u) → (f(x),
J v, J' u) is recorded once for single vectors, and split by what depends on v and on u. What
depends on neither is the primal graph: it runs once per point, and leaves behind the activations
that the two linear graphs need. These run under vmap, so their chunk is free, and since no value of
x is baked into a graph, one recording serves every other point of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.func import functionalize, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from jvpsvd.errors import ArgumentError, TraceError
from jvpsvd.operators.derivatives import (
    LinearMap,
    agree,
    check_output,
    direction,
    prepared,
    without_grad,
)
from jvpsvd.operators.folding import fold_linear
from jvpsvd.operators.graphs import (
    dependents,
    merge_equal_nodes,
    refuse_unsafe_mutation,
    remove_identities,
    subgraph,
    touched,
)


@dataclass(frozen=True)
class _Side:
    """One linear graph and where its inputs stand among the values kept by the primal graph."""

    graph: fx.GraphModule | None
    saved: tuple[int, ...]

    def at(self, kept: Sequence[Tensor], zeros: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the batched map of this side; an output that does not depend on x gives 0."""
        if self.graph is None:
            return lambda block: zeros.expand(block.shape[0], *zeros.shape)
        inputs = tuple(kept[i] for i in self.saved)
        mapped = vmap(self.graph, in_dims=(0, *(None for _ in inputs)))
        versions = _versions(inputs)

        def apply(block: Tensor) -> Tensor:
            if _versions(inputs) != versions:
                raise ArgumentError(
                    "the weights have changed since this derivative was taken; take it again"
                )
            images: Tensor = mapped(block, *inputs)
            return images

        return without_grad(apply)


class Trace:
    """The derivatives of the outputs of fn, recorded at `example` and replayed at any point.

    Args:
        fn: Takes one tensor, returns a tensor or a tuple of tensors (one per depth, say). It must
            run the same operations whatever the values of its input. It is given a copy of the
            point, which it may change in place.
        example: A point of the shape, dtype and device of all later points.

    Raises:
        TraceError: If fn looks at values (control flow on data), calls into NumPy, is random,
            changes in place what a derivative still needs, or uses an operation that cannot be
            replayed on a batch of directions.

    >>> trace = Trace(lambda x: (x**2, x.sum(0, keepdim=True)), torch.zeros(2))
    >>> square, total = trace.at(torch.tensor([1.0, 3.0]))
    >>> square.push(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    >>> total.pull(torch.ones(1, 1))
    tensor([[1., 1.]])
    """

    def __init__(
        self, fn: Callable[[Tensor], Tensor | tuple[Tensor, ...]], example: Tensor
    ) -> None:
        self._fn = prepared(fn)
        self._example = example.detach().clone()
        with torch.no_grad():
            outputs = tuple(check_output(y) for y in self._evaluate(self._example))
        try:
            recorded = self._record(outputs)
            self._split(recorded, len(outputs))
            self._rehearse()
        except TraceError:
            raise
        except Exception as error:  # make_fx raises whatever the function raised under it
            raise TraceError(f"cannot record the function: {_first_line(error)}") from error

    def at(self, x: Tensor, *, check: bool = True) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x; runs the primal graph once.

        With `check`, fn itself is evaluated too, and must agree with the recording.

        Raises:
            TraceError: If x has another shape, dtype or device, or fn took another path there.
        """
        e = self._example
        if (x.shape, x.dtype, x.device) != (e.shape, e.dtype, e.device):
            raise TraceError(
                f"recorded for {e.dtype} {tuple(e.shape)} on {e.device}, asked at {x.dtype} "
                f"{tuple(x.shape)} on {x.device}; record again for this kind of point"
            )
        # In the layout of the example, which the recorded views rely on, and out of reach of a
        # caller who goes on to change x.
        x = torch.empty_like(e).copy_(x.detach())
        with torch.no_grad():
            values, kept = self._primal(x)
            if check:
                self._compare(values, self._evaluate(x))
        return tuple(
            LinearMap(
                point=x,
                value=value,
                push=tangent.at(kept, torch.zeros_like(value)),
                pull=cotangent.at(kept, torch.zeros_like(x)),
            )
            for value, tangent, cotangent in zip(
                values, self._tangents, self._cotangents, strict=True
            )
        )

    def _evaluate(self, x: Tensor) -> tuple[Tensor, ...]:
        values = self._fn(x)
        return values if isinstance(values, tuple) else (values,)

    def _joint(
        self, x: Tensor, v: Tensor, *us: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return f(x), J v and J' u of every output: what is recorded."""
        values, tangents = jvp(self._evaluate, (x,), (v,))[:2]
        cotangents = []
        for index, u in enumerate(us):
            pull = vjp(lambda z, index=index: self._evaluate(z)[index], x)[1]
            cotangents.append(pull(u)[0])
        return values, tangents, tuple(cotangents)

    def _record(self, outputs: tuple[Tensor, ...]) -> fx.GraphModule:
        x = self._example
        # Directions come as rows of a block: contiguous, whatever the layout of x and f(x).
        v, *us = (torch.ones(z.shape, dtype=z.dtype, device=z.device) for z in (x, *outputs))
        graph_module: fx.GraphModule = make_fx(functionalize(self._joint))(x, v, *us)
        remove_identities(graph_module)
        merge_equal_nodes(graph_module)
        _, *directions = (n for n in graph_module.graph.nodes if n.op == "placeholder")
        linear = {n for root in directions for n in dependents(graph_module.graph, root)}
        if linear.isdisjoint(touched(graph_module.graph)):
            fold_linear(graph_module, linear)
            merge_equal_nodes(graph_module)
        return graph_module

    def _split(self, recorded: fx.GraphModule, depths: int) -> None:
        nodes = list(recorded.graph.nodes)
        _, v, *us = (node for node in nodes if node.op == "placeholder")
        values, tangents, cotangents = nodes[-1].args[0]
        roots = [v, *us]
        linear = {root: dependents(recorded.graph, root) for root in roots}
        primal = [n for n in nodes[:-1] if not any(n in linear[root] for root in roots)]
        refuse_unsafe_mutation(recorded.graph, set(primal))

        kept: list[fx.Node] = []

        def side(root: fx.Node, output: object) -> _Side:
            if not isinstance(output, fx.Node) or output not in linear[root]:
                return _Side(None, ())
            graph, inputs = subgraph(recorded, linear[root], root, output)
            for node in inputs:
                if node not in kept:
                    kept.append(node)
            return _Side(graph, tuple(kept.index(node) for node in inputs))

        self._tangents = [side(v, tangents[i]) for i in range(depths)]
        self._cotangents = [side(us[i], cotangents[i]) for i in range(depths)]

        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in primal:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(([copies[y] for y in values], [copies[node] for node in kept]))
        graph.eliminate_dead_code()
        self._primal = fx.GraphModule(recorded, graph)

    def _rehearse(self) -> None:
        """Check that the recording, replayed at the example, gives what torch.func gives there."""
        maps = self.at(self._example, check=False)
        v, *us = (direction(z) for z in (self._example, *(m.value for m in maps)))
        values, tangents, cotangents = self._joint(self._example, v, *us)
        self._compare([m.value for m in maps], values)
        for index, (m, u) in enumerate(zip(maps, us, strict=True)):
            # A derivative that vanishes is rounding error on the scale of the value.
            floor = torch.finfo(u.dtype).eps ** 0.5 * values[index].abs().max().item()
            for block, replayed in (
                (tangents[index], m.push(torch.stack([v, 2 * v]))),
                (cotangents[index], m.pull(torch.stack([u, 2 * u]))),
            ):
                if not agree(replayed, torch.stack([block, 2 * block]), floor):
                    raise TraceError(
                        f"the recorded derivative of output {index} is not the function's own; it "
                        'is random, keeps state, or shows a bug; use derivatives="transforms"'
                    )

    def _compare(self, recorded: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
        for index, (ours, theirs) in enumerate(zip(recorded, actual, strict=True)):
            if not agree(ours, theirs):
                raise TraceError(
                    f"output {index} of the function differs from its recording at this point "
                    "(control flow or constants that depend on the input); use "
                    'derivatives="transforms"'
                )


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return how often each tensor was changed in place; inference tensors do not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
