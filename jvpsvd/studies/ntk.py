"""Leading eigenpairs of the empirical neural tangent kernel."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Never

import torch
from torch import Tensor, nn

from jvpsvd.arguments import refuse_unknown_names, shown, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.machine import parse_memory
from jvpsvd.networks.batch_dimension import refuse_without_batch_of_inputs
from jvpsvd.operators import (
    JacobianOperator,
    LinearOperator,
    StreamedStack,
    check_network,
    full_precision,
)
from jvpsvd.operators.differentiate import DerivativeMethod
from jvpsvd.operators.function.evaluate import with_derivatives
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.parameters import choose_parameters
from jvpsvd.records import AnswersOtherNames, ComparedByFields
from jvpsvd.studies.assembled_kernel import (
    Problem,
    as_arguments,
    first_function,
    solve_assembled,
)
from jvpsvd.studies.inputs import (
    each_input,
    list_arguments,
    refuse_other_kind,
    told_how_read,
)
from jvpsvd.svd import svds
from jvpsvd.svd.memory import memory_of
from jvpsvd.svd.request import choose_seed
from jvpsvd.text_table import count_noun, fitted_lines

logger = logging.getLogger(__name__)

# The kernel is assembled up to this many rows: its rows then cost less than the products of a
# Krylov solve, about four for each triplet and a hundred more. A guess.
_LEAST_ROWS, _ROWS_PER_PAIR = 2048, 8
# Inputs whose Jacobians are computed in one call, for each thread: fewer leave threads idle, and
# more outgrow the processor's caches (`python -m benchmarks small_timings tangent_kernel`).
_BLOCK = 8
# Fresh products check one of so many inputs, and so many at least. Guesses.
_CHECKED, _LEAST_CHECKED = 4, 8
_OTHER_NAMES = {
    **dict.fromkeys(("eigenvalues", "L", "w"), "it is values here"),
    **dict.fromkeys(("eigenvectors", "Q", "V", "U"), "it is vectors here"),
    **dict.fromkeys(("s", "S", "singular_values"), "it is values.sqrt() here"),
}


@dataclass(frozen=True, eq=False, repr=False)
class TangentKernel(ComparedByFields, AnswersOtherNames):
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
    """‖K w − J J' w‖ / λ₁ of a random combination w of the eigenvectors, by fresh products. Where
    the kernel was not assembled, K w is Σ λ (w · u) u over the pairs. Of an assembled one w is
    restricted to a quarter of the inputs, chosen at random, and J' w is a reverse pass through
    these together."""
    method: str
    """"assembled", or the method of `svds`."""

    _other_names = _OTHER_NAMES

    def __repr__(self) -> str:
        inputs, *outputs, k = self.vectors.shape
        return (
            f"<TangentKernel of {count_noun(inputs, 'input')}, outputs {tuple(outputs)}, k={k}: "
            f"values from {float(self.values[0]):.4g} to {float(self.values[-1]):.4g}>"
        )

    def __str__(self) -> str:
        share = 100 * min(1.0, float(self.values.sum()) / self.trace) if self.trace else 100.0
        first = float(self.values[0])
        worst = float(self.residuals.max())
        worst_in_words = f"{worst / first:.1e} of the first" if first else f"{worst:.1e}"
        rows = count_noun(self.vectors[..., 0].numel(), "row")
        return fitted_lines(
            f"{count_noun(len(self.values), 'eigenpair')} of a tangent kernel of {rows} "
            f"({self.method}): {first:.4g} to {float(self.values[-1]):.4g}, "
            f"{share:.1f} % of the trace, worst residual {worst_in_words}, fresh "
            f"products agree to {self.check:.0e}"
        )


def ntk(
    model: nn.Module,
    X: Any,
    k: int | Literal["all"] = 20,
    *,
    names: str | Iterable[str] | None = None,
    block: int | None = None,
    tol: float = 1e-5,
    seed: int | None = 0,
    memory: int | str | None = None,
    **other_names: Never,
) -> TangentKernel:
    """Return the k leading eigenpairs of the empirical tangent kernel of a network at inputs X.

    A kernel of few rows is assembled from per-sample Jacobians, block by block; of a large one,
    `svds` finds the leading singular triplets of J.

    Args:
        model: The network, in evaluation mode, whose value is a tensor.
        X: Inputs, as `spectra` takes them.
        k: How many eigenpairs, at most inputs times outputs; "all" of them.
        names: Parameters to differentiate by; None: all, those that require no gradient included.
        block: Inputs of one pass. None: as many as the memory allows, at most 8 for each thread,
            where the kernel is assembled, and otherwise all.
        tol: Tolerance of `svds`.
        seed: Seed of the check, and of `svds`; None: another one each time.
        memory: Bytes, or text like "4GiB", for Jacobians and bases; None: half of the memory.
        other_names: None: each is refused in a line that says what it is called here.

    Raises:
        ArgumentError: If X holds no input, inputs differ in shape, or k is out of range; and where
            `spectra` refuses inputs that are no batch of the network, and pairs.
        ModelError: If the model is in training mode, or a parameter is unknown.
        NonFiniteError: If a derivative holds NaN or infinity.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> kernel = ntk(net, torch.tensor([[3.0, 0.0], [0.0, 2.0]]), k=2)
    >>> kernel.values
    tensor([9., 4.], dtype=torch.float64)
    """
    refuse_unknown_names(ntk, other_names)
    check_network(model, replace_weights=True)
    seed = choose_seed(seed)
    theta, evaluate = choose_parameters(model, names, None)
    evaluate = with_derivatives(evaluate, [model])
    device = next(iter(theta.values())).device
    inputs = list(each_input(X, device, list_arguments(model)))
    if not inputs:
        raise ArgumentError(f"X={shown(X)} holds no input; give at least one")
    for index, x in enumerate(inputs):
        refuse_other_kind(x, inputs[0], index)
        _refuse_other_entries(x, index)
    with told_how_read(inputs[0]):
        first = first_function(model, evaluate, theta, inputs[0])
    refuse_without_batch_of_inputs(model, lambda x: [_value(model, x)], inputs[0])
    value = first.value
    if value.shape[:1] != (1,):
        raise ArgumentError(
            f"the model returns {tuple(value.shape)} for a batch of one; ntk needs a value "
            "with the dimension of the batch first"
        )
    rows = len(inputs) * value.numel()
    k = rows if isinstance(k, str) and k == "all" else whole_number("k", k, 1, rows)
    budget = memory_of(device) // 2 if memory is None else parse_memory(memory)
    parameters = sum(one.numel() for one in theta.values())
    per_input = value.numel() * parameters * value.element_size()
    block = None if block is None else whole_number("block", block, 1)
    shape = (len(inputs), *value.shape[1:])
    few = rows <= max(_LEAST_ROWS, _ROWS_PER_PAIR * k) and 24 * rows**2 <= budget // 2
    if few:
        fits = max(1, min(_BLOCK * torch.get_num_threads(), budget // (8 * per_input)))
        # A pass of `outputs` vectors through a block is as much work as one of one through more.
        together = block or fits * (rows // len(inputs))
        generator = torch.Generator().manual_seed(seed)
        some = min(len(inputs), max(_LEAST_CHECKED, len(inputs) // _CHECKED))
        checked = torch.randperm(len(inputs), generator=generator)[:some].sort().values
        problem = Problem(
            evaluate,
            theta,
            rows,
            first,
            _groups(inputs, block or fits),
            checked,
            _groups([inputs[i] for i in checked.tolist()], together),
            # What inference mode hides may be flat at the first input, and not at another.
            ()
            if first.runs_inference is False
            else ((x, first_function(model, evaluate, theta, x)) for x in inputs[1:]),
        )
        keep = 2 * rows * parameters * value.element_size() <= budget // 2
        with full_precision(), torch.no_grad():
            try:
                return TangentKernel(*solve_assembled(problem, keep, k, shape, seed), "assembled")
            except (RuntimeError, NotImplementedError) as error:
                logger.warning("%s; the tangent kernel is not assembled", first_line(error))
    blocks = _equal_groups(inputs, block or len(inputs))
    return _solve_by_products(model, blocks, list(theta), k, shape, tol, seed, memory)


def _value(model: nn.Module, x: Any) -> Tensor:
    value: Tensor = model(**x) if isinstance(x, Mapping) else model(x)
    return value


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
        kind: DerivativeMethod = "auto" if len(blocks) == 1 else "transforms"
        return _operator(model, blocks[index], names, kind)

    J = at(0) if len(blocks) == 1 else StreamedStack(at, len(blocks))
    result = svds(J, min(k, *J.shape), tol=tol, seed=seed, memory=memory)
    s = result.s.double().cpu()
    U = result.U
    if U is None:
        raise TypeError("the solve kept no vectors")
    W = _complement(U.double(), k - len(s), seed)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(s), generator=generator, dtype=torch.float64)
    weights /= torch.linalg.vector_norm(weights)
    scale = float(s[0]) or 1.0  # so that the dtype holds the products
    both = torch.stack([weights, weights * (s / scale) ** 2], dim=1).to(U.device)
    combined, expected = (U.double() @ both).mT
    vectors = torch.cat([W, combined[:, None]], dim=1).to(U.dtype)
    products = J.matmat(J.rmatmat(vectors) / scale).double() / scale
    residuals = [
        2 * s[0] * result.residuals.double().cpu(),  # J(J'u − s v) + s (J v − s u)
        torch.linalg.vector_norm(products[:, :-1], dim=0).cpu() * scale**2,
    ]
    return TangentKernel(
        torch.cat([s**2, s.new_zeros(k - len(s))]),
        torch.cat([U.double(), W], dim=1).cpu().reshape(*shape, k),
        torch.cat(residuals),
        result.certificate.fro2,
        float(torch.linalg.vector_norm(expected - products[:, -1])),
        result.method,
    )


def _complement(U: Tensor, count: int, seed: int) -> Tensor:
    """Return orthonormal vectors that are orthogonal to those of U: eigenvectors of the value 0.

    There are some where the parameters are fewer than the eigenpairs that are asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(len(U), count, generator=generator, dtype=U.dtype).to(U.device)
    for _ in range(2 if count else 0):
        W = torch.linalg.qr(W - U @ (U.mT @ W)).Q
    return W


