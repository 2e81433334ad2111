"""A result has the seconds of each phase, and the residuals of each convergence check."""

import pytest
import torch
from support.svd_problems import Diagonal, line, with_values

from jvpsvd import MatrixOperator, svds

PHASES = {"products", "orthogonalisation", "projected problem", "vectors", "checks"}


@pytest.mark.parametrize(
    ("method", "without"),
    [
        ("golub-kahan", set()),
        ("exact", {"orthogonalisation", "projected problem"}),
        ("randomized", set()),
    ],
)
def test_phases_share_the_seconds(method, without):
    A = Diagonal(line(1, 0, 300))
    result = svds(A, 20, tol=1e-2, method=method, on_unconverged="ignore")
    phases = {phase for phase, seconds in result.seconds_by_phase.items() if seconds > 0}
    assert set(result.seconds_by_phase) == PHASES
    assert phases == PHASES - without
    assert sum(result.seconds_by_phase.values()) <= result.seconds


def test_the_history_ends_where_the_result_does():
    shown = []
    A = Diagonal(line(1, 0, 300))
    result = svds(A, 20, tol=1e-6, method="golub-kahan", progress=shown.append)
    assert list(result.history) == shown
    assert len(shown) > 2
    products = [progress.products.total for progress in shown]
    assert products == sorted(products)
    assert shown[-1].worst < 1e-6 < shown[0].worst
    assert shown[-1].converged == shown[-1].wanted == 20


@pytest.mark.parametrize(
    ("method", "block_size"), [("golub-kahan", 4), ("exact", 4), ("randomized", None)]
)
@pytest.mark.parametrize("shape", [(200, 60), (60, 200)])
def test_the_history_counts_the_products_of_this_solve_as_the_result_does(
    method, block_size, shape
):
    A = MatrixOperator(with_values(line(1, 0.1, 60), *shape))
    for _ in range(2):
        result = svds(A, 5, method=method, tol=1e-2, on_unconverged="ignore", block_size=block_size)
        last = result.history[-1].products
        assert 0 < last.forward + last.reverse <= result.products.total
        assert last.forward <= result.products.forward
        assert last.reverse <= result.products.reverse


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_methods_that_predict_no_residual_say_none(method):
    history = svds(Diagonal(line(1, 0, 300)), 5, method=method, on_unconverged="ignore").history
    assert {check.worst for check in history} == {None}
    assert [check.share for check in history] == sorted(check.share for check in history)


def test_without_progress_there_is_a_history_too():
    assert svds(torch.diag(line(1, 0.1, 30)), 3).history


def test_a_matrix_of_a_batch_keeps_the_history_of_the_batch():
    batch = svds(torch.diag(line(1, 0, 60)).expand(3, -1, -1), 4, method="golub-kahan")
    assert batch.of(1).history == batch.history
    assert batch.of(1).seconds_by_phase == batch.seconds_by_phase
