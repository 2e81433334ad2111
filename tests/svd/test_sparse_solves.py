"""Sparse matrices with few entries are solved without U, and with it where rounding asks for it."""

from dataclasses import replace

import pytest
import scipy.sparse
import torch
from support.svd_problems import line

from benchmarks.parts.random_hostile import FAULTS, solve
from benchmarks.problems.random_sparse import draw_sparse
from jvpsvd import aslinearoperator, svds
from jvpsvd.svd import ProblemSize, check_request, plan

SIZE = ProblemSize((3000, 2000), torch.float64, chunk=8, in_memory=True, entries=9000)


def banded(m, n, values):
    """A sparse matrix m x n with nearly these values on its diagonal, coupled to its neighbours."""
    diagonal = scipy.sparse.diags_array(values.numpy(), shape=(m, n))
    return (diagonal + scipy.sparse.diags_array([0.01], offsets=[1], shape=(m, n))).tocsr()


def solver_of(size, **options):
    return plan(size, check_request(size, 5, memory="8GiB", **options)).solver


def test_the_plan_forms_u_where_it_pays():
    assert not solver_of(SIZE).forms_left
    for field, other in (
        ("dtype", torch.float32),
        ("device", torch.device("cuda")),
        ("entries", None),
        ("entries", 40 * 5000 + 1),
    ):
        assert solver_of(replace(SIZE, **{field: other})).forms_left, field
    assert solver_of(SIZE, tol=1e-11).forms_left


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_triplets_are_those_of_lapack(tol, vectors, transposed):
    matrix = banded(900, 600, torch.cat([line(1, 0.5, 8), line(0.3, 0.01, 592)]).double())
    matrix = matrix.T if transposed else matrix
    result = svds(matrix, 8, tol=tol, method="golub-kahan", vectors=vectors)
    assert not result.plan.solver.forms_left
    dense = torch.from_numpy(matrix.toarray())
    truth = torch.linalg.svdvals(dense)[:8]
    assert result.converged.all()
    assert result.certificate.sound
    assert result.certificate.complete
    assert (result.s - truth).abs().max() <= tol * truth[0]
    if not vectors:
        assert result.U is result.Vh is None
        return
    off = torch.maximum(
        (dense @ result.Vh.T - result.U * result.s).norm(dim=0),
        (dense.T @ result.U - result.Vh.T * result.s).norm(dim=0),
    )
    assert off.max() <= tol * truth[0]
    for vectors_of_a_side in (result.U.T, result.Vh):
        gram = vectors_of_a_side @ vectors_of_a_side.T
        assert (gram - torch.eye(8)).abs().max() < 1e-12


@pytest.mark.parametrize("rank", [0, 3, 12])
def test_values_beyond_the_rank_are_zero(rank):
    values = torch.zeros(400, dtype=torch.float64)
    values[:rank] = line(2, 1, rank) if rank else 0
    matrix = scipy.sparse.diags_array(values.numpy()).tocsr()
    result = svds(matrix, 16, tol=1e-8, method="golub-kahan")
    assert result.converged.all()
    assert (result.s - values[:16]).abs().max() < 1e-12


def test_small_values_are_found_to_the_tolerance():
    """A'A holds values below 1e-8 s₁ no more; the tolerance is met all the same."""
    values = 10.0 ** -line(0, 12, 300).double()
    result = svds(scipy.sparse.diags_array(values.numpy()).tocsr(), 60, tol=1e-10, seed=1)
    assert result.converged.all()
    assert (result.s - values[:60]).abs().max() < 1e-10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("small", [1e-7, 1e-8, 1e-9, 1e-10])
def test_all_values_are_as_exact_as_with_u(small, seed):
    """The bases span the whole space, and the spectrum is told as known exactly."""
    values = torch.cat([line(1, 0.5, 39).double(), torch.tensor([small], dtype=torch.float64)])
    drawn = torch.randn(60, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = torch.linalg.qr(drawn)[0] * values
    matrix = scipy.sparse.csr_array(turned.numpy())
    truth = torch.linalg.svdvals(turned)
    result = svds(matrix, 30, tol=1e-6, method="golub-kahan", seed=seed, block_size=2)
    spectrum = result.spectrum
    assert spectrum.count(0.9 * small).value == 40
    assert spectrum.count(1.1 * small).value == 39
    assert abs(spectrum.log_volume().value - float(truth.log().sum())) < 1e-5


def test_copies_of_a_value_are_all_found():
    values = torch.cat([torch.full((7,), 1.0), line(0.8, 0.1, 393)]).double()
    matrix = scipy.sparse.diags_array(values.numpy()).tocsr()
    for seed in range(5):
        result = svds(matrix, 8, tol=1e-6, method="golub-kahan", seed=seed)
        assert result.converged.all()
        assert (result.s - values[:8]).abs().max() < 1e-6


@pytest.mark.parametrize("vectors", [False, True])
def test_little_memory_restarts_the_bases(vectors):
    matrix = banded(900, 900, line(1, 0.01, 900).double())
    A = aslinearoperator(matrix)
    asked = {"tol": 1e-6, "method": "golub-kahan", "block_size": 2, "vectors": vectors}
    free, tight = svds(A, 6, **asked), svds(A, 6, **asked, memory=1_600_000)
    assert tight.plan.max_size < 90 < free.products.forward
    assert free.products.forward < tight.products.forward < 2 * free.products.forward
    assert not tight.plan.solver.forms_left
    assert tight.converged.all()
    assert torch.allclose(free.s, tight.s, atol=1e-6)


def test_a_start_of_an_earlier_result_and_a_seed_are_kept():
    matrix = banded(500, 400, line(1, 0.01, 400).double())
    # Bases of a given width do not restart by timings.
    asked = {"tol": 1e-7, "method": "golub-kahan", "block_size": 2}
    first, again = (svds(matrix, 5, **asked) for _ in range(2))
    assert torch.equal(first.s, again.s)
    assert torch.equal(first.U, again.U)
    started = svds(matrix, 5, **asked, start=first)
    assert started.converged.all()
    assert torch.allclose(started.s, first.s, atol=1e-7)


@pytest.mark.parametrize("seed", range(120))
def test_random_sparse_problems(seed):
    _, faults = solve(draw_sparse(seed))
    assert not [fault for fault in faults if fault.split(":")[0] in FAULTS]
