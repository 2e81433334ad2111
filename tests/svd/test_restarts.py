"""Bases that shrink because their dense work outweighs the products."""

import pytest
import torch
from svd_problems import SPECTRA, TOL, Diagonal, assert_truthful, line, spectrum

from jvpsvd import svds
from jvpsvd.svd import golub_kahan
from jvpsvd.svd.factorization import Factorization
from jvpsvd.svd.golub_kahan import GolubKahan
from jvpsvd.svd.restarts import Spent, compact_size, kept_size, restart_pays

DTYPES = (torch.float32, torch.float64)


@pytest.fixture
def kept(monkeypatch):
    """Return a list to which every restart appends the columns that it keeps."""
    columns = []
    plain = Factorization.restart

    def restart(self, keep):
        columns.append(keep)
        plain(self, keep)

    monkeypatch.setattr(Factorization, "restart", restart)
    return columns


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_answers_are_right_wherever_timings_say_that_restarting_pays(
    name, dtype, kept, monkeypatch
):
    monkeypatch.setattr(golub_kahan, "restart_pays", lambda *args: True)
    truth = spectrum(name, 700)
    A = Diagonal(truth.to(dtype))
    result = svds(A, 5, tol=TOL[dtype], method="golub-kahan", on_unconverged="ignore")
    assert_truthful(result, truth, (700, 700), rounding_factor=3)
    assert set(kept) <= set(range(5, compact_size(5, 8)))


def test_free_products_are_reason_enough_to_keep_bases_small(kept):
    truth = line(1, 0.5, 4000)
    result = svds(Diagonal(truth.float()), 20, tol=1e-5, method="golub-kahan")
    assert result.converged.all()
    assert result.certificate.complete
    assert_truthful(result, truth, (4000, 4000), rounding_factor=3)
    assert kept


@pytest.mark.parametrize("options", [{"block_size": 8}, {"memory": "8GiB", "block_size": 4}])
def test_a_given_block_leaves_timings_nothing_to_decide(options, kept):
    A = Diagonal(line(1, 0.5, 1500).float())
    one, two = (svds(A, 10, tol=1e-4, method="golub-kahan", **options) for _ in range(2))
    assert torch.equal(one.s, two.s)
    assert torch.equal(one.Vh, two.Vh)
    assert not kept


def test_more_restarts_than_the_limit_give_the_bases_their_room_back(kept, monkeypatch):
    monkeypatch.setattr(golub_kahan, "restart_pays", lambda *args: True)
    truth = line(1, 0, 900)
    solver = GolubKahan(block_size=4, compact_size=40, max_restarts=2)
    found = solver.solve(Diagonal(truth), 20, 1e-9, lambda look: None)
    assert len(kept) == 2
    assert found.known[0].complete
    torch.testing.assert_close(found.s, truth[:20], atol=1e-12, rtol=0)


def test_the_work_that_is_saved_has_to_outweigh_the_products():
    shape, compact = (1000, 1000), compact_size(100, 8)
    keep = kept_size(compact, 100, 8)
    pays = [
        [restart_pays(Spent(c, 1.0), size, compact, keep, shape) for size in (400, 600, 3000)]
        for c in (0.1, 1.0, 10.0)
    ]
    assert pays == [[False, True, True], [False, False, True], [False, False, False]]


def test_long_left_vectors_are_a_reason_to_grow_on():
    compact = compact_size(100, 8)
    keep = kept_size(compact, 100, 8)
    first = [
        next(s for s in range(300, 9000) if restart_pays(Spent(0, 1), s, compact, keep, (m, 1000)))
        for m in (1000, 8000)
    ]
    assert compact < first[0] < 2 * compact < first[1]
