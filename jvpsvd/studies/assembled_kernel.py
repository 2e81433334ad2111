"""Assemble the tangent kernel of few rows from per-sample Jacobians, and check it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp, vmap

from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.operators import (
    LinearMap,
    by_transforms,
    failures_named,
    full_precision,
    restored,
    tell_difference,
)
from jvpsvd.operators.derivatives.differences import direction, refuse_hidden
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.function.evaluate import (
    close,
    evaluate_at,
    prepare,
    refuse_nondeterministic,
)
from jvpsvd.operators.function.failures import remedy_at
from jvpsvd.operators.function.first_call import FirstCall
from jvpsvd.operators.function.lower_precision import (
    LowerPrecision,
    eps_of_tests,
    tell_lower_precision,
)
from jvpsvd.operators.function.parameters import Evaluate, OfParameters
from jvpsvd.operators.function.pytrees import OfVector, Structure
from jvpsvd.scaling import power_of_two
from jvpsvd.svd.kernels.dense import add_lower_gram, leading_eigenpairs
from jvpsvd.svd.product_checks import check_scale

# From so many rows per pair on, eigenvectors are computed in float32 and refined. A guess.
_ROWS_TO_REFINE = 3
# Sums of squares of derivatives beyond this, or below its inverse, may not fit into float32.
_FAR = 2.0**40
# What to do where the model takes more than one argument.
_ALL_ARGUMENTS = "give each input as a dict of all arguments by name, {'x': x, 't': t}"


class Assembled(NamedTuple):
    """The fields of a `TangentKernel` that was assembled."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    trace: float
    check: float


