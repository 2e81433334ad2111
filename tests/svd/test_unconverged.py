import warnings

import pytest
import torch
from svd_problems import Diagonal, assert_truthful, line

from jvpsvd import svds
from jvpsvd.errors import ConvergenceError, ConvergenceWarning

N, K = 400, 20
TRUTH = line(1, 0, N)
# Room for 60 columns of the bases and their products, where the spectrum needs about 200.
MEMORY = (2 * N * K + 60 * 4 * N) * 8


def solve(**options):
    return svds(Diagonal(TRUTH), K, tol=1e-6, method="golub-kahan", memory=MEMORY, **options)


def test_it_warns_by_default_with_the_count_and_the_remedy():
    with pytest.warns(ConvergenceWarning, match=r"of 20 triplets missed tol=1e-06.*memory"):
        solve()


def test_it_raises_when_told_to():
    with pytest.raises(ConvergenceError, match="missed tol=1e-06"):
        solve(on_unconverged="raise")


def test_it_is_silent_when_told_to_and_marks_what_missed():
    result = solve(on_unconverged="ignore")
    assert not result.converged.all()
    assert not result.certificate.complete
    assert torch.equal(result.converged, result.residuals <= 1e-6 * result.s[0])
    assert_truthful(result, TRUTH, (N, N))


@pytest.mark.parametrize("choice", ["warn", "raise", "ignore"])
def test_converged_results_pass_in_silence(choice):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = svds(Diagonal(TRUTH), K, method="golub-kahan", on_unconverged=choice)
    assert result.converged.all()


@pytest.mark.parametrize("columns", [60, 100, 150, 250, 400])
def test_whatever_the_memory_nothing_converged_is_wrong(columns):
    memory = (2 * N * K + columns * 4 * N) * 8
    result = svds(
        Diagonal(TRUTH), K, tol=1e-6, method="golub-kahan", memory=memory, on_unconverged="ignore"
    )
    assert result.plan.max_size == columns
    assert_truthful(result, TRUTH, (N, N))


def test_zero_operators_can_miss_nothing():
    assert svds(torch.zeros(5, 5), 5, on_unconverged="raise").converged.all()
