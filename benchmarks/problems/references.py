"""The values that answers are judged by, where they are not known beforehand.

Small matrices: all entries in float64, and LAPACK. Large ones: `jvpsvd.svds` of the float64
operator to 1e-9 s₁, accepted only if its certificate is sound and complete. The second kind is
ours; so a solver that finds a *larger* value, with a true residual and orthonormality as small as
required, refutes it, and the peers part says so ("refuted_by"). References are kept in
$JVPSVD_CACHE/references-EDITION, by problem and k.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.problems.catalogue import Problem
from benchmarks.problems.networks import cache_folder
from benchmarks.problems.problem import Subject
from jvpsvd import svds

_DENSE_ENTRIES = 1 << 24
_TOL = 1e-9
_EDITION = 2  # of the problems: to be raised when the matrix behind a name changes

Kind = Literal["exact", "dense", "certified", "self"]
""""self": what our own float32 solve found, where nothing better could be had in time."""


class UncertifiedError(Exception):
    """No reference that could be trusted was found."""


@dataclass(frozen=True)
class Reference:
    """True values of a problem."""

    values: Tensor
    """(k,) or (B, k), descending, float64."""
    kind: Kind


def reference(problem: Problem, subject: Subject, k: int) -> Reference:
    """Return the true values, from what is known or kept, or computed now.

    Raises:
        UncertifiedError: If the values could not be certified.
    """
    if problem.values is not None:
        return Reference(problem.values(k), "exact")
    file = _kept(problem, k)
    if file.is_file():
        stored = json.loads(file.read_text())
        return Reference(torch.tensor(stored["values"], dtype=torch.float64), stored["kind"])
    found = _computed(subject, k)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"kind": found.kind, "values": found.values.tolist()}) + "\n")
    return found


def _computed(subject: Subject, k: int) -> Reference:
    wide = subject.double()
    if len(subject.shape) == 3:
        found = [_computed(subject.of(i), k) for i in range(subject.shape[0])]
        return Reference(torch.stack([one.values for one in found]), found[0].kind)
    m, n = wide.shape
    if m * n <= _DENSE_ENTRIES:
        return Reference(torch.linalg.svdvals(wide.dense())[:k].clone(), "dense")
    result = svds(wide.operator(), k, tol=_TOL, on_unconverged="ignore", vectors=False)
    if not (bool(result.converged.all()) and result.certificate.complete):
        raise UncertifiedError(f"not certified: {result}")
    return Reference(result.s, "certified")


def _kept(problem: Problem, k: int) -> Path:
    name = problem.name.replace("/", "-").replace("^", "")
    return cache_folder() / f"references-{_EDITION}" / f"{name}-k{k}-torch{torch.__version__}.json"
