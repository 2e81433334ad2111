"""Ten sparse matrices of different structure, float64, as people give them to SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

Build = Callable[[int], sp.csr_array]
"""Takes a scale, 1 for full size and more for smaller ones."""


def _scattered(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    values = np.random.default_rng(1).standard_normal(len(rows))
    matrix = sp.csr_array((values, (rows, columns)), shape)
    matrix.sum_duplicates()
    return matrix


def _uniform(scale: int) -> sp.csr_array:
    """Entries anywhere: a flat spectrum."""
    generator, count, shape = np.random.default_rng(0), 1_400_000 // scale, (20_000, 70_000)
    m, n = (size // scale for size in shape)
    return _scattered(generator.integers(0, m, count), generator.integers(0, n, count), (m, n))


def _documents(scale: int) -> sp.csr_array:
    """Counts of words in documents: few words make most of it."""
    generator, count, m, n = np.random.default_rng(0), 800_000 // scale, 20_000, 30_000
    words = np.minimum(generator.zipf(1.3, count), n // scale) - 1
    ones = np.ones(count)
    documents = generator.integers(0, m // scale, count)
    return sp.csr_array((ones, (documents, words)), (m // scale, n // scale))


def _ratings(scale: int) -> sp.csr_array:
    """Ratings of low rank with noise, seen at few places."""
    generator, count = np.random.default_rng(0), 500_000 // scale
    m, n = 10_000 // scale, 3_000 // scale
    users, films = generator.integers(0, m, count), generator.integers(0, n, count)
    left, right = generator.standard_normal((m, 8)), generator.standard_normal((n, 8))
    seen = (left[users] * right[films]).sum(1) + 0.3 * generator.standard_normal(count)
    return sp.csr_array((seen, (users, films)), (m, n))


def _laplacian(scale: int) -> sp.csr_array:
    """The five-point Laplacian of a square: leading values close together."""
    side = max(10, 200 // scale)
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    one = sp.eye_array(side)
    return sp.csr_array(sp.kron(line, one) + sp.kron(one, line))


def _incidence(scale: int) -> sp.csr_array:
    """The differences along the edges of a grid."""
    side = max(10, 150 // scale)
    step = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(side - 1, side))
    one = sp.eye_array(side)
    return sp.csr_array(sp.vstack([sp.kron(step, one), sp.kron(one, step)]))


def _graph(scale: int) -> sp.csr_array:
    """A graph whose degrees follow a power law."""
    generator, n, count = np.random.default_rng(0), 50_000 // scale, 400_000 // scale
    ends = (n * generator.random((2, count)) ** 3).astype(int)
    ones = np.ones(count)
    graph = sp.csr_array((ones, (ends[0], ends[1])), (n, n))
    return sp.csr_array(graph + graph.T)


def _banded(scale: int) -> sp.csr_array:
    """Random bands."""
    generator, n = np.random.default_rng(0), 100_000 // scale
    bands = [generator.standard_normal(n) for _ in range(11)]
    return sp.csr_array(sp.diags_array(bands, offsets=range(-5, 6), shape=(n, n)))


def _blocks(scale: int) -> sp.csr_array:
    """Dense blocks of 20 x 30 along the diagonal."""
    generator = np.random.default_rng(0)
    blocks = [generator.standard_normal((20, 30)) for _ in range(1000 // scale)]
    return sp.csr_array(sp.block_diag(blocks))


def _blur(scale: int) -> sp.csr_array:
    """A blur of a line: values decay fast."""
    n, width = 50_000 // scale, 20
    offsets = range(-width, width + 1)
    weights = [np.full(n, np.exp(-((i / 8) ** 2))) for i in offsets]
    taper = sp.diags_array(1 / np.arange(1, n + 1) ** 0.5)
    return sp.csr_array(sp.diags_array(weights, offsets=offsets, shape=(n, n)) @ taper)


def _graded(scale: int) -> sp.csr_array:
    """Rows that become smaller and smaller: a steep spectrum."""
    matrix = _uniform(4 * scale)
    return sp.csr_array(sp.diags_array(0.999 ** np.arange(matrix.shape[0])) @ matrix)


MATRICES: dict[str, Build] = {
    "uniform": _uniform,
    "documents": _documents,
    "ratings": _ratings,
    "Laplacian": _laplacian,
    "incidence": _incidence,
    "graph": _graph,
    "banded": _banded,
    "blocks": _blocks,
    "blur": _blur,
    "graded rows": _graded,
}
