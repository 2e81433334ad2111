"""What `reach` asks of one architecture, in a process of its own."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from benchmarks.measure.children import serve
from benchmarks.problems.architectures import ARCHITECTURES
from benchmarks.problems.language_architectures import Problem
from jvpsvd import JacobianOperator, layer_map
from jvpsvd.errors import JvpsvdError

ROWS, COLUMNS = 24, 4
_RIGHT = 1e-4


def main() -> None:
    options, reply = serve()
    for name in options["names"]:
        reply.write(describe(name, times=options["times"]))


def describe(name: str, *, times: bool) -> dict[str, Any]:
    """Return what becomes of an architecture."""
    began = time.perf_counter()
    row: dict[str, Any] = {"name": name, "kind": ARCHITECTURES[name].kind}
    torch.manual_seed(0)
    try:
        problem = ARCHITECTURES[name].make()
    except Exception as error:
        return row | {"outcome": "not made", "reason": _brief(error)}
    row |= {"from": problem.since or "input", "to": problem.to}
    with _collected() as said:
        try:
            row |= _examine(problem, times)
        except Exception as error:
            kind = "refused" if isinstance(error, JvpsvdError) else "error"
            row |= {"outcome": kind, "reason": _brief(error)}
    return row | {"said": said, "seconds": round(time.perf_counter() - began, 1)}


def _examine(problem: Problem, times: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dtype, label in ((torch.float32, "float32"), (torch.float64, "float64")):
        try:
            found |= _examine_in(problem, dtype, label, times)
        except Exception as error:
            if label == "float32":
                raise
            found["reason_float64"] = _brief(error)  # it computes in float32 itself, say
    return found


def _examine_in(problem: Problem, dtype: torch.dtype, label: str, times: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model = copy.deepcopy(problem.model).to(dtype)
    x = tree_map(lambda leaf: _converted(leaf, dtype), problem.x)
    f, z = layer_map(model, x, to=problem.to, since=problem.since)
    how, reason, J = _make(f, z)
    if label == "float32":
        found |= {"rows": J.shape[0], "columns": J.shape[1], "outcome": how, "reason": reason}
        if times:
            found |= _compare_times(f, z, J)
    found[f"error_{label}"] = _compare(problem, J)
    found[f"how_{label}"] = how
    return found


def _make(f: Callable[..., Tensor], z: Tensor) -> tuple[str, str, JacobianOperator]:
    """Return how a derivative is taken, why not by a recording, and the operator."""
    try:
        return "recorded", "", JacobianOperator(f, z, derivatives="trace")
    except JvpsvdError as error:
        reason = _brief(error)
    with _collected() as said:
        J = JacobianOperator(f, z, derivatives="transforms")
    slow = any("reverse passes" in line for line in said)
    return ("reverse passes" if slow else "transforms"), reason, J


def _compare(problem: Problem, J: JacobianOperator) -> float:
    """Return the largest relative difference of products and a dense Jacobian's rows in float64."""
    rows = torch.randperm(J.shape[0])[:ROWS]
    found = _difference(_dense_rows(problem, torch.float64, rows), rows, J)
    if found < _RIGHT:
        return found
    # torch 2.13 and 2.14 have a wrong reverse pass of batch normalisation where a gradient of odd
    # strides reaches it, as in XCiT; differences of the function show that.
    with PlainBatchNorm():
        return min(found, _difference(_dense_rows(problem, torch.float64, rows), rows, J))


def _difference(dense: Tensor, rows: Tensor, J: JacobianOperator) -> float:
    units = torch.zeros(J.shape[0], len(rows), dtype=J.dtype)
    units[rows, torch.arange(len(rows))] = 1
    V = torch.randn(J.shape[1], COLUMNS, dtype=torch.float64)
    pairs = [((J.T @ units).T.double(), dense), ((J @ V.to(J.dtype))[rows].double(), dense @ V)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


class PlainBatchNorm(TorchFunctionMode):
    """Batch normalisation by sums and products, as it is in evaluation mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not batch_norm or kwargs["training"]:
            return func(*args, **kwargs)
        x, mean, variance = args
        scale = (variance + kwargs["eps"]).rsqrt()
        scale = scale if kwargs["weight"] is None else scale * kwargs["weight"]
        shift = -mean * scale if kwargs["bias"] is None else kwargs["bias"] - mean * scale
        shape = [1, -1, *(1 for _ in x.shape[2:])]
        return x * scale.reshape(shape) + shift.reshape(shape)


def _dense_rows(problem: Problem, dtype: torch.dtype, rows: Tensor) -> Tensor:
    """Return rows of the Jacobian by plain reverse passes, of a network in a dtype."""
    model = copy.deepcopy(problem.model).to(dtype)
    x = tree_map(lambda leaf: _converted(leaf, dtype), problem.x)
    f, z = layer_map(model, x, to=problem.to, since=problem.since)
    leaves = [z] if isinstance(z, Tensor) else list(_floating(z))
    points = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    of = iter(points)
    given = points[0] if isinstance(z, Tensor) else tree_map(
        lambda leaf: next(of) if _is_floating(leaf) else leaf, z
    )  # fmt: skip
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        y = f(given).flatten()
        found = []
        for row in rows:
            grads = torch.autograd.grad(
                y[row], points, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            found.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(found).double()


def _compare_times(f: Callable[..., Tensor], z: Tensor, J: JacobianOperator) -> dict[str, float]:
    """Return what 8 JVPs and 8 VJPs take, over the same by the transforms of torch.func."""
    other = JacobianOperator(f, z, derivatives="transforms")
    V, U = torch.randn(J.shape[1], 8), torch.randn(J.shape[0], 8)
    taken = {}
    for which, operand in (("jvp", V), ("vjp", U)):
        seconds = []
        for operator in (J, other):
            product = operator if which == "jvp" else operator.T
            _ = product @ operand
            best = float("inf")
            for _ in range(5):
                start = time.process_time()
                _ = product @ operand
                best = min(best, time.process_time() - start)
            seconds.append(best)
        taken[f"{which}_over_transforms"] = round(seconds[0] / seconds[1], 2)
    return taken


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _floating(tree: Any) -> Iterator[Tensor]:
    from torch.utils._pytree import tree_leaves

    return (leaf for leaf in tree_leaves(tree) if _is_floating(leaf))


def _converted(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if _is_floating(leaf) else leaf


@contextmanager
def _collected() -> Iterator[list[str]]:
    """Collect what is logged, warned and written to stderr, by Python or by C++."""
    said: list[str] = []
    logger, handler = logging.getLogger("jvpsvd"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.propagate = False
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            logger.removeHandler(handler)
            file.seek(0)
            lines = [str(one.message) for one in caught]
            lines += file.read().decode(errors="replace").splitlines()
            said += sorted({" ".join(line.split())[:300] for line in lines if line.strip()})


def _brief(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error))
    return f"{type(error).__name__}: {text[:400]}"


if __name__ == "__main__":
    main()
