"""A linear map made of JVPs and VJPs, as a linear operator."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, SupportsIndex

import torch
import torch.distributed as dist
from torch import Tensor

from jvpsvd.errors import OperandError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import check_vectors, columns
from jvpsvd.operators.derivatives.batched_map import BatchedMap, multiply_in_chunks
from jvpsvd.operators.derivatives.chunk_tuning import (
    Chunk,
    Chunks,
    apply_in_chunks,
    runs_in_memory,
    starting_chunk,
)
from jvpsvd.operators.derivatives.linear_map import Held, LinearMap
from jvpsvd.operators.environment.precision import choose_precision
from jvpsvd.operators.environment.process_groups import multiply_over_ranks
from jvpsvd.operators.function.evaluate import check_value
from jvpsvd.operators.function.failures import failures_named
from jvpsvd.operators.function.pytrees import Structure
from jvpsvd.operators.linear_operator import LinearOperator

# Blocks of a batch always fill a chunk: the largest tensor on the way should stay below this size
# on a CPU.
_WIDEST_ELEMENTS = 1 << 19
_BATCH_RANGE = (8, 512)
# On a GPU a vector takes about so many tensors of the largest size on its way: a guess.
_TENSORS_HELD = 4


class LinearMapOperator(LinearOperator):
    """The derivative J of a function at one point, or the batch of those at many points.

    Args:
        linear_map: The JVPs and VJPs.
        chunks: Vectors per call of automatic differentiation; None for those of the linear map.
        source: The structure of a point that is no tensor.
        target: The structure of a value that is no tensor.
        group: The ranks among which the columns of a block are divided.
        tf32: Leave TF32 and the like as the process has them.

    Raises:
        NonFiniteError: If the value at a point holds NaN or infinity.
    """

    def __init__(
        self,
        linear_map: LinearMap | BatchedMap,
        *,
        chunks: Chunks | None = None,
        source: Structure | None = None,
        target: Structure | None = None,
        group: dist.ProcessGroup | None = None,
        tf32: bool = False,
    ) -> None:
        point, value = linear_map.point, linear_map.value
        dims = 1 if isinstance(linear_map, BatchedMap) else 0
        check_value(point, value, dims, None)
        m, n = value.shape[dims:].numel(), point.shape[dims:].numel()
        super().__init__((*point.shape[:dims], m, n), point.dtype, point.device)
        if linear_map.lower_precision is not None:
            self._precision = linear_map.lower_precision.dtype
        self._map, self._chunks = linear_map, chunks or _starting_chunks(linear_map, m + n)
        self._source, self._target, self._group, self._tf32 = source, target, group, tf32
        self.point = point
        """The point x, or the points X of a batch; the vector of one that is no tensor."""
        self.value = value
        """f(x), as the function returned it; for a batch f(X[0]), f(X[1]), … stacked."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        J = self._map
        try:  # products by functions of a module, which pickle takes by their names
            products = (
                (J.jvp_product, J.vjp_product) if isinstance(J, BatchedMap) else (J.jvp, J.vjp)
            )
            pickle.dumps((products, J.at, J.nearby, self._group))
        except Exception as error:  # of whatever they hold
            raise self._cannot_be_pickled() from error
        return super().__reduce_ex__(protocol)

    def _cannot_be_pickled(self) -> OperandError:
        return OperandError(
            f"a {type(self).__name__} cannot be pickled, since it holds what torch computed of fn "
            "here; send or save the model and the point and make it anew there, or save "
            "A.to_dense(), or what svds returns by result.save(path)"
        )

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    @property
    def chunk(self) -> int:
        """Vectors per call of automatic differentiation, over all points of a batch.

        The lesser of both products, before either was tuned; less only where memory ran out.
        """
        return min(self._chunks.jvp.planned, self._chunks.vjp.planned)

    @property
    def widest(self) -> int | None:
        """About how many entries a vector takes on its way through fn; None if not known."""
        J = self._map
        if isinstance(J, BatchedMap) or J.widest is not None or J.cost is None:
            return J.widest
        return max(J.cost.jvp_bytes, J.cost.vjp_bytes) // J.point.itemsize

    def _held(self) -> frozenset[Held]:
        return frozenset(self._map.held)

    def as_input(self, block: Tensor) -> Any:
        r"""Return (n,) as something like x, or (n, b) as one with a dimension b in front.

        A batch takes (B, n) or (B, n, b), and gives B before b.

        Raises:
            ArgumentError: If the block has another shape; transpose the rows of a `Vh` first.

        >>> from jvpsvd import JacobianOperator
        >>> J = JacobianOperator(lambda x: x.sum(), torch.ones(2, 3))
        >>> J.as_input(torch.arange(6.0)).shape, J.as_input(torch.ones(6, 4)).shape
        (torch.Size([2, 3]), torch.Size([4, 2, 3]))
        """
        return self._reshape(block, self._source, self.point)

    def as_output(self, block: Tensor) -> Any:
        """Return (m,) as something like f(x), or (m, b) as one with a dimension b in front.

        Raises:
            ArgumentError: If the block has another shape.

        >>> from jvpsvd import JacobianOperator
        >>> J = JacobianOperator(lambda x: (x, 2 * x), torch.ones(2))
        >>> J.as_output(J @ torch.ones(2))
        (tensor([1., 1.]), tensor([2., 2.]))
        """
        return self._reshape(block, self._target, self.value)

    def _reshape(self, block: Tensor, structure: Structure | None, like: Tensor) -> Any:
        if is_array(block):
            block = tensor_of("the block", block)
        batch_dims = len(self.batch)
        shape = like.shape[batch_dims:]
        check_vectors(block, shape.numel(), self.batch)
        rows = block.mT if block.ndim > 1 + batch_dims else block
        if structure is not None:
            return structure.tree(rows)
        return rows.reshape((*rows.shape[:-1], *shape))

    def _matmat(self, V: Tensor) -> Tensor:
        with choose_precision(self._tf32), failures_named("a product", "take the derivative again"):
            return self._multiply(self._map.jvp, V, self.point, self.value, self._chunks.jvp)

    def _rmatmat(self, U: Tensor) -> Tensor:
        with choose_precision(self._tf32), failures_named("a product", "take the derivative again"):
            return self._multiply(self._map.vjp, U, self.value, self.point, self._chunks.vjp, True)

    def _multiply(
        self,
        product: Callable[..., Tensor],
        block: Tensor,
        source: Tensor,
        target: Tensor,
        chunk: Chunk,
        transposed: bool = False,
    ) -> Tensor:
        if self.batch:
            return _multiply_at_points(product, block, source, target, chunk)

        def multiply(rows: Tensor) -> Tensor:
            out = rows.new_empty(rows.shape[0], target.numel())
            apply_in_chunks(product, rows.reshape(rows.shape[0], *source.shape), out, chunk)
            return out

        rows = columns(block).T
        return multiply_over_ranks(multiply, rows, target.numel(), transposed, self._group).T

    def _perturbed(self, seed: int) -> LinearOperator | None:
        at = self._map.at
        if at is None:
            return None
        with choose_precision(self._tf32):
            linear_map = at(perturb_by_rounding(self.point, seed, self.precision))
        return self._replace_map(replace(linear_map, lower_precision=self._map.lower_precision))

    def _changed_products(
        self, V: Tensor, images: Tensor, seeds: Sequence[int], transposed: bool
    ) -> Tensor | None:
        if self._group is not None:
            return None
        points = [perturb_by_rounding(self.point, seed, self.precision) for seed in seeds]
        V = V.expand(*self.batch, *V.shape[-2:])
        with choose_precision(self._tf32):
            if isinstance(self._map, BatchedMap):
                chunk = self._chunks.vjp if transposed else self._chunks.jvp
                return _changes_at_points(self._map, points, V, images, transposed, chunk.size)
            return _changes_at_point(self._map, points, V, transposed)

    @property
    def selection_bytes(self) -> int | None:
        """Bytes that `select` copies for each matrix; None where this is no batch."""
        if not isinstance(self._map, BatchedMap):
            return None
        return sum(each.bytes for each in self._map.held if not each.shared) // len(self.point)

    def _select(self, index: Tensor) -> LinearOperator:
        if not isinstance(self._map, BatchedMap):
            raise TypeError("the map of a batch must be a BatchedMap")
        return self._replace_map(self._map.select(index))

    def _replace_map(self, linear_map: LinearMap | BatchedMap) -> LinearMapOperator:
        """Return the operator of another linear map, with all else as it is here."""
        return LinearMapOperator(
            linear_map,
            chunks=self._chunks,
            source=self._source,
            target=self._target,
            group=self._group,
            tf32=self._tf32,
        )


