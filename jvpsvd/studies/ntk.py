"""Leading eigenpairs of the empirical neural tangent kernel."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp, vmap

from jvpsvd.arguments import shown, whole_number
from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.operators import (
    JacobianOperator,
    LinearMap,
    LinearOperator,
    StreamedStack,
    by_transforms,
    check_network,
    failures_named,
    full_precision,
    restored,
    tell_difference,
)
from jvpsvd.operators.derivatives.differences import direction, refuse_hidden
from jvpsvd.operators.differentiate import Derivatives
from jvpsvd.operators.function.evaluate import (
    close,
    evaluate_at,
    prepare,
    refuse_nondeterministic,
)
from jvpsvd.operators.function.failures import first_line, remedy_at
from jvpsvd.operators.function.parameters import OfParameters, choose_parameters
from jvpsvd.operators.function.pytrees import OfVector, Structure
from jvpsvd.studies.inputs import each_input
from jvpsvd.svd import svds
from jvpsvd.svd.kernels.dense import add_lower_gram, leading_eigenpairs
from jvpsvd.svd.memory import parse_memory, physical_memory
from jvpsvd.svd.request import choose_seed

logger = logging.getLogger(__name__)

# The kernel is assembled up to this many rows: its rows then cost less than the products of a
# Krylov solve, about four for each triplet and a hundred more. A guess.
_LEAST_ROWS, _ROWS_PER_PAIR = 2048, 8
# Inputs whose Jacobians are computed in one call; more of them outgrow the processor's caches
# (`python -m benchmarks small_timings tangent_kernel`).
_BLOCK = 8
# From so many rows per pair on, eigenvectors are computed in float32 and refined. A guess.
_ROWS_TO_REFINE = 3


@dataclass(frozen=True)
class TangentKernel:
    """The k leading eigenpairs of K = J J', with J = ∂f(X)/∂θ (Jacot, Gabriel & Hongler, 2018).

    Rows and columns of K are the outputs of all inputs: K[(i, a), (j, b)] = ∇f_a(x_i) · ∇f_b(x_j).
    """

    values: Tensor
    """(k,) eigenvalues, descending: squares of the singular values of J."""
    vectors: Tensor
    """(inputs, *outputs, k) orthonormal eigenvectors, by inputs and outputs."""
    residuals: Tensor
    """(k,) ‖K w − λ w‖, or a bound of it, in the units of the eigenvalues."""
    trace: float
    """Sum of all eigenvalues; an estimate where the kernel was not assembled."""
    check: float
    """‖K w − J J' w‖ / λ₁ of a random combination w of the eigenvectors, by fresh products; J' w of
    an assembled kernel is a reverse pass through many inputs together."""
    method: str
    """"assembled", or the method of `svds`."""

    def __str__(self) -> str:
        share = 100 * min(1.0, float(self.values.sum()) / self.trace) if self.trace else 100.0
        return (
            f"{len(self.values)} eigenpairs of a tangent kernel of {self.vectors[..., 0].numel()} "
            f"rows ({self.method}): {float(self.values[0]):.4g} to {float(self.values[-1]):.4g}, "
            f"{share:.1f} % of the trace, worst residual {float(self.residuals.max()):.1e}, fresh "
            f"products agree to {self.check:.0e}"
        )


def ntk(
    model: nn.Module,
    X: Any,
    k: int = 20,
    *,
    names: Iterable[str] | None = None,
    block: int | None = None,
    tol: float = 1e-5,
    seed: int | None = 0,
    memory: int | str | None = None,
) -> TangentKernel:
    """Return the k leading eigenpairs of the empirical tangent kernel of a network at inputs X.

    A kernel of few rows is assembled from per-sample Jacobians, block by block; of a large one,
    `svds` finds the leading singular triplets of J.

    Args:
        model: The network, in evaluation mode, whose value is a tensor.
        X: Inputs, as `spectra` takes them.
        k: How many eigenpairs; at most inputs times outputs.
        names: Parameters to differentiate by; None: all.
        block: Inputs of one pass. None: as many as the memory allows, at most 8, where the kernel
            is assembled, and otherwise all.
        tol: Tolerance of `svds`.
        seed: Seed of the check, and of `svds`; None: another one each time.
        memory: Bytes, or text like "4GiB", for Jacobians and bases; None: half of the memory.

    Raises:
        ArgumentError: If X holds no input, or k is out of range.
        ModelError: If the model is in training mode, or a parameter is unknown.
        NonFiniteError: If a derivative holds NaN or infinity.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> kernel = ntk(net, torch.tensor([[3.0, 0.0], [0.0, 2.0]]), k=2)
    >>> kernel.values
    tensor([9., 4.], dtype=torch.float64)
    """
    check_network(model, replace_weights=True)
    seed = choose_seed(seed)
    theta, evaluate = choose_parameters(model, names, None)
    device = next(iter(theta.values())).device
    inputs = list(each_input(X, device))
    if not inputs:
        raise ArgumentError(f"X={shown(X)} holds no input; give at least one")
    first = _first_function(model, evaluate, theta, inputs[0])
    value = first.value
    if value.shape[:1] != (1,):
        raise ArgumentError(
            f"the model returns {tuple(value.shape)} for a batch of one; ntk needs a value "
            "with the dimension of the batch first"
        )
    rows = len(inputs) * value.numel()
    k = whole_number("k", k, 1, rows)
    budget = physical_memory(device) // 2 if memory is None else parse_memory(memory)
    parameters = sum(one.numel() for one in theta.values())
    per_input = value.numel() * parameters * value.element_size()
    block = None if block is None else whole_number("block", block, 1)
    shape = (len(inputs), *value.shape[1:])
    few = rows <= max(_LEAST_ROWS, _ROWS_PER_PAIR * k) and 24 * rows**2 <= budget // 2
    if few:
        fits = max(1, min(_BLOCK, budget // (8 * per_input)))
        # A pass of `outputs` cotangents through a block is as much work as one of one through more.
        together = block or fits * (rows // len(inputs))
        problem = _Problem(
            evaluate, theta, rows, first, _groups(inputs, block or fits), _groups(inputs, together)
        )
        keep = 2 * rows * parameters * value.element_size() <= budget // 2
        with full_precision(), torch.no_grad():
            try:
                return _solve_assembled(problem, keep, k, shape, seed)
            except (RuntimeError, NotImplementedError) as error:
                logger.warning("%s; the tangent kernel is not assembled", first_line(error))
    blocks = _equal_groups(inputs, block or len(inputs))
    return _solve_by_products(model, blocks, list(theta), k, shape, tol, seed, memory)


Evaluate = Callable[[dict[str, Tensor], tuple[Any, ...], Mapping[str, Any]], Any]


@dataclass(frozen=True)
class _FirstFunction:
    """The first input's value as a function of all parameters in one vector."""

    fn: OfVector
    point: Tensor
    value: Tensor

    def check_rows(self, rows: Tensor) -> None:
        """Compare the first input's Jacobian (outputs, parameters) with differences.

        A derivative that torch does not see would make an entry of K 0 without a word.

        Raises:
            DerivativeError: If a part of the derivative is hidden.
        """
        J = LinearMap(
            point=self.point,
            value=self.value,
            jvp=lambda V: (V @ rows.mT).reshape(-1, *self.value.shape),
            vjp=lambda U: U.flatten(1) @ rows,
        )
        image = J.jvp(direction(self.point)[None])[0]
        with restored(self.fn, self.point.device):
            refuse_hidden(
                prepare(self.fn),
                self.point,
                self.value,
                image,
                lambda z: by_transforms(self.fn, z, check=False).jvp,
            )
            tell_difference(self.fn, J, self.value)