def _operator(model: nn.Module, x: Any, names: list[str], kind: DerivativeMethod) -> LinearOperator:
    """Return the Jacobian of a block by the parameters, checked as every operator is."""
    if not isinstance(x, Mapping):
        return JacobianOperator.wrt_parameters(model, x, names=names, derivatives=kind)
    first, rest = as_arguments(x)
    return JacobianOperator.wrt_parameters(model, first, names=names, kwargs=rest, derivatives=kind)


def _equal_groups(inputs: list[Any], size: int) -> list[Any]:
    """Return the inputs in groups of equal size, at most this one."""
    count = math.ceil(len(inputs) / size)
    while len(inputs) % count:
        count += 1
    return _groups(inputs, len(inputs) // count)


def _refuse_other_entries(x: Any, index: int) -> None:
    """Refuse a dict with an entry that cannot be joined with those of other inputs."""
    for name, part in x.items() if isinstance(x, Mapping) else ():
        if not isinstance(part, Tensor):
            raise ArgumentError(
                f"'{name}' of input {index} is {shown(part)}; ntk joins tensors, so let the model "
                "set it"
            )


def _groups(inputs: list[Any], size: int) -> list[Any]:
    """Return the inputs in groups of at most this size."""
    groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return [_concatenate(group) for group in groups]


def _concatenate(group: list[Any]) -> Any:
    first = group[0]
    if isinstance(first, Mapping):
        return {
            name: torch.cat([one[name] for one in group]) if isinstance(part, Tensor) else part
            for name, part in first.items()
        }
    return torch.cat(group)
