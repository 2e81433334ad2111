"""A caller may stop a solve: what was found is measured, and nothing more is claimed."""

import time

import numpy as np
import pytest
import torch
from support.svd_problems import Diagonal, assert_truthful, line, repeat

from jvpsvd import svds
from jvpsvd.errors import ConvergenceWarning

TRUTH = line(1, 0, 400)
STOPPED = "none: stopped by the caller"


class StopAfter:
    """Stops the solve at this check."""

    def __init__(self, checks):
        self.left, self.shown = checks, []

    def __call__(self, progress):
        self.shown.append(progress)
        self.left -= 1
        return self.left > 0


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("checks", [1, 2, 4])
def test_a_stopped_solve_returns_what_it_has(checks, vectors):
    stop = StopAfter(checks)
    whole = svds(Diagonal(TRUTH), 30, tol=1e-9, method="golub-kahan")
    result = svds(
        Diagonal(TRUTH),
        30,
        tol=1e-9,
        method="golub-kahan",
        vectors=vectors,
        progress=stop,
        on_unconverged="ignore",
    )
    assert result.products.total < whole.products.total
    assert not result.converged.all()
    assert not result.certificate.complete
    assert result.certificate.evidence == STOPPED
    assert_truthful(result, TRUTH, (400, 400))
    assert len(stop.shown) == len(result.history) == checks


@pytest.mark.parametrize("later", [1, 2, 3])
def test_matrices_of_a_batch_that_had_finished_stay_complete(later):
    easy, hard = torch.diag(torch.cat([line(9, 5, 5), repeat(0, 395)])), torch.diag(TRUTH)
    options = {"tol": 1e-9, "method": "golub-kahan", "on_unconverged": "ignore", "block_size": 4}
    whole = svds(torch.stack([easy, hard]), 5, **options)
    alone = svds(easy, 5, **options)
    result = svds(
        torch.stack([easy, hard]), 5, progress=StopAfter(len(alone.history) + later), **options
    )
    assert result.products.total < whole.products.total
    assert result.of(0).certificate.complete
    assert result.of(0).converged.all()
    assert result.of(1).certificate.evidence == STOPPED
    assert not result.of(1).converged.any()


@pytest.mark.parametrize("tol", [1e-2, 1e-3])
@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("checks", [1, 2, 3])
def test_a_start_that_lacks_the_leading_vector_makes_nothing_look_right(checks, block_size, tol):
    values = torch.cat([torch.tensor([1.3]), line(1, 0.2, 999)])
    without_first = torch.eye(1000, dtype=torch.float64)[:, 1:4]
    result = svds(
        Diagonal(values),
        2,
        tol=tol,
        method="golub-kahan",
        block_size=block_size,
        start=without_first,
        progress=StopAfter(checks),
        on_unconverged="ignore",
    )
    assert_truthful(result, values, (1000, 1000))
    assert not result.converged.any()


class SlowAlone(Diagonal):
    """Products with one vector, which only a search takes here, last 30 ms."""

    alone = 0

    def _matmat(self, V):
        if V.shape[-1] == 1:
            self.alone += 1
            time.sleep(0.03)
        return super()._matmat(V)


def test_a_search_for_copies_reports_and_can_be_stopped():
    """Pairs fill blocks of two, so that a search for third copies follows, 79 steps long."""
    angles = torch.arange(1, 41, dtype=torch.float64) * torch.pi / 41
    pairs = (4 - 2 * torch.cos(angles)[:, None] - 2 * torch.cos(angles)).flatten().sort().values
    A = SlowAlone(pairs.flip(0))
    products = []

    def stop(progress):
        products.append(progress.products.total)
        return not A.alone

    options = {"method": "golub-kahan", "block_size": 2, "on_unconverged": "ignore"}
    result = svds(A, 6, tol=1e-4, progress=stop, **options)
    assert 1 < A.alone <= 20
    assert products == sorted(set(products))
    assert result.certificate.evidence == STOPPED
    assert not result.converged.any()
    assert_truthful(result, A.d, A.shape)


@pytest.mark.parametrize("tol", [0.2, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_one_pass_over_a_flat_bulk_makes_nothing_look_right(seed, tol):
    values = torch.cat([torch.ones(1), torch.linspace(0.5, 0.45, 19_999)]).double()
    result = svds(
        Diagonal(values),
        1,
        tol=tol,
        method="randomized",
        seed=seed,
        progress=StopAfter(1),
        on_unconverged="ignore",
    )
    assert not result.converged.any()
    assert result.certificate.evidence == "none: stopped after 1 of 3 passes"


@pytest.mark.parametrize("options", [{}, {"energy": 0.999}, {"tail": 1e-3}, {"memory": "1100KiB"}])
def test_randomized_methods_stop_too(options):
    arguments = {"method": "randomized", "on_unconverged": "ignore", "tol": 1e-9, **options}
    whole = svds(Diagonal(TRUTH.float()), 20, **arguments)
    result = svds(Diagonal(TRUTH.float()), 20, progress=StopAfter(1), **arguments)
    assert result.products.total < whole.products.total
    assert not result.certificate.complete
    assert "stopped" in result.certificate.evidence
    assert not result.converged.any()


def test_the_exact_method_goes_on():
    result = svds(torch.diag(TRUTH), 5, method="exact", progress=StopAfter(1))
    assert result.converged.all()


def test_a_warning_says_that_the_solve_was_stopped():
    with pytest.warns(ConvergenceWarning, match="progress= stopped the solve"):
        svds(Diagonal(TRUTH), 5, tol=1e-9, method="golub-kahan", progress=lambda progress: False)


def test_a_false_of_numpy_stops():
    options = {"tol": 1e-9, "method": "golub-kahan", "on_unconverged": "ignore"}
    result = svds(Diagonal(TRUTH), 5, progress=lambda progress: np.bool_(False), **options)
    assert len(result.history) == 1


@pytest.mark.parametrize("answer", [None, True, 0, ""])
def test_only_false_stops(answer):
    result = svds(Diagonal(TRUTH), 5, method="golub-kahan", progress=lambda progress: answer)
    assert result.converged.all()
