"""Bases that hardly fit into memory: a result with honest evidence, or a one-line error."""

import itertools

import numpy as np
import torch
from support.svd_problems import assert_truthful, planned, with_values
from support.thinned import thinned

from jvpsvd import svds
from jvpsvd.errors import ArgumentError

REPEATED = (24, 18)
SHAPES = ((33, 56), REPEATED)


def test_left_vectors_that_are_needed_after_all_and_hardly_fit():
    """For values alone 27 columns fit. With U, which rounding makes necessary, 14 fit, and k is
    13."""
    A = np.random.default_rng(64).standard_normal((33, 56))
    result = svds(
        A,
        13,
        method="golub-kahan",
        tol=1e-9,
        memory=82640,
        seed=64,
        vectors=False,
        on_unconverged="ignore",
    )
    assert_truthful(result, torch.linalg.svdvals(torch.from_numpy(A)), A.shape, rounding_factor=100)
    assert result.s.shape == (13,)


def least_memory(shape, k, **options):
    """Return the fewest bytes that a plan takes for Golub–Kahan."""
    low, high = 1, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        try:
            planned(shape, 8, k, method="golub-kahan", memory=middle, **options)
            high = middle
        except ArgumentError:
            low = middle
    return high


FLAGS = (False, True)


@thinned("block_size, vectors, warm, batch", [None, 1, 2, 5], FLAGS, FLAGS, [1, 2], keep=2)
def test_from_the_least_memory_on(block_size, vectors, warm, batch):
    """The solve returns right values or refuses, and never returns a spurious value."""
    rng = np.random.default_rng(0)
    for shape, k in itertools.product(SHAPES, (4, 13)):
        matrices = torch.from_numpy(rng.standard_normal((batch, *shape)))
        if shape == REPEATED:
            values = torch.arange(min(shape)).div(6, rounding_mode="floor").double() + 1
            matrices = torch.stack([with_values(values.flip(0), *shape)] * batch)
        A = matrices if batch > 1 else matrices[0]
        start = svds(A, k, method="exact") if warm else None
        options = {"block_size": block_size, "vectors": vectors}
        least = least_memory(shape, k, batch=batch if batch > 1 else None, tol=1e-6, **options)
        for memory in (least, int(1.1 * least)):
            try:
                result = svds(
                    A,
                    k,
                    method="golub-kahan",
                    tol=1e-6,
                    memory=memory,
                    start=start,
                    on_unconverged="ignore",
                    **options,
                )
            except ArgumentError as error:
                if "raise memory" not in str(error):
                    raise
                continue
            for i, matrix in enumerate(matrices):
                one = result.of(i) if batch > 1 else result
                truth = torch.linalg.svdvals(matrix)
                assert_truthful(one, truth, shape, rounding_factor=100)


def test_a_basis_of_one_column_guarantees_nothing():
    """A random column that happens to lie near the second vector has a small residual."""
    A = with_values(torch.tensor([6.0, 2.0], dtype=torch.float64).sqrt(), 4, 2).float()
    batch = torch.stack([torch.zeros(4, 2), A, A])
    options = {"method": "golub-kahan", "memory": 3584, "vectors": False}
    misses = 0
    for seed in range(240, 300):
        found = svds(batch, 1, tol=0.05, seed=seed, on_unconverged="ignore", **options)
        small = found.residuals <= 0.05 * found.s
        misses += int((small & (found.s < 1.5))[1:].sum())
        assert (found.s[1:][found.converged[1:]] > 2.4).all()
    assert misses  # or the test would show nothing