def _changes_at_point(
    J: LinearMap, points: list[Tensor], V: Tensor, transposed: bool
) -> Tensor | None:
    source = J.value if transposed else J.point
    rows = V.mT.reshape(V.shape[-1], *source.shape)
    # Together with the point itself: what is computed in one way differs by the points alone.
    all_points = torch.stack([J.point, *points])
    products = None if J.nearby is None else J.nearby(all_points, rows, transposed)
    if products is None:
        return None
    blocks = products.flatten(2).mT if products.ndim > 2 else products[..., None].mT
    return blocks[1:] - blocks[:1]


def _changes_at_points(
    J: BatchedMap,
    points: list[Tensor],
    V: Tensor,
    images: Tensor,
    transposed: bool,
    chunk: int,
) -> Tensor | None:
    if J.nearby is None:
        return None
    source, target = (J.value, J.point) if transposed else (J.point, J.value)
    rows = V.mT.reshape(*V.mT.shape[:2], *source.shape[1:])
    changes = []
    for X in points:
        products = multiply_in_chunks(J.nearby(X, transposed), rows, target.shape[1:], chunk)
        changes.append(products.reshape(*rows.shape[:2], -1).mT - images)
    return torch.stack(changes)


def perturb_by_rounding(x: Tensor, seed: int, precision: torch.dtype | None = None) -> Tensor:
    """Return x (1 ± ε), laid out in memory as x is: its entries moved as rounding moves them.

    Rounding is that of `precision`, or of the dtype of x.

    >>> moved = perturb_by_rounding(torch.tensor([1.0, -4.0, 0.0]), seed=0)
    >>> (moved / torch.tensor([1.0, 4.0, 1.0])).abs()
    tensor([1.0000, 1.0000, 0.0000])
    """
    generator = torch.Generator().manual_seed(seed)
    signs = (
        torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int8, device="cpu") * 2 - 1
    )
    step = torch.empty_like(x).copy_(signs).mul_(torch.finfo(precision or x.dtype).eps)
    return step.mul_(x).add_(x)


