"""Compact bases: restarts because dense work outweighs the products."""

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    TOL,
    Diagonal,
    assert_truthful,
    line,
    repeat,
    solved_by,
    spectrum,
)
from support.thinned import thinned

from jvpsvd import svds
from jvpsvd.svd.krylov import restarts
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.restarts import (
    ColumnSeconds,
    RestartPolicy,
    compact_size,
    kept_size,
    restart_pays,
)
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor

DTYPES = (torch.float32, torch.float64)


@pytest.fixture
def kept(monkeypatch):
    """Return a list to which every restart appends the columns that it keeps."""
    columns = []
    plain = GolubKahanFactorization.restart

    def restart(self, ritz):
        columns.append(ritz.s.shape[-1])
        plain(self, ritz)

    monkeypatch.setattr(GolubKahanFactorization, "restart", restart)
    return columns


@pytest.fixture
def always(monkeypatch):
    """Let timings always say that restarting pays."""
    monkeypatch.setattr(restarts, "restart_pays", lambda *args: True)


@thinned("k, name, dtype", [5, 40], SPECTRA, DTYPES, keep=2)
def test_answers_are_right_wherever_timings_say_that_restarting_pays(k, name, dtype, kept, always):
    truth = spectrum(name, 700)
    A = Diagonal(truth.to(dtype))
    result = svds(A, k, tol=TOL[dtype], method="golub-kahan", on_unconverged="ignore")
    assert_truthful(result, truth, (700, 700), rounding_factor=3)
    assert all(columns >= k for columns in kept)
    if name == "line" and dtype == torch.float64:
        assert kept
        assert result.certificate.complete


@pytest.mark.parametrize("multiplicity", [12, 20])
def test_clusters_are_found_by_bases_that_shrink(multiplicity, kept, always):
    """Blocks that a repeated value fills become wider, and the bases must hold them."""
    truth = torch.cat([line(1.2, 1.16, 10), repeat(1.15, multiplicity), line(1.14, 0.5, 1400)])
    A = Diagonal(truth)
    result = svds(A, 40, tol=1e-6, method="golub-kahan", on_unconverged="ignore")
    assert_truthful(result, truth, A.shape, rounding_factor=3)
    assert result.converged.all()
    assert kept
    assert all(columns >= 40 for columns in kept)


@pytest.mark.parametrize("max_size", range(100, 132, 2))
def test_a_restart_for_probe_columns_does_not_bias_the_energy(max_size):
    """They sample the complement of the bases at the time they are drawn, so a restart comes
    first."""
    truth = torch.cat([line(10, 9, 100), line(1e-3, 1e-4, 900)])
    solver = GolubKahan(block_size=8, max_size=max_size)
    (evidence,) = solved_by(solver, Diagonal(truth), 10, 1e-6).evidence
    energy = float((truth**2).sum())
    assert abs(evidence.fro2 - energy) <= 8 * evidence.fro2_error + 1e-3 * energy


@pytest.mark.parametrize("cheap", [True, False])
def test_dense_work_that_outweighs_the_products_makes_bases_small(cheap):
    A = Diagonal(line(1, 0.5, 2000))
    state = GolubKahanFactorization(A, block_size=8, seed=0, capacity=600)
    state.initialize()
    monitor = Monitor()
    policy = RestartPolicy(2000, 20, 100, monitor)
    while state.size < 600:
        state.expand()
    monitor.seconds.update({"products": 1.0, "orthogonalisation": 99.0 if cheap else 0.1})
    policy.consider_compact(state)
    assert policy.is_full(state) == cheap
    if cheap:
        assert policy.restart(state) == state.size < compact_size(20, 8, 24)
        assert not policy.is_full(state)
        assert policy.restarts == 0


@pytest.mark.parametrize("options", [{"block_size": 8}, {"memory": "8GiB", "block_size": 4}])
def test_a_given_block_leaves_timings_nothing_to_decide(options, kept, always):
    A = Diagonal(line(1, 0.5, 1500).float())
    one, two = (svds(A, 10, tol=1e-4, method="golub-kahan", **options) for _ in range(2))
    assert one.products.forward > compact_size(10, 8, 24)
    assert torch.equal(one.s, two.s)
    assert torch.equal(one.Vh, two.Vh)
    assert not kept


@pytest.mark.parametrize("vectors", [True, False])
def test_batches_and_values_alone_keep_their_bases(vectors, kept, always):
    truth = line(1, 0.5, 600).float()
    A = Diagonal(truth) if not vectors else torch.diag(truth).expand(2, -1, -1)
    result = svds(A, 10, tol=1e-5, method="golub-kahan", vectors=vectors)
    assert result.converged.all()
    assert not kept


def test_after_max_restarts_compact_bases_grow_to_max_size(kept, always):
    truth = line(1, 0, 900)
    solver = GolubKahan(block_size=4, may_compact=True, max_restarts=2)
    found = solved_by(solver, Diagonal(truth), 20, 1e-9)
    assert len(kept) == 2
    assert found.evidence[0].complete
    torch.testing.assert_close(found.s, truth[:20], atol=1e-12, rtol=0)


def test_compact_restarts_do_not_use_up_those_of_full_bases(kept, always):
    solver = GolubKahan(block_size=4, may_compact=True, max_size=160, max_restarts=2)
    found = solved_by(solver, Diagonal(line(1, 0, 2000)), 20, 1e-13)
    assert found.evidence[0].evidence == "none: given up after 2 restarts of 160 columns"
    assert len(kept) == 4


@pytest.mark.parametrize("values_size", [60, 84, 100, 120])
def test_bases_without_u_are_judged_before_they_begin_again(values_size):
    checks = []
    solver = GolubKahan(block_size=4, values_size=values_size)
    solved_by(solver, Diagonal(line(1, 0, 300)), 20, 1e-8, vectors=False, show=checks.append)
    assert values_size in [check.products.forward for check in checks]


def test_the_work_that_is_saved_has_to_outweigh_the_products():
    shape, compact = (1000, 1000), compact_size(100, 8, 24)
    keep = kept_size(compact, 100, 8)
    pays = [
        [
            restart_pays(ColumnSeconds(c, 1.0), size, compact, keep, shape)
            for size in (400, 600, 3000)
        ]
        for c in (0.1, 1.0, 10.0)
    ]
    assert pays == [[False, True, True], [False, False, True], [False, False, False]]


def test_long_left_vectors_are_a_reason_to_grow_on():
    compact = compact_size(100, 8, 24)
    keep = kept_size(compact, 100, 8)
    first = [
        next(
            s
            for s in range(300, 9000)
            if restart_pays(ColumnSeconds(0, 1), s, compact, keep, (m, 1000))
        )
        for m in (1000, 8000)
    ]
    assert compact < first[0] < 2 * compact < first[1]
