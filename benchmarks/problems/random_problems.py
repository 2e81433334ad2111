"""Random problems that SVD solvers get wrong; each follows from its seed alone.

Matrices are small, so that LAPACK finds the truth in float64. A seed draws all that a caller can
vary: spectrum, shape, scale, dtype, k, tolerance, method, block size, memory, start, batch,
vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from jvpsvd import svds
from jvpsvd.errors import JvpsvdError, JvpsvdWarning
from jvpsvd.svd import ProblemSize, check_request, plan

_METHODS = ("golub-kahan",) * 5 + ("auto", "exact", "randomized", "energy", "tail")
_STARTS = ("none",) * 6 + ("loose", "exact", "other", "random", "repeated", "zero", "part")


@dataclass(frozen=True)
class RandomProblem:
    """A matrix, or a batch of them, and how svds is called for it."""

    seed: int
    spectrum: str
    start: str
    method: str
    """`options["method"]`, or "energy" or "tail" for the two searches for a rank."""
    matrix: Tensor
    """(m, n) or (B, m, n), in the dtype that it is solved in."""
    given: Any
    """The form in which svds gets the matrix: a tensor, an array, or a sparse matrix."""
    options: dict[str, Any]

    @property
    def about(self) -> str:
        """The problem in one line."""
        shape = " x ".join(map(str, self.matrix.shape))
        options = ", ".join(f"{k}={v!r}" for k, v in self.options.items() if k != "start")
        return f"{self.spectrum} {shape} {self.matrix.dtype}, start {self.start}, {options}"


def draw_problem(seed: int) -> RandomProblem:
    """Return the problem that belongs to a seed.

    >>> draw_problem(7).about == draw_problem(7).about
    True
    """
    rng = np.random.default_rng(seed)
    m, n = _shape(rng)
    p = min(m, n)
    dtype = torch.float64 if rng.random() < 0.5 else torch.float32
    batch = int(rng.integers(2, 5)) if rng.random() < 0.2 else 0
    names = [str(rng.choice(list(SPECTRA))) for _ in range(batch or 1)]
    matrices = [_matrix(rng, name, m, n) for name in names]
    matrix = torch.from_numpy(np.stack(matrices) if batch else matrices[0])
    matrix = (matrix * _scale(rng, dtype)).to(dtype)
    k = int(rng.integers(1, p + 1)) if rng.random() < 0.7 else int(rng.choice([1, p]))
    method = str(rng.choice(_METHODS))
    options: dict[str, Any] = {
        "k": k,
        "tol": float(10 ** rng.uniform(-12, -1)),
        "method": "randomized" if method in ("energy", "tail") else method,
        "seed": int(rng.integers(0, 1 << 31)),
        "vectors": bool(rng.random() < 0.6),
    }
    if method in ("energy", "tail"):
        options[method] = float(rng.choice([rng.uniform(0.01, 0.9999), 10 ** rng.uniform(-9, -1)]))
    if rng.random() < 0.5:
        width = int(rng.integers(1, p + 4)) if rng.random() < 0.5 else 1
        if options["method"] != "randomized":  # its blocks follow from k
            options["block_size"] = width
    if rng.random() < 0.4:
        options["memory"] = little_memory(rng, (m, n), dtype, options, max(1, batch))
    start = str(rng.choice(_STARTS)) if method == "golub-kahan" else "none"
    if start != "none":
        options["start"] = _start(rng, start, matrix, k)
    return RandomProblem(
        seed, "+".join(names), start, method, matrix, _as_given(rng, matrix, batch), options
    )


def _shape(rng: np.random.Generator) -> tuple[int, int]:
    kind = rng.choice(["tiny", "tall", "wide", "square", "any", "any", "large"])
    few, many = int(rng.integers(1, 12)), int(rng.integers(1, 120))
    if kind == "tiny":
        return int(rng.integers(1, 6)), int(rng.integers(1, 6))
    if kind == "tall":
        return many, few
    if kind == "wide":
        return few, many
    if kind == "square":
        side = int(rng.integers(1, 60))
        return side, side
    if kind == "large":
        return int(rng.integers(80, 180)), int(rng.integers(80, 180))
    return int(rng.integers(1, 70)), int(rng.integers(1, 70))


def _scale(rng: np.random.Generator, dtype: torch.dtype) -> float:
    if rng.random() < 0.7:
        return 1.0
    power = 36 if dtype == torch.float32 else 150
    return float(10.0 ** (rng.uniform(-power, power) if rng.random() < 0.5 else rng.uniform(-9, 9)))


def _falling(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    return np.sort(rng.random(p))[::-1]


def _clusters(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    centres = np.sort(rng.random(max(1, p // 6)))[::-1]
    values = rng.choice(centres, p) * (1 + 10 ** rng.uniform(-16, -4) * rng.standard_normal(p))
    return np.sort(np.abs(values))[::-1]


def _low_rank(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    return np.where(np.arange(p) < rng.integers(0, p + 1), _falling(rng, p), 0.0)


def _repeated(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    return np.sort(rng.choice(rng.random(max(1, int(rng.integers(1, 4)))), p))[::-1]


def _spiked(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    values = _falling(rng, p)
    values[0] = 10 ** rng.uniform(1, 9)
    return values


def _cliff(rng: np.random.Generator, p: int) -> np.ndarray[Any, Any]:
    return np.where(np.arange(p) < rng.integers(0, p + 1), 1.0, 10 ** rng.uniform(-14, -1))


def _index(p: int) -> np.ndarray[Any, Any]:
    return np.arange(1, p + 1, dtype=float)


_Values = Callable[[np.random.Generator, int], np.ndarray[Any, Any]]
SPECTRA: dict[str, _Values | None] = {
    "flat": lambda rng, p: np.ones(p),
    "repeated": _repeated,
    "clusters": _clusters,
    "power": lambda rng, p: _index(p) ** -rng.uniform(0.1, 4),
    "exponential": lambda rng, p: np.exp(-(_index(p) - 1) * rng.uniform(0.01, 3)),
    "low rank": _low_rank,
    "zero": lambda rng, p: np.zeros(p),
    "spike": _spiked,
    "cliff": _cliff,
    "uniform": _falling,
    "slope": lambda rng, p: np.linspace(1, rng.random(), p),
    # Not made from singular values:
    "normal": None,
    "integers": None,
    "diagonal": None,
    "copies of rows": None,
    "nilpotent": None,
    "graded": None,
    "signs": None,
}


def _matrix(rng: np.random.Generator, name: str, m: int, n: int) -> np.ndarray[Any, Any]:
    values = SPECTRA[name]
    p = min(m, n)
    if values is not None:
        left = np.linalg.qr(rng.standard_normal((m, p)))[0]
        right = np.linalg.qr(rng.standard_normal((n, p)))[0]
        made: np.ndarray[Any, Any] = (left * values(rng, p)) @ right.T
        return made
    dense = rng.standard_normal((m, n))
    if name == "integers":
        return rng.integers(-2, 3, (m, n)).astype(float)
    if name == "diagonal":
        return np.eye(m, n) * rng.choice([0.0, 1.0, 1e-3, 2.0], (m, n))
    if name == "copies of rows":
        return dense[rng.integers(0, max(1, m // 3), m)]
    if name == "nilpotent":
        return np.eye(m, n, 1)
    if name == "graded":
        return dense * 10 ** -np.linspace(0, rng.uniform(0, 20), n)
    if name == "signs":
        return np.sign(dense)
    return dense


def little_memory(
    rng: np.random.Generator,
    shape: tuple[int, int],
    dtype: torch.dtype,
    options: dict[str, Any],
    batch: int,
) -> int:
    """Return the least memory that a plan accepts, or up to three times as much."""
    method = options["method"]
    said = {
        "method": "golub-kahan" if method == "auto" else method,
        "vectors": options["vectors"],
        "block_size": options.get("block_size"),
        "tol": options["tol"],
    }
    size = ProblemSize(shape, dtype, batch=batch)
    low, high = 1, 1 << 34
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        try:
            plan(size, check_request(size, options["k"], memory=middle, **said))
            high = middle
        except JvpsvdError:
            low = middle
    return int(high * (1 + rng.choice([0.0, 0.02, 0.1, 2 * rng.random()])))


def _start(rng: np.random.Generator, kind: str, matrix: Tensor, k: int) -> Any:
    m, n = matrix.shape[-2:]
    short = (*matrix.shape[:-2], min(m, n))
    few = int(rng.integers(1, k + 3))
    vectors = torch.from_numpy(rng.standard_normal((*short, few))).to(matrix.dtype)
    if kind == "zero":
        return torch.zeros_like(vectors)
    if kind == "repeated":
        return vectors[..., :1].expand(*short, few).contiguous()
    if kind == "random":
        return vectors
    other = matrix
    if kind == "other":
        spread = float(matrix.abs().max()) * 10 ** rng.uniform(-6, 0)
        other = matrix + spread * torch.from_numpy(rng.standard_normal(matrix.shape)).to(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JvpsvdWarning)
        count = max(1, k // 2) if kind == "part" else k
        method = "golub-kahan" if kind == "loose" else "exact"
        try:
            return svds(other, count, tol=1e-2, method=method, on_unconverged="ignore")
        except JvpsvdError:  # its scale is refused, as that of the problem will be
            return vectors


def _as_given(rng: np.random.Generator, matrix: Tensor, batch: int) -> Any:
    kind = rng.choice(["tensor", "array", "sparse", "columns"])
    if kind == "array":
        return matrix.numpy()
    if kind == "sparse" and not batch:
        return scipy.sparse.csr_array(matrix.numpy())
    if kind == "columns":
        return matrix.mT.contiguous().mT
    return matrix