@dataclass(frozen=True)
class FirstFunction:
    """The value of one input, the first, as a function of all parameters in one vector."""

    fn: OfVector
    point: Tensor
    value: Tensor
    runs_inference: bool | None
    """Whether a part of the model runs in inference mode; None: not known."""
    lower_precision: LowerPrecision | None
    """The lowest precision that the model computes in, if it is lower than the parameters'."""

    def check_rows(self, rows: Tensor) -> None:
        """Compare the input's Jacobian (outputs, parameters) with differences.

        A derivative that torch does not see would make an entry of K 0 without a word.

        Raises:
            DerivativeError: If a part of the derivative is hidden.
        """
        J = LinearMap(
            point=self.point,
            value=self.value,
            jvp=lambda V: (V @ rows.mT).reshape(-1, *self.value.shape),
            vjp=lambda U: U.flatten(1) @ rows,
            lower_precision=self.lower_precision,
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


def first_function(
    model: nn.Module, evaluate: Evaluate, theta: dict[str, Tensor], x: Any
) -> FirstFunction:
    """Return the first input's value as a function of the parameters, checked as operators are."""
    first, named = (x, {}) if not isinstance(x, Mapping) else as_arguments(x)
    of_parameters = OfParameters(model, evaluate, first, (), named)
    source, point = Structure.of(theta, "the parameters")
    fn = OfVector(of_parameters, source)
    remedy = partial(remedy_at, lambda z: of_parameters.at_input(z, theta), first)
    one_line = failures_named("fn", remedy, _ALL_ARGUMENTS)
    first_call = FirstCall([model])
    with full_precision(), restored(model, point.device), one_line:
        value, _, runs_inference, _, lower_precision = evaluate_at(of_parameters, fn, point, 0)
        first_call.end()
        tell_lower_precision(lower_precision, point.dtype)
        with torch.no_grad():
            again = _evaluate(evaluate, theta, x)
        if not close(value, again, eps=eps_of_tests(lower_precision, point.dtype)):
            refuse_nondeterministic(of_parameters, fn, point)
        first_call.tell()
    return FirstFunction(fn, point, value, runs_inference, lower_precision)


@dataclass(frozen=True)
class Problem:
    """What a kernel is assembled from."""

    evaluate: Evaluate
    theta: dict[str, Tensor]
    rows: int
    """Outputs of all inputs."""
    first: FirstFunction
    blocks: list[Any]
    """Inputs whose Jacobians are computed together."""
    checked: Tensor
    """Indices of the inputs that fresh products check."""
    groups: list[Any]
    """These inputs, those of one pass at a time."""
    others: Iterable[tuple[Any, FirstFunction]] = ()
    """Further inputs whose Jacobians are compared with differences, each with its function."""

    @property
    def parameters(self) -> int:
        """Number of columns of J."""
        return sum(part.numel() for part in self.theta.values())

    def value(self, theta: dict[str, Tensor], x: Any) -> Tensor:
        """Return the model's value at inputs x."""
        return _evaluate(self.evaluate, theta, x)


def solve_assembled(
    problem: Problem, keep: bool, k: int, shape: tuple[int, ...], seed: int
) -> Assembled:
    """Return the eigenpairs of the assembled kernel; `keep` says whether J fits into memory.

    Raises:
        ArgumentError: If derivatives are too large or too small for their dtype.
        NonFiniteError: If one is NaN or infinite, or LAPACK fails.
    """
    J = _jacobian(problem, problem.blocks) if keep else None
    some = _jacobian(problem, problem.blocks[:1]) if J is None else J
    problem.first.check_rows(some[: problem.first.value.numel()])
    for x, function in problem.others:
        function.check_rows(_jacobian(problem, [x]))
    K = _assemble(problem) if J is None else _gram(J)
    if not bool(torch.isfinite(K).all()):
        raise NonFiniteError("the tangent kernel holds NaN or infinity; check model and inputs")
    own = next(iter(problem.theta.values())).dtype
    norm = K.diagonal().max().sqrt()
    check_scale(norm, norm.to(own).reshape(1, 1))
    if norm == 0:
        _refuse_vanished(problem)
    scale = power_of_two(K)  # so that float32 holds it, and float64 the squares of residuals
    K /= scale
    values, vectors = _eigenpairs(K, k, own)
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError("LAPACK finds no eigenvalues of the tangent kernel; try another k")
    residuals = torch.linalg.vector_norm(K @ vectors - vectors * values, dim=0)
    generator = torch.Generator().manual_seed(seed)
    w = vectors @ torch.nn.functional.normalize(
        torch.randn(k, generator=generator, dtype=torch.float64), dim=0
    )
    part = torch.zeros(shape[0], problem.rows // shape[0], dtype=torch.float64)
    part[problem.checked] = w.reshape(part.shape)[problem.checked]
    product = _kernel_product(problem, J, part[problem.checked]) / scale
    check = torch.linalg.vector_norm(K @ part.flatten() - product)
    top = float(values[0])
    return Assembled(
        values.clamp_min(0) * scale,
        vectors.reshape(*shape, k),
        residuals * scale,
        float(K.trace()) * scale,
        float(check) / top if top > 0 else float(check),
    )


def _assemble(problem: Problem) -> Tensor:
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
            K[mine, other] = _product(J, theirs)
            K[other, mine] = K[mine, other].mT
            start = other.stop
        start = mine.stop
    return K


def _gram(J: Tensor) -> Tensor:
    """Return J J' in float64 on the CPU; half of it is computed."""
    J, scale = _scaled(J)
    lower = J.new_zeros(len(J), len(J))
    add_lower_gram(lower, J.mT)
    K = lower.double().cpu().tril()
    return (K + K.tril(-1).mT) * scale * scale


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return L R' in float64 on the CPU."""
    (L, one), (R, two) = _scaled(left), _scaled(right)
    return (L @ R.mT).double().cpu() * one * two


def _scaled(J: Tensor) -> tuple[Tensor, float]:
    """Return J over a scale, and the scale; without a copy where sums of squares fit."""
    scale = power_of_two(J)
    return (J, 1.0) if 1 / _FAR < scale < _FAR else (J / scale, scale)


def _refuse_vanished(problem: Problem) -> None:
    """Refuse derivatives that are 0 only because they are too small for their dtype.

    Reverse passes of large vectors show it, as `check_zero` does for operators.
    """
    for block in problem.blocks:
        value, vjp_fn = _vjp(problem, block)
        norm = torch.finfo(value.dtype).max ** 0.5
        along = direction(value)
        (products,) = vjp_fn(along * (norm / torch.linalg.vector_norm(along)))
        # What overflows within shows nothing.
        if any(bool((part.isfinite() & (part != 0)).any()) for part in products.values()):
            wider = "" if value.dtype == torch.float64 else "use float64, or "
            raise ArgumentError(
                f"derivatives are 0, but products with vectors of norm {norm:.0e} are not: they "
                f"are below what {value.dtype} can hold; {wider}multiply the output of the model"
            )


def _vjp(problem: Problem, x: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return the value at inputs x, and u → J' u.

    Gradients are on, since oneDNN's LSTM keeps what its derivative needs only then.
    """
    with torch.enable_grad():
        value, vjp_fn = vjp(lambda theta: problem.value(theta, x), problem.theta)[:2]
    return value.detach(), vjp_fn


def _jacobian(problem: Problem, blocks: list[Any]) -> Tensor:
    """Return the Jacobian of all inputs of some blocks by the parameters, (rows, parameters)."""

    def of_one(theta: dict[str, Tensor], x: Any) -> Tensor:
        return problem.value(theta, _each(x, lambda part: part[None])).flatten()

    of_block = vmap(jacrev(of_one), in_dims=(None, 0))
    J: Tensor | None = None
    count = sum(map(_length, blocks))
    start = 0
    for block in blocks:
        with torch.enable_grad():  # see `_vjp`
            found = of_block(problem.theta, block)
        parts = [part.detach().flatten(2) for part in found.values()]
        inputs, outputs = parts[0].shape[:2]
        if J is None:
            J = parts[0].new_empty(count, outputs, problem.parameters)
        torch.cat(parts, dim=2, out=J[start : start + inputs])
        start += inputs
    if J is None:
        raise TypeError("there is no block")
    return J.flatten(0, 1)


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


def _kernel_product(problem: Problem, J: Tensor | None, w: Tensor) -> Tensor:
    """Return J J' w for w (inputs, outputs) at the inputs of the check, by fresh products.

    J' w takes reverse passes, and its image forward ones if there is no J.
    """
    gradient = {name: torch.zeros_like(part) for name, part in problem.theta.items()}
    start = 0
    for group in problem.groups:
        value, vjp_fn = _vjp(problem, group)
        part = w[start : start + len(value)].to(value).reshape(value.shape)
        start += len(value)
        (products,) = vjp_fn(part)
        gradient = {name: gradient[name] + products[name] for name in gradient}
    whole = torch.cat([part.flatten() for part in gradient.values()])
    if J is not None:
        return _product(J, whole[None])[:, 0]
    scale = power_of_two(whole)
    gradient = {name: part / scale for name, part in gradient.items()}
    products = [
        in_one_thread(jvp)(
            lambda theta, x=block: problem.value(theta, x), (problem.theta,), (gradient,)
        )[1]
        for block in problem.blocks
    ]
    return torch.cat([part.flatten() for part in products]).double().cpu() * scale


def _evaluate(evaluate: Evaluate, theta: dict[str, Tensor], x: Any) -> Tensor:
    value = evaluate(theta, (), x) if isinstance(x, Mapping) else evaluate(theta, (x,), {})
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"the model returns {type(value).__name__}; ntk needs a tensor: give a module that "
            "returns one of what it holds"
        )
    return value


def _each(x: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Mapping):
        return {name: apply(part) if isinstance(part, Tensor) else part for name, part in x.items()}
    return apply(x)


def _length(block: Any) -> int:
    tensors = block.values() if isinstance(block, Mapping) else [block]
    return next(len(part) for part in tensors if isinstance(part, Tensor))


def as_arguments(x: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the first argument of a dict of them, and the others by name."""
    (_, first), *rest = x.items()
    return first, dict(rest)
