"""The true values that answers are judged by, where no formula gives them.

For small matrices, LAPACK finds them from all entries in float64. For large ones `jvpsvd.svds` of
the float64 operator finds them to 1e-9 s₁, and they are accepted only if the certificate is sound
and complete. Since these are our own, a solver that finds a *larger* value, with a true residual
and orthonormality as small as required, refutes them, and the peers part reports it
("refuted_by"). References are kept in $JVPSVD_CACHE/references-EDITION, by problem and k.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.problems.catalogue import NamedProblem
from benchmarks.problems.networks import find_cache_folder
from benchmarks.problems.problem import Problem
from jvpsvd import svds

_DENSE_ENTRIES = 1 << 24
_TOL = 1e-9
_EDITION = 2  # raise it when the matrix behind a name changes

Kind = Literal["exact", "dense", "certified", "self"]
""""self" stands for our own float32 solve, where time allowed nothing better."""


class UncertifiedError(Exception):
    """The values found have no certificate."""


@dataclass(frozen=True)
class Reference:
    """The true values of a problem."""

    values: Tensor
    """(k,) or (B, k), descending, float64."""
    kind: Kind


def find_reference(named: NamedProblem, problem: Problem, k: int) -> Reference:
    """Return the true values: known ones, kept ones, or those computed now.

    Raises:
        UncertifiedError: If the values could not be certified.
    """
    if named.values is not None:
        return Reference(named.values(k), "exact")
    file = _file_of(named, k)
    if file.is_file():
        stored = json.loads(file.read_text())
        return Reference(torch.tensor(stored["values"], dtype=torch.float64), stored["kind"])
    found = _compute(problem, k)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"kind": found.kind, "values": found.values.tolist()}) + "\n")
    return found


def _compute(problem: Problem, k: int) -> Reference:
    wide = problem.double()
    if len(problem.shape) == 3:
        found = [_compute(problem.of(i), k) for i in range(problem.shape[0])]
        return Reference(torch.stack([one.values for one in found]), found[0].kind)
    m, n = wide.shape
    if m * n <= _DENSE_ENTRIES:
        return Reference(torch.linalg.svdvals(wide.dense())[:k].clone(), "dense")
    result = svds(wide.operator(), k, tol=_TOL, on_unconverged="ignore", vectors=False)
    if not (bool(result.converged.all()) and result.certificate.complete):
        raise UncertifiedError(f"{result!r}: {result.certificate}")
    return Reference(result.s, "certified")


def _file_of(named: NamedProblem, k: int) -> Path:
    name = named.name.replace("/", "-").replace("^", "")
    return (
        find_cache_folder()
        / f"references-{_EDITION}"
        / f"{name}-k{k}-torch{torch.__version__}.json"
    )
