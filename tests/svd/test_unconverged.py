import warnings

import pytest
import torch
from svd_problems import Diagonal, assert_truthful, line, memory_for

from jvpsvd import svds
from jvpsvd.errors import ConvergenceError, ConvergenceWarning

N, K = 400, 20
TRUTH = line(1, 0, N)


def solve(**options):
    """Ask float32 for residuals that its rounding does not allow."""
    return svds(Diagonal(TRUTH.float()), K, tol=1e-9, method="golub-kahan", **options)


def test_it_warns_by_default_with_the_count_and_the_remedy():
    with pytest.warns(ConvergenceWarning, match=r"of 20 triplets missed tol=1e-09.*float64"):
        solve()


def test_it_raises_when_told_to():
    with pytest.raises(ConvergenceError, match="missed tol=1e-09"):
        solve(on_unconverged="raise")


def test_it_is_silent_when_told_to_and_marks_what_missed():
    result = solve(on_unconverged="ignore")
    assert not result.converged.all()
    assert torch.equal(result.converged, result.residuals <= 1e-9 * result.s[0])
    assert_truthful(result, TRUTH, (N, N))


@pytest.mark.parametrize("choice", ["warn", "raise", "ignore"])
def test_converged_results_pass_in_silence(choice):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = svds(Diagonal(TRUTH), K, method="golub-kahan", on_unconverged=choice)
    assert result.converged.all()


@pytest.mark.parametrize("columns", [60, 100, 150, 250, 400])
def test_whatever_the_memory_restarts_end_at_the_same_values(columns):
    memory = memory_for(columns, (N, N), K, 8)
    result = svds(
        Diagonal(TRUTH), K, tol=1e-6, method="golub-kahan", memory=memory, on_unconverged="ignore"
    )
    assert result.plan.max_size <= columns  # fewer where growing must hold old and new
    assert result.converged.all()
    assert_truthful(result, TRUTH, (N, N))


def test_zero_operators_can_miss_nothing():
    assert svds(torch.zeros(5, 5), 5, on_unconverged="raise").converged.all()