def _first_function(
    model: nn.Module, evaluate: Evaluate, theta: dict[str, Tensor], x: Any
) -> _FirstFunction:
    """Return the first input's value as a function of the parameters, checked as operators are."""
    first, named = (x, {}) if not isinstance(x, Mapping) else _as_arguments(x)
    of_parameters = OfParameters(model, evaluate, first, (), named)
    source, point = Structure.of(theta, "the parameters")
    fn = OfVector(of_parameters, source)
    remedy = partial(remedy_at, lambda z: of_parameters.at_input(z, theta), first)
    with full_precision(), restored(model, point.device), failures_named("fn", remedy):
        value = evaluate_at(of_parameters, fn, point, 0)
        with torch.no_grad():
            again = _evaluated(evaluate, theta, x)
        if not close(value, again):
            refuse_nondeterministic(of_parameters, fn, point)
    return _FirstFunction(fn, point, value)


@dataclass(frozen=True)
class _Problem:
    evaluate: Evaluate
    theta: dict[str, Tensor]
    rows: int
    """Outputs of all inputs."""
    first: _FirstFunction
    blocks: list[Any]
    """Inputs whose Jacobians are computed together."""
    groups: list[Any]
    """Inputs of one pass of the check."""

    @property
    def parameters(self) -> int:
        """Number of columns of J."""
        return sum(part.numel() for part in self.theta.values())

    def value(self, theta: dict[str, Tensor], x: Any) -> Tensor:
        return _evaluated(self.evaluate, theta, x)


