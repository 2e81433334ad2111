"""The Jacobian of a function at a point, as a linear operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jvpsvd.arguments import (
    check_flag,
    check_further_arguments,
    one_of,
    refuse_unknown_names,
    shown,
    whole_number,
)
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.derivatives.batched_map import BatchedMap
from jvpsvd.operators.derivatives.chunk_tuning import Chunks
from jvpsvd.operators.derivatives.linear_map import WEIGHTS_CHANGED, LinearMap
from jvpsvd.operators.differentiate import DerivativeMethod
from jvpsvd.operators.environment.compilation import uncompiled
from jvpsvd.operators.environment.precision import choose_precision
from jvpsvd.operators.environment.process_groups import check_group
from jvpsvd.operators.function.admission import (
    check_function,
    check_network,
    refuse_weights_without_values,
)
from jvpsvd.operators.function.conversion import check_dtype
from jvpsvd.operators.function.parameters import (
    OfParameters,
    choose_parameters,
)
from jvpsvd.operators.linear_map_operator import LinearMapOperator
from jvpsvd.operators.linearize import Linearization, Linearized, LinearizeOptions

# Keywords of `svds`, which solves.
_OF_SVDS = dict.fromkeys(
    (
        *("k", "which", "tol", "method", "block_size", "memory", "seed", "vectors", "start"),
        *("energy", "tail", "on_unconverged", "progress"),
    ),
    "svds takes it: svds(JacobianOperator(fn, x), k=5)",
)
# The keywords that `wrt_parameters` passes to the constructor.
_OPTIONS = ("batch_dims", "chunk", "derivatives", "fold", "check", "recompute", "group", "tf32")


class JacobianOperator(LinearMapOperator):
    """J = ∂f/∂x at a point: m = f(x).numel() rows, n = x.numel() columns, never written down.

    ``J @ V`` is b Jacobian–vector products, ``J.T @ U`` b vector–Jacobian products. Rows follow
    f(x).flatten() and columns x.flatten(). (Mototake & Ikegami write the transpose, eq. 3.) The
    function is evaluated once at the point; each product afterwards only replays its linear part.

    x and f(x) may be dicts, tuples or lists of tensors: their floating tensors, concatenated in
    their order, are the vector. `as_input` and `as_output` give a vector that structure again.
    Tensors of x that are not floating are held fixed. An array (NumPy's, or with ``__dlpack__`` or
    ``__array__``) is taken as a tensor of its dtype, which is what fn is given.

    For many points make one operator, and go on with `J.at(x)`, which replays what was recorded for
    two to three inferences a point. A new operator takes nothing over from an earlier one, even of
    the same fn: nothing would say when to forget it. Where the rows of x do not act on each other,
    so that J is block-diagonal, a line in the log says so once.

    The point is copied. Products are refused once weights of fn have changed, or parameters or
    modules have been replaced, since the derivative was taken; after ``weight.data.mul_(2)``, which
    torch does not count, perhaps some milliseconds later. Other changes (a number that fn closes
    over, the mode) are refused where products evaluate fn, as transforms do, and have no effect on
    what was recorded; `J.at(x)` sees them.

    With ``batch_dims=1`` it is the batch of the Jacobians at the points X[0], X[1], …: fn takes one
    of them, without the dimension of the batch, is recorded once, if at all, and is replayed at all
    of them together. An fn that cannot take X[0] but X[0][None], as a network of batches of images,
    is given batches of one, and the first dimension of its value, of one, is dropped: X is
    (B, C, H, W) as the network itself takes it. A module that takes both and computes something
    else of them, as convolutions with a softmax over dimension 1 do, is refused. (So is what wraps
    one: a method of it, `functools.partial`, `layer_map`.) It is evaluated once more for that. A
    plain function takes one point by contract, ``lambda x: model(x[None])[0]``.

    Args:
        fn: x → value, or a module. Its value must be finite and of the dtype of x.
        x: The point, of a real floating dtype; or B points along a first dimension.
        args: Further arguments of fn, held fixed: token ids, a mask. They are common to all points
            of a batch. A mask for each is refused where fn is a module whose value at one point has
            an entry for every mask; elsewhere it is broadcast.
        kwargs: The same by name.
        batch_dims: How many dimensions of x count points: 0 or 1.
        dtype: Convert x, and the parameters and buffers of the module fn that it reads, to this
            dtype first: a bfloat16 network is then differentiated in float32. The module itself is
            not changed.
        chunk: Vectors per call of automatic differentiation, over all points of a batch. When None,
            a few sizes are timed while they work, and the best is kept. It bounds memory, is halved
            where memory runs out, and is independent of the width of the blocks multiplied.
        derivatives: "trace" records the linear maps at once (see `Trace`); "transforms" uses
            vmap(jvp) and vmap(vjp), with no set-up and slower products; "auto" records, and falls
            back to the transforms with a line in the log. For a small network "auto" begins with
            the transforms, and records once products have been as much work as a recording is.
            That is decided by counting operations and vectors, not by a clock, so that the same
            products are computed in the same way each time.
        fold: Let a recording fold normalisation into convolutions and rewrite these; it changes
            values by rounding only.
        check: Compare one JVP with one VJP, and products with differences of fn: a line in the log
            says where products explain only a part of how fn moves.
        recompute: Keep a few values of the point, where a network is narrow, and compute the other
            activations again with each block of products, a part of the network at a time. Blocks
            take one evaluation of fn more, however wide they are. For one point. Where that saves
            less than a fifth, all activations are kept, with a line in the log at level INFO.
        group: A torch.distributed group on every rank of which this same operator is made; the
            columns of a block are divided among them.
        tf32: Leave TF32 and the like as the process has them; otherwise products are computed in
            full precision.

        other_names: None: each is refused in a line that says what it is called here.

    Raises:
        ArgumentError: If x or fn(x) is not real floating, their dtypes or devices differ, or fn
            gives two values for one point; the module that does is named where it can be seen. With
            batch_dims=1, if a module computes something else of a point than of a batch of one, or
            fn, which takes batches only, of two points together than of each.
        ModelError: If fn is a module in training mode (see `refuse_training_mode`), or is spread
            over ranks by tensor parallelism.
        NonFiniteError: If fn(x) holds NaN or infinity; names the points of a batch where it does,
            and the first module that produced it.
        AdjointError: If JVPs and VJPs are not of one matrix.
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
        derivatives: DerivativeMethod = "auto",
        fold: bool = True,
        check: bool = True,
        recompute: bool = False,
        group: dist.ProcessGroup | None = None,
        tf32: bool = False,
        **other_names: Never,
    ) -> None:
        refuse_unknown_names(JacobianOperator, other_names, _OF_SVDS)
        meaning = "must be 0, for one point, or 1, for points along the first dimension of x"
        one_of("batch_dims", batch_dims, (0, 1), meaning)
        one_of("derivatives", derivatives, ("auto", "trace", "transforms"))
        flags = (("fold", fold), ("check", check), ("recompute", recompute), ("tf32", tf32))
        for name, flag in flags:
            check_flag(name, flag)
        if recompute and (batch_dims or derivatives == "transforms"):
            raise ArgumentError(
                "recompute=True is for a recording at one point; leave out batch_dims=1 and "
                'derivatives="transforms"'
            )
        check_further_arguments(args, kwargs)
        check_dtype(dtype)
        self._fixed_chunks, ranks = _fixed_chunks(chunk), check_group(group)
        check_function(fn, dtype)
        self._linearization = Linearization(
            fn,
            tuple(args),
            dict(kwargs or {}),
            dtype,
            LinearizeOptions(batch_dims, derivatives, fold, check, recompute),
        )
        with choose_precision(tf32):
            found = self._linearization.at(x)
        self._hold(found, ranks, tf32)

    def _hold(self, found: Linearized, group: dist.ProcessGroup | None, tf32: bool) -> None:
        self._has_its_modules = self._linearization.note_modules()
        super().__init__(
            found.linear_map,
            chunks=self._fixed_chunks,
            source=found.source,
            target=found.target,
            group=group,
            tf32=tf32,
        )

    def at(self, x: Any) -> JacobianOperator:
        """Return the Jacobian of the same function at another point, or at the points of a batch.

        What was recorded is replayed, which takes about one and a half inferences; another one, of
        fn itself, verifies the value, and all that fn holds is compared, for half of one. (A new
        `JacobianOperator` records anew.) The result is never that of an earlier fn: the derivative
        is taken anew, with a line in the log at level INFO, where the replayed value is not that of
        fn (control flow that depends on the point), and where anything is not what it was that fn
        may read:

        - of modules: parameters, buffers and what they share memory with, in place or replaced;
          hooks; the mode; `requires_grad`; attributes; children; their class's own methods;
        - args and kwargs, what fn closes over, the globals that it and the methods it calls name,
          and all that can be reached through these: entries of containers, attributes of objects;
        - autocast, and torch's hooks for all modules.

        What torch does not count, ``weight.data.mul_(2)``, is seen because a recording reads the
        weights. Not seen, where the value at x stays the same, is what no Python object holds
        (files, the environment, the inside of objects of C++), and what the code of installed
        packages holds for the whole process.

        Args:
            x: A point of the same shapes, dtype and device; in a batch, any number of them.

        Raises:
            ArgumentError: If x is of another kind.
            JvpsvdError: As `JacobianOperator`, where the derivative is taken anew.

        >>> J = JacobianOperator(torch.square, torch.tensor([1.0, 2.0]))
        >>> J.at(torch.tensor([3.0, 4.0])).to_dense()
        tensor([[6., 0.],
                [0., 8.]])
        """
        J = object.__new__(JacobianOperator)
        J._linearization, J._fixed_chunks = self._linearization, self._fixed_chunks
        with choose_precision(self._tf32):
            found = self._linearization.at(x)
        J._hold(found, self._group, self._tf32)
        return J

    def _matmat(self, V: Tensor) -> Tensor:
        self._refuse_replaced_modules()
        return super()._matmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        self._refuse_replaced_modules()
        return super()._rmatmat(U)

    def _refuse_replaced_modules(self) -> None:
        if not self._has_its_modules():
            raise ArgumentError(WEIGHTS_CHANGED)

    def find_nonfinite(self, index: int = 0) -> str | None:
        """Return what makes products that are not finite, in words; None where it cannot be seen.

        Args:
            index: Of the point in a batch.

        >>> JacobianOperator(torch.sqrt, torch.zeros(2)).find_nonfinite()
        "torch's sqrt"
        """
        return self._linearization.find_nonfinite(self.point[index] if self.batch else self.point)

    @staticmethod
    def from_linear_map(
        linear_map: LinearMap | BatchedMap,
        *,
        chunk: int | None = None,
        group: dist.ProcessGroup | None = None,
        tf32: bool = False,
    ) -> LinearMapOperator:
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
        chunks = _fixed_chunks(chunk)
        return LinearMapOperator(linear_map, chunks=chunks, group=check_group(group), tf32=tf32)

    @classmethod
    def wrt_parameters(
        cls,
        model: nn.Module,
        x: Any,
        *,
        names: str | Iterable[str] | None = None,
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
            names: The parameters that make up θ; the others are held fixed. None for all.
            args: Further arguments of the model.
            kwargs: The same by name.
            dtype: As for `JacobianOperator`; x is to be given in it.
            options: The other keywords of `JacobianOperator`, but for batch_dims=1: the parameters
                are one point.

        Raises:
            ArgumentError: On other keywords.
            ModelError: If a parameter is unknown, or the model is in training mode.

        >>> net = nn.Linear(2, 1, bias=False)
        >>> J = JacobianOperator.wrt_parameters(net, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> J @ torch.eye(2)
        tensor([[1., 2.],
                [3., 4.]])
        """
        meaning = "must be 0: the parameters are one point; make one operator for each input"
        one_of("batch_dims", options.get("batch_dims", 0), (0,), meaning)
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            answer = _OF_SVDS.get(unknown[0]) or f"there are {', '.join(_OPTIONS)}"
            raise ArgumentError(f"unknown keyword '{unknown[0]}'; {answer}")
        check_further_arguments(args, kwargs)
        check_network(model, replace_weights=True)
        refuse_weights_without_values(model)
        model = uncompiled(model)
        theta, evaluate = choose_parameters(model, names, dtype)
        return cls(OfParameters(model, evaluate, x, args, dict(kwargs or {})), theta, **options)


def _fixed_chunks(chunk: int | None) -> Chunks | None:
    return None if chunk is None else Chunks.fixed(whole_number("chunk", chunk, 1))
