import re
import warnings

import pytest
import torch
from support.svd_problems import Diagonal, assert_truthful, line, memory_for, spectrum, with_values

from jvpsvd import LinearOperator, svds
from jvpsvd.errors import ConvergenceError, ConvergenceWarning, PrecisionWarning

N, K = 400, 20
TRUTH = line(1, 0, N)


def solve(**options):
    """Ask float32 for residuals that its rounding does not allow."""
    return svds(Diagonal(TRUTH.float()), K, tol=1e-9, method="golub-kahan", **options)


class Recorded(LinearOperator):
    """A matrix that records its products in a list, together with other events."""

    def __init__(self, matrix, events):
        super().__init__(tuple(matrix.shape), matrix.dtype)
        self.matrix, self.events = matrix, events

    def _matmat(self, V):
        self.events.append("product")
        return self.matrix @ V

    def _rmatmat(self, U):
        self.events.append("product")
        return self.matrix.T @ U


@pytest.mark.parametrize(
    ("dtype", "tol", "reached"),
    [
        (torch.float32, 1e-7, "ask for 1e-06 or use float64$"),
        (torch.float32, 1e-12, "ask for 1e-06 or use float64$"),
        (torch.float64, 1e-16, "ask for 1e-14$"),
    ],
)
@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
def test_a_tolerance_below_rounding_is_logged_once_and_before_any_product(
    method, dtype, tol, reached, monkeypatch
):
    events = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: events.append(message))
    A = torch.randn(60, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        svds(Recorded(A, events), 10, tol=tol, method=method)
    first, *rest = events
    assert isinstance(first, PrecisionWarning)
    assert not any(isinstance(event, PrecisionWarning) for event in rest)
    assert re.search(reached, str(first))


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", ["flat", "line", "low rank"])
def test_nothing_is_logged_of_a_tolerance_that_is_reached(name, dtype, tol):
    matrix = with_values(spectrum({"flat": "equal"}.get(name, name), 40), 60, 40).to(dtype)
    for method in ("golub-kahan", "exact"):
        assert svds(matrix, 8, tol=tol, method=method).converged.all()


def test_in_float64_it_is_not_told_to_use_float64():
    with (
        pytest.warns(PrecisionWarning, match="ask for 1e-14$"),
        pytest.warns(ConvergenceWarning, match="raise tol or memory$"),
    ):
        svds(with_values(TRUTH, N, N), 3, tol=1e-30)


def test_it_warns_by_default_with_the_count_and_the_remedy():
    with (
        pytest.warns(PrecisionWarning, match="below the rounding of float32"),
        pytest.warns(ConvergenceWarning, match=r"of 20 triplets missed tol=1e-09.*float64"),
    ):
        solve()


def test_it_raises_where_on_unconverged_says_so():
    with (
        pytest.warns(PrecisionWarning),
        pytest.raises(ConvergenceError, match="missed tol=1e-09"),
    ):
        solve(on_unconverged="raise")


def test_it_is_silent_where_on_unconverged_says_so_and_marks_what_missed():
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