def _assemble(problem: _Problem) -> Tensor:
    """Return K (rows, rows), float64 on the CPU, where the Jacobian of all inputs does not fit.

    The Jacobians of two blocks are held at a time, and are computed once for each pair.
    """
    K = torch.empty(problem.rows, problem.rows, dtype=torch.float64)
    start = 0
    for i, block in enumerate(problem.blocks):
        J = _jacobian(problem, [block])
        mine = slice(start, start + len(J))
        K[mine, mine] = _gram(J)
        start = 0
        for earlier in problem.blocks[:i]:
            theirs = _jacobian(problem, [earlier])
            other = slice(start, start + len(theirs))
            K[mine, other] = (J @ theirs.mT).double().cpu()
            K[other, mine] = K[mine, other].mT
            start = other.stop
        start = mine.stop
    return K


def _gram(J: Tensor) -> Tensor:
    """Return J J' in float64 on the CPU; half of it is computed."""
    lower = J.new_zeros(len(J), len(J))
    add_lower_gram(lower, J.mT)
    K = lower.double().cpu().tril()
    return K + K.tril(-1).mT


def _jacobian(problem: _Problem, blocks: list[Any]) -> Tensor:
    """Return the Jacobian of all inputs of some blocks by the parameters, (rows, parameters)."""

    def of_one(theta: dict[str, Tensor], x: Any) -> Tensor:
        return problem.value(theta, _each(x, lambda part: part[None])).flatten()

    of_block = vmap(jacrev(of_one), in_dims=(None, 0))
    J: Tensor | None = None
    count = sum(map(_length, blocks))
    start = 0
    for block in blocks:
        parts = [part.flatten(2) for part in of_block(problem.theta, block).values()]
        inputs, outputs = parts[0].shape[:2]
        if J is None:
            J = parts[0].new_empty(count, outputs, problem.parameters)
        torch.cat(parts, dim=2, out=J[start : start + inputs])
        start += inputs
    if J is None:
        raise TypeError("there is no block")
    return J.flatten(0, 1)


def _solve_assembled(
    problem: _Problem, keep: bool, k: int, shape: tuple[int, ...], seed: int
) -> TangentKernel:
    """Return the eigenpairs of the assembled kernel; `keep` says whether J fits into memory."""
    J = _jacobian(problem, problem.blocks) if keep else None
    some = _jacobian(problem, problem.blocks[:1]) if J is None else J
    problem.first.check_rows(some[: problem.first.value.numel()])
    K = _assemble(problem) if J is None else _gram(J)
    if not bool(torch.isfinite(K).all()):
        raise NonFiniteError("the tangent kernel holds NaN or infinity; check model and inputs")
    own = next(iter(problem.theta.values())).dtype
    values, vectors = _eigenpairs(K, k, own)
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError("LAPACK finds no eigenvalues of the tangent kernel; try another k")
    residuals = torch.linalg.vector_norm(K @ vectors - vectors * values, dim=0)
    generator = torch.Generator().manual_seed(seed)
    w = vectors @ torch.nn.functional.normalize(
        torch.randn(k, generator=generator, dtype=torch.float64), dim=0
    )
    check = torch.linalg.vector_norm(K @ w - _kernel_product(problem, J, w))
    top = float(values[0])
    return TangentKernel(
        values.clamp_min(0),
        vectors.reshape(*shape, k),
        residuals,
        float(K.trace()),
        float(check) / top if top > 0 else float(check),
        "assembled",
    )


