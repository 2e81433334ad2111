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

from jvpsvd.errors import TraceError
from jvpsvd.operators.derivatives import LinearMap, check_output, without_grad
from jvpsvd.operators.graphs import (
    dependents,
    merge_equal_nodes,
    refuse_unsafe_mutation,
    remove_identities,
    subgraph,
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
        return without_grad(lambda block: mapped(block, *inputs))


class Trace:
    """The derivatives of the outputs of fn, recorded at `example` and replayed at any point.

    Args:
        fn: Takes one tensor, returns a tensor or a tuple of tensors (one per depth, say). It must
            run the same operations whatever the values of its input.
        example: A point of the shape, dtype and device of all later points.

    Raises:
        TraceError: If fn looks at values (control flow on data), calls into NumPy, or changes
            in place what a derivative still needs.

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
        self._fn = fn
        self._example = example.detach()
        with torch.no_grad():
            outputs = tuple(check_output(y) for y in self._evaluate(self._example))
        try:
            recorded = self._record(outputs)
        except Exception as error:  # make_fx raises whatever the function raised under it
            raise TraceError(f"cannot record the function: {_first_line(error)}") from error
        self._split(recorded, len(outputs))

    def at(self, x: Tensor, *, check: bool = True) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x; runs the primal graph once.

        With `check`, fn itself is evaluated too, and must agree with the recording.

        Raises:
            TraceError: If x has another shape, dtype or device, or fn took another path there.
        """
        x = x.detach()
        e = self._example
        if (x.shape, x.dtype, x.device) != (e.shape, e.dtype, e.device):
            raise TraceError(
                f"recorded for {e.dtype} {tuple(e.shape)} on {e.device}, asked at {x.dtype} "
                f"{tuple(x.shape)} on {x.device}; record again for this kind of point"
            )
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

    def _record(self, outputs: tuple[Tensor, ...]) -> fx.GraphModule:
        def joint(
            x: Tensor, v: Tensor, *us: Tensor
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
            values, tangents = jvp(self._evaluate, (x,), (v,))[:2]
            cotangents = []
            for index, u in enumerate(us):
                pull = vjp(lambda z, index=index: self._evaluate(z)[index], x)[1]
                cotangents.append(pull(u)[0])
            return values, tangents, tuple(cotangents)

        x = self._example
        us = [torch.ones_like(y) for y in outputs]
        graph_module: fx.GraphModule = make_fx(functionalize(joint))(x, torch.ones_like(x), *us)
        remove_identities(graph_module)
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

    def _compare(self, recorded: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
        for index, (ours, theirs) in enumerate(zip(recorded, actual, strict=True)):
            tolerance = torch.finfo(ours.dtype).eps ** 0.5
            scale = theirs.abs().max().item()
            if not torch.allclose(ours, theirs, rtol=0, atol=tolerance * scale, equal_nan=True):
                raise TraceError(
                    f"output {index} of the function differs from its recording at this point "
                    "(control flow or constants that depend on the input); use "
                    'derivatives="transforms"'
                )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