def _starting_chunks(linear_map: LinearMap | BatchedMap, numbers: int) -> Chunks:
    """Return the chunks to begin with; `numbers` are the sizes of a vector and its image."""
    device = linear_map.point.device
    if isinstance(linear_map, LinearMap):
        own = (starting_chunk(numbers, None, device) for _ in range(2))
        return linear_map.chunks or Chunks(*own)
    widest = linear_map.widest
    if widest is None or device.type == "cuda":  # a card is busy only with many vectors at once
        held = None if widest is None else _TENSORS_HELD * widest * linear_map.point.itemsize
        fits = starting_chunk(numbers, held, device).size
    else:
        fits = _WIDEST_ELEMENTS // widest
    low, high = _BATCH_RANGE
    chunk = Chunk(min(high, max(low, fits)), fixed=True)
    return Chunks(chunk, chunk)


def _multiply_at_points(
    product: Callable[[Tensor, int], Tensor],
    block: Tensor,
    source: Tensor,
    target: Tensor,
    chunk: Chunk,
) -> Tensor:
    """Return the products at all points of a batch, halving the chunk where memory runs out."""
    rows = block.mT
    shaped = rows.reshape(*rows.shape[:2], *source.shape[1:])
    images: list[Tensor] = []
    while not runs_in_memory(lambda: images.append(product(shaped, chunk.size)), chunk.size):
        chunk.halve(chunk.size)
    return images[0].reshape(*rows.shape[:2], target.shape[1:].numel()).mT
