"""Bases of hardly more than k columns restart too soon to show that a value is missing."""

import numpy as np
import pytest
import torch
from support.svd_problems import solved_by, with_values

from jvpsvd import MatrixOperator
from jvpsvd.svd.methods.golub_kahan import GolubKahan

TOL = 0.0043


@pytest.fixture(scope="module")
def dense_spectrum():
    """162 x 104 signs: the largest values lie within a few tolerances of each other."""
    rng = np.random.default_rng(117906)
    return torch.from_numpy(np.sign(rng.standard_normal((162, 104))))


def solve(matrix, extra, seed, k=1, block_size=1):
    solver = GolubKahan(block_size=block_size, widest_block=block_size, max_size=k + extra)
    triplets = solved_by(solver, MatrixOperator(matrix), k, TOL, seed=seed)
    (evidence,) = triplets.evidence
    missed = torch.linalg.svdvals(matrix)[:k] - triplets.s
    return triplets, evidence, float(missed.max() / triplets.s[0])


@pytest.mark.parametrize("extra", [5, 6, 11])
def test_nothing_is_claimed_of_them(extra, dense_spectrum):
    for seed in range(10):
        triplets, evidence, _ = solve(dense_spectrum, extra, seed)
        if float(triplets.residuals.max()) <= TOL * float(triplets.s[0]):
            assert evidence.evidence == f"none: bases of {1 + extra} columns restart too soon"
        assert not evidence.complete
        assert evidence.guaranteed == 0


@pytest.mark.parametrize("more_columns", [16, 20, 23])
def test_nothing_is_claimed_of_fewer_than_three_blocks(more_columns, dense_spectrum):
    _, evidence, _ = solve(dense_spectrum, more_columns, 0, block_size=8)
    assert not evidence.complete
    assert evidence.guaranteed == 0


@pytest.mark.parametrize(
    ("k", "block_size", "more_columns"), [(1, 1, 16), (1, 4, 16), (3, 4, 16), (1, 8, 24)]
)
def test_sixteen_columns_and_three_blocks_are_enough(k, block_size, more_columns, dense_spectrum):
    for seed in range(5):
        _, evidence, missed = solve(dense_spectrum, more_columns, seed, k, block_size)
        assert missed <= 0.3 * TOL or not evidence.complete
        assert evidence.complete or "given up" in evidence.evidence


def test_small_bases_that_span_the_space_are_complete(dense_spectrum):
    small = dense_spectrum[:8, :6]
    _, evidence, missed = solve(small, 5, 0)
    assert evidence.complete
    assert missed < 1e-12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "block_size"), [(30, 16), (30, 8), (45, 4)])
def test_bases_of_the_whole_space_show_every_value_although_they_restart(k, block_size, seed):
    """Fifty values of 1 to 1e-11: the last products are rounding, and the bases restart."""
    truth = torch.logspace(0, -11, 50, dtype=torch.float64)
    matrix = with_values(truth, 60, 50)
    solver = GolubKahan(block_size=block_size, widest_block=block_size)
    triplets = solved_by(solver, MatrixOperator(matrix), k, 1e-9, seed=seed)
    (evidence,) = triplets.evidence
    assert evidence.complete, evidence.evidence
    assert float((triplets.s - truth[:k]).abs().max()) <= 1e-9
