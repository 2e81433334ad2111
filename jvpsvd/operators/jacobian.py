"""The Jacobian of a function at a point, as a linear operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.admission import (
    check_function,
    check_network,
    refuse_weights_without_values,
)
from jvpsvd.operators.arguments import (
    check_count,
    check_flag,
    check_further_arguments,
    dense_tensor,
    one_of,
    shown,
)
from jvpsvd.operators.base import LinearOperator
from jvpsvd.operators.batch import BatchedMap
from jvpsvd.operators.blocks import COMPLEX_FUNCTION, check_vectors, columns
from jvpsvd.operators.chunks import Chunk, in_chunks, starting_chunk, without_memory_error
from jvpsvd.operators.derivatives import LinearMap, agree, prepared
from jvpsvd.operators.eager import uncompiled
from jvpsvd.operators.evaluation import (
    Derivatives,
    check_value,
    differentiated,
    evaluated,
    fixing,
    refuse_unsteady,
    tell_difference,
)
from jvpsvd.operators.failures import failures_named, remedy_at
from jvpsvd.operators.parameters import OfParameters, check_dtype, chosen_parameters, converted
from jvpsvd.operators.precision import full_precision
from jvpsvd.operators.ranks import check_group, over_ranks
from jvpsvd.operators.restoring import restored
from jvpsvd.operators.trees import OfVector, Structure

# The blocks of a batch always fill a chunk, so it is taken from what was recorded: the largest
# tensor on the way should stay below this size.
_WIDEST_ELEMENTS = 1 << 19
_BATCH_RANGE = (8, 512)
# What `wrt_parameters` hands on.
_OPTIONS = ("batch_dims", "chunk", "derivatives", "fold", "check", "group", "tf32")


class JacobianOperator(LinearOperator):
    """J = ∂f/∂x at a point: m = f(x).numel() rows, n = x.numel() columns, never written down.

    ``J @ V`` is b Jacobian–vector products, ``J.T @ U`` b vector–Jacobian products. Rows follow
    f(x).flatten() and columns x.flatten(). (Mototake & Ikegami write the transpose, eq. 3.) The
    function is evaluated once at the point; each product afterwards only replays its linear part.

    x and f(x) may be dicts, tuples or lists of tensors: their floating tensors, one after the other
    in the order in which they stand, are the vector. `as_input` and `as_output` give it its shape
    again. Tensors of x that are not floating are held fixed.

    With ``batch_dims=1`` it is the batch of the Jacobians at the points X[0], X[1], …: fn takes one
    of them, is recorded once, and is replayed at all of them together.

    Args:
        fn: x → value, or a module. Its value must be finite and of the dtype of x.
        x: The point, of a real floating dtype; or B points along a first dimension.
        args: Further arguments of fn, held fixed: token ids, a mask.
        kwargs: The same by name.
        batch_dims: How many dimensions of x count points: 0 or 1.
        dtype: Convert x, and the parameters and buffers of the module fn, to this dtype first: a
            bfloat16 network is then differentiated in float32. The module itself is not changed.
        chunk: Vectors per call of automatic differentiation, over all points of a batch. When None,
            a few sizes are timed while they work, and the best is kept. It bounds memory, is halved
            where memory runs out, and is independent of the width of the blocks multiplied.
        derivatives: "trace" records the linear maps (see `Trace`); "transforms" uses vmap(jvp) and
            vmap(vjp), with no set-up and slower products; "auto" records, and falls back to the
            transforms with a line in the log.
        fold: Let a recording fold normalisation into convolutions and rewrite these; it changes
            values by rounding only.
        check: Compare forward and reverse products on one pair of directions, and products with
            differences of fn: a line in the log says where these lack a part of how fn moves.
        group: A torch.distributed group on every rank of which this same operator is made; the
            columns of a block are divided among them.
        tf32: Leave TF32 and the like as the process has them; otherwise products are computed in
            full precision.

    Raises:
        ArgumentError: If x or fn(x) is not real floating, their dtypes or devices differ, or fn
            gives two values for one point; the module that does is named where it can be seen.
        ModelError: If fn is a module in training mode (see `refuse_training_mode`), or is spread
            over ranks by tensor parallelism.
        NonFiniteError: If fn(x) holds NaN or infinity; names the points of a batch where it does,
            and the first module that produced it.
        AdjointError: If forward and reverse products are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step: it reaches
            its value where torch cannot differentiate (inference_mode, NumPy, a detach, a kernel
            without a derivative). Step functions such as rounding, whose derivative is zero, pass.
        TraceError: With derivatives="trace", if fn cannot be recorded, or takes another path at
            one of the points, which is named.

    >>> J = JacobianOperator(lambda x: x**2, torch.tensor([1.0, 2.0, 3.0]))
    >>> J
    <JacobianOperator 3 x 3, torch.float32, cpu>
    >>> J @ torch.ones(3)
    tensor([2., 4., 6.])
    >>> J = JacobianOperator(lambda x: x**2, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), batch_dims=1)
    >>> J @ torch.ones(2)
    tensor([[2., 4.],
            [6., 8.]])
    >>> point = {"a": torch.ones(2), "b": torch.ones(2)}
    >>> J = JacobianOperator(lambda x: (x["a"] * x["b"],), point)
    >>> J.as_input(J.T @ torch.tensor([1.0, 2.0]))
    {'a': tensor([1., 2.]), 'b': tensor([1., 2.])}
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        x: Any,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        batch_dims: int = 0,
        dtype: torch.dtype | None = None,
        chunk: int | None = None,
        derivatives: Derivatives = "auto",
        fold: bool = True,
        check: bool = True,
        group: dist.ProcessGroup | None = None,
        tf32: bool = False,
    ) -> None:
        meaning = "must be 0, for one point, or 1, for points along the first dimension of x"
        one_of("batch_dims", batch_dims, (0, 1), meaning)
        one_of("derivatives", derivatives, ("auto", "trace", "transforms"))
        for name, flag in (("fold", fold), ("check", check), ("tf32", tf32)):
            check_flag(name, flag)
        check_further_arguments(args, kwargs)
        if chunk is not None:
            check_count("chunk", chunk)
        check_dtype(dtype)
        check_function(fn, dtype)
        source: Structure | None = None
        if not isinstance(x, Tensor):
            source, x = Structure.of(x, "the point x", batch_dims)
        dense_tensor("the point x", x)
        if not x.is_floating_point() or x.numel() == 0:
            raise ArgumentError(
                "the point x must be a non-empty tensor of a real floating dtype, got "
                f"{x.dtype} {tuple(x.shape)}{f'; {COMPLEX_FUNCTION}' if x.is_complex() else ''}"
            )
        if x.ndim < batch_dims:
            raise ArgumentError("x has no dimension; batch_dims=1 takes points along its first one")
        point = x.detach().to(dtype or x.dtype, copy=True)  # the caller may go on to change x
        of_vector = OfVector(fixing(converted(fn, dtype), args, kwargs), source)
        self._tf32, self._group = tf32, check_group(group)
        remedy = partial(_remedy, fn, of_vector, point, batch_dims)
        with (
            self._precision(),
            restored(fn, point.device),
            failures_named("fn", remedy),
        ):
            values = evaluated(fn, of_vector, point, batch_dims)
            one, its_value = (point[0], values[0]) if batch_dims else (point, values)
            with torch.no_grad():
                steady = agree(prepared(of_vector)(one), its_value)
            if not steady:
                refuse_unsteady(fn, of_vector, one)
            J = differentiated(of_vector, point, batch_dims, derivatives, fold, check)
            pairs = zip(J.value, values, strict=True) if batch_dims else [(J.value, values)]
            if not all(agree(*pair) for pair in pairs):
                refuse_unsteady(fn, of_vector, one)
            if check:
                tell_difference(of_vector, J, its_value)
        self._source, self._target = source, of_vector.target
        self._adopt(J, chunk)

    @classmethod
    def from_linear_map(
        cls,
        linear_map: LinearMap | BatchedMap,
        *,
        chunk: int | None = None,
        group: dist.ProcessGroup | None = None,
        tf32: bool = False,
    ) -> JacobianOperator:
        """Return the operator of a derivative taken elsewhere, such as one depth of a `Trace`.

        The map of many points gives a batch.

        Raises:
            NonFiniteError: If the value at a point holds NaN or infinity.

        >>> from jvpsvd.operators import Trace
        >>> trace = Trace(torch.sin, torch.zeros(2))
        >>> J = JacobianOperator.from_linear_map(trace.at(torch.zeros(2))[0])
        >>> J @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
        """
        if not isinstance(linear_map, LinearMap | BatchedMap):
            raise ArgumentError(
                f"from_linear_map takes what Trace(fn, x).at(x) returns for one output, not "
                f"{shown(linear_map)}"
            )
        check_flag("tf32", tf32)
        if chunk is not None:
            check_count("chunk", chunk)
        operator = cls.__new__(cls)
        operator._source = operator._target = None
        operator._tf32, operator._group = tf32, check_group(group)
        dims = 1 if isinstance(linear_map, BatchedMap) else 0
        check_value(linear_map.point, linear_map.value, dims, None)
        operator._adopt(linear_map, chunk)
        return operator

    @classmethod
    def wrt_parameters(
        cls,
        model: nn.Module,
        x: Any,
        *,
        names: Iterable[str] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> JacobianOperator:
        """Return ∂f/∂θ at the parameters θ of a model, for its value at the input x.

        Columns follow the parameters in the order of `named_parameters`; `as_input` gives them by
        name. ``J @ J.T`` is the empirical neural tangent kernel of the inputs in x.

        Args:
            model: In evaluation mode.
            x: Its input, held fixed; of any type.
            names: Of the parameters that count as θ; the rest is held fixed. None for all.
            args: Further arguments of the model.
            kwargs: The same by name.
            dtype: As for `JacobianOperator`; x is to be given in it.
            options: The other keywords of `JacobianOperator`.

        Raises:
            ModelError: If a parameter is unknown, or the model is in training mode.

        >>> net = nn.Linear(2, 1, bias=False)
        >>> J = JacobianOperator.wrt_parameters(net, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> J @ torch.eye(2)
        tensor([[1., 2.],
                [3., 4.]])
        """
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise ArgumentError(f"unknown keyword '{unknown[0]}'; there are {', '.join(_OPTIONS)}")
        check_further_arguments(args, kwargs)
        check_network(model, replace_weights=True)
        refuse_weights_without_values(model)
        model = uncompiled(model)
        theta, evaluate = chosen_parameters(model, names, dtype)
        return cls(OfParameters(model, evaluate, x, args, dict(kwargs or {})), theta, **options)

    @property
    def chunk(self) -> int:
        """Vectors per call of automatic differentiation, over all points of a batch.

        The lesser of both directions, before either was tuned; less only where memory ran out.
        """
        return min(self._forward.planned, self._reverse.planned)

    def as_input(self, block: Tensor) -> Any:
        r"""Return (n,) as something like x, or (n, b) as one with a dimension b in front.

        Of a batch, (B, n) or (B, n, b), with B before b.

        Raises:
            ArgumentError: If the block has another shape; the rows of a `Vh` are to be transposed.

        >>> J = JacobianOperator(lambda x: x.sum(), torch.ones(2, 3))
        >>> J.as_input(torch.arange(6.0)).shape, J.as_input(torch.ones(6, 4)).shape
        (torch.Size([2, 3]), torch.Size([4, 2, 3]))
        """
        return self._shaped(block, self._source, self.point)

    def as_output(self, block: Tensor) -> Any:
        """Return (m,) as something like f(x), or (m, b) as one with a dimension b in front.

        Raises:
            ArgumentError: If the block has another shape.

        >>> J = JacobianOperator(lambda x: (x, 2 * x), torch.ones(2))
        >>> J.as_output(J @ torch.ones(2))
        (tensor([1., 1.]), tensor([2., 2.]))
        """
        return self._shaped(block, self._target, self.value)

    def _shaped(self, block: Tensor, structure: Structure | None, like: Tensor) -> Any:
        lead = len(self.batch)
        size = like.shape[lead:].numel()
        check_vectors(block, size, self.batch)
        rows = block.mT if block.ndim > 1 + lead else block
        if structure is not None:
            return structure.tree(rows)
        return rows.reshape((*rows.shape[:-1], *like.shape[lead:]))

    def _adopt(self, J: LinearMap | BatchedMap, chunk: int | None) -> None:
        dims = 1 if isinstance(J, BatchedMap) else 0
        m, n = (z.shape[dims:].numel() for z in (J.value, J.point))
        super().__init__((*J.point.shape[:dims], m, n), J.point.dtype, J.point.device)
        self._map = J
        if chunk is not None:
            self._forward, self._reverse = Chunk(chunk, fixed=True), Chunk(chunk, fixed=True)
        elif isinstance(J, BatchedMap):
            low, high = _BATCH_RANGE
            start = starting_chunk(m + n, None, self.device).size
            fits = start if J.widest is None else _WIDEST_ELEMENTS // J.widest
            self._forward = self._reverse = Chunk(min(high, max(low, fits)), fixed=True)
        elif J.cost is not None:
            self._forward, self._reverse = J.cost.forward, J.cost.reverse
        else:
            self._forward, self._reverse = (
                starting_chunk(m + n, None, self.device) for _ in range(2)
            )
        self.point = J.point
        """The point x, or the points X of a batch; the vector of one that is no tensor."""
        self.value = J.value
        """f(x), as the function returned it; of a batch, f(X[0]), f(X[1]), … stacked."""

    def _matmat(self, V: Tensor) -> Tensor:
        return self._multiplied(self._map.push, V, 0)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._multiplied(self._map.pull, U, 1)

    def _perturbed(self, seed: int) -> LinearOperator | None:
        J = self._map
        if J.at is None:
            return None
        with self._precision():
            at_moved = J.at(moved_by_rounding(J.point, seed))
        perturbed = JacobianOperator.from_linear_map(at_moved, group=self._group, tf32=self._tf32)
        perturbed._forward, perturbed._reverse = self._forward, self._reverse
        return perturbed

    def _select(self, index: Tensor) -> LinearOperator:
        J = self._map
        if not isinstance(J, BatchedMap):
            raise TypeError("the map of a batch must be a BatchedMap")
        chosen = JacobianOperator.from_linear_map(J.select(index), tf32=self._tf32)
        chosen._source, chosen._target = self._source, self._target
        chosen._forward, chosen._reverse = self._forward, self._reverse
        return chosen

    def _multiplied(self, apply: Callable[..., Tensor], block: Tensor, side: int) -> Tensor:
        source, target = (self.point, self.value) if side == 0 else (self.value, self.point)
        chunk = self._reverse if side else self._forward
        with self._precision(), failures_named("a product", "take the derivative again"):
            if self.batch:
                return _at_points(apply, block, source, target, chunk)

            def multiply(rows: Tensor) -> Tensor:
                out = rows.new_empty(rows.shape[0], target.numel())
                in_chunks(apply, rows.reshape(rows.shape[0], *source.shape), out, chunk)
                return out

            return over_ranks(multiply, columns(block).T, target.numel(), side, self._group).T

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._tf32 else full_precision()


def _remedy(fn: Callable[..., Any], of_vector: OfVector, point: Tensor, batch_dims: int) -> str:
    """Return what to do about a function that fails: a batch may be wanted."""
    if isinstance(fn, OfParameters):  # the point is that of the parameters
        return remedy_at(lambda x: fn.at_input(x, of_vector.tree(point)), fn.input)
    return remedy_at(of_vector, point[0] if batch_dims else point, batch_dims)


def moved_by_rounding(x: Tensor, seed: int) -> Tensor:
    """Return x (1 ± ε), laid out in memory as x is: its entries moved as rounding moves them.

    >>> moved = moved_by_rounding(torch.tensor([1.0, -4.0, 0.0]), seed=0)
    >>> (moved / torch.tensor([1.0, 4.0, 1.0])).abs()
    tensor([1.0000, 1.0000, 0.0000])
    """
    generator = torch.Generator().manual_seed(seed)
    signs = (
        torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int8, device="cpu") * 2 - 1
    )
    step = torch.empty_like(x).copy_(signs).mul_(torch.finfo(x.dtype).eps)
    return step.mul_(x).add_(x)


def _at_points(
    apply: Callable[[Tensor, int], Tensor],
    block: Tensor,
    source: Tensor,
    target: Tensor,
    chunk: Chunk,
) -> Tensor:
    """Return the products at all points of a batch, halving the chunk where memory runs out."""
    rows = block.mT
    shaped = rows.reshape(*rows.shape[:2], *source.shape[1:])
    images: list[Tensor] = []
    while not without_memory_error(lambda: images.append(apply(shaped, chunk.size)), chunk.size):
        chunk.halve(chunk.size)
    return images[0].reshape(*rows.shape[:2], target.shape[1:].numel()).mT