def _eigenpairs(K: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the k leading eigenpairs of K in float64, NaN if LAPACK fails.

    Few of a kernel that was computed in a lower precision are found in float32 and refined by a
    Rayleigh–Ritz step in float64. That takes half the time, and leaves residuals below the
    rounding that K has.
    """
    if dtype == torch.float64 or len(K) < _ROWS_TO_REFINE * k:
        return leading_eigenpairs(K.clone(), k)
    values, vectors = leading_eigenpairs(K.float(), k)
    if not bool(torch.isfinite(values).all()):
        return values.double(), vectors.double()
    Q = torch.linalg.qr(vectors.double()).Q
    values, X = leading_eigenpairs(Q.mT @ (K @ Q), k)
    return values, Q @ X


def _kernel_product(problem: _Problem, J: Tensor | None, w: Tensor) -> Tensor:
    """Return J J' w: J' w by reverse passes, and its image by forward ones if there is no J."""
    gradient = {name: torch.zeros_like(part) for name, part in problem.theta.items()}
    start = 0
    for group in problem.groups:
        value, pull = vjp(lambda theta, x=group: problem.value(theta, x), problem.theta)[:2]
        part = w[start : start + value.numel()].to(value).reshape(value.shape)
        start += value.numel()
        (pulled,) = pull(part)
        gradient = {name: gradient[name] + pulled[name] for name in gradient}
    if J is not None:
        return (J @ torch.cat([part.flatten() for part in gradient.values()])).double().cpu()
    products = [
        jvp(lambda theta, x=group: problem.value(theta, x), (problem.theta,), (gradient,))[1]
        for group in problem.groups
    ]
    return torch.cat([part.flatten() for part in products]).double().cpu()


def _solve_by_products(
    model: nn.Module,
    blocks: list[Any],
    names: list[str],
    k: int,
    shape: tuple[int, ...],
    tol: float,
    seed: int,
    memory: int | str | None,
) -> TangentKernel:
    def at(index: int) -> LinearOperator:
        kind: Derivatives = "auto" if len(blocks) == 1 else "transforms"
        return _operator(model, blocks[index], names, kind)

    J = at(0) if len(blocks) == 1 else StreamedStack(at, len(blocks))
    result = svds(J, k, tol=tol, seed=seed, memory=memory)
    s = result.s.double().cpu()
    U = result.U
    if U is None:
        raise TypeError("the solve kept no vectors")
    certificate = result.certificate
    return TangentKernel(
        s**2,
        U.double().cpu().reshape(*shape, k),
        2 * s[0] * result.residuals.double().cpu(),  # J(J'u − s v) + s (J v − s u)
        certificate.fro2,
        certificate.combination_residual / float(s[0]) if float(s[0]) else 0.0,
        result.method,
    )


def _operator(model: nn.Module, x: Any, names: list[str], kind: Derivatives) -> LinearOperator:
    """Return the Jacobian of a block by the parameters, checked as every operator is."""
    if not isinstance(x, Mapping):
        return JacobianOperator.wrt_parameters(model, x, names=names, derivatives=kind)
    first, rest = _as_arguments(x)
    return JacobianOperator.wrt_parameters(model, first, names=names, kwargs=rest, derivatives=kind)


def _as_arguments(x: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the first argument of a dict of them, and the others by name."""
    (_, first), *rest = x.items()
    return first, dict(rest)


def _evaluated(evaluate: Evaluate, theta: dict[str, Tensor], x: Any) -> Tensor:
    value = evaluate(theta, (), x) if isinstance(x, Mapping) else evaluate(theta, (x,), {})
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the model returns a {type(value).__name__}; ntk needs a tensor")
    return value


def _each(x: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Mapping):
        return {name: apply(part) if isinstance(part, Tensor) else part for name, part in x.items()}
    return apply(x)


def _length(block: Any) -> int:
    tensors = block.values() if isinstance(block, Mapping) else [block]
    return next(len(part) for part in tensors if isinstance(part, Tensor))


def _equal_groups(inputs: list[Any], size: int) -> list[Any]:
    """Return the inputs in groups of equal size, at most this one."""
    count = math.ceil(len(inputs) / size)
    while len(inputs) % count:
        count += 1
    return _groups(inputs, len(inputs) // count)


def _groups(inputs: list[Any], size: int) -> list[Any]:
    """Return the inputs in groups of at most this size."""
    groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return [_concatenated(group) for group in groups]


def _concatenated(group: list[Any]) -> Any:
    first = group[0]
    if isinstance(first, Mapping):
        return {
            name: torch.cat([one[name] for one in group]) if isinstance(part, Tensor) else part
            for name, part in first.items()
        }
    return torch.cat(group)
