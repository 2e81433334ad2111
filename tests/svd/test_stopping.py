"""A caller may stop a solve: what was found is measured, and nothing more is claimed."""

import pytest
import torch
from support.svd_problems import Diagonal, assert_truthful, line, repeat

from jvpsvd import svds

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
    assert len(stop.shown) <= checks + 1


def test_matrices_of_a_batch_that_had_finished_stay_complete():
    easy, hard = torch.diag(torch.cat([line(9, 5, 5), repeat(0, 395)])), torch.diag(TRUTH)
    batch = torch.stack([easy, hard])

    def stop_when_one_is_done(progress):
        return progress.converged < 5

    result = svds(
        batch,
        5,
        tol=1e-9,
        method="golub-kahan",
        progress=stop_when_one_is_done,
        on_unconverged="ignore",
    )
    assert not result.of(1).certificate.complete
    assert not result.of(1).converged.all()


@pytest.mark.parametrize("options", [{}, {"energy": 0.999}, {"tail": 1e-3}, {"memory": "1100KiB"}])
def test_randomized_methods_stop_too(options):
    arguments = {"method": "randomized", "on_unconverged": "ignore", "tol": 1e-9, **options}
    whole = svds(Diagonal(TRUTH.float()), 20, **arguments)
    result = svds(Diagonal(TRUTH.float()), 20, progress=StopAfter(1), **arguments)
    assert result.products.total < whole.products.total
    assert not result.certificate.complete


def test_the_exact_method_goes_on():
    result = svds(torch.diag(TRUTH), 5, method="exact", progress=StopAfter(1))
    assert result.converged.all()


@pytest.mark.parametrize("answer", [None, True, 0, ""])
def test_only_false_stops(answer):
    result = svds(Diagonal(TRUTH), 5, method="golub-kahan", progress=lambda progress: answer)
    assert result.converged.all()
