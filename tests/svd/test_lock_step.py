"""Batches of large matrices in lock step, as many at a time as the memory holds."""

import dataclasses
import functools
import math
from itertools import pairwise

import pytest
import torch
from support.svd_problems import assert_truthful, line, with_values

from jvpsvd import LinearOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.krylov import ritz
from jvpsvd.svd.lock_step import InParts, matrices_together, plan_batch
from jvpsvd.svd.memory import Footprint
from jvpsvd.svd.memory import memory_of as memory_of_device
from jvpsvd.svd.methods.exact import Exact
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.plan import plan
from jvpsvd.svd.request import ProblemSize, Request

M, N, K, TOL = 900, 400, 40, 1e-5
SIZE = Footprint(M, N, K, 4, 6, True)
COPY = M * N * 4
"""Bytes of one matrix: a part is a copy, beside the whole."""


def spectra():
    """Six of 400 values that end at different times; one is clustered, one of low rank."""
    i = torch.arange(1, N + 1, dtype=torch.float64)
    return [
        1 / i,
        torch.logspace(0, -12, N, dtype=torch.float64),
        line(1, 0.5, N),
        torch.cat([line(5, 1, 60), torch.zeros(N - 60, dtype=torch.float64)]),
        100 / i**0.5,
        torch.cat([torch.ones(3, dtype=torch.float64), line(0.9, 0.1, N - 3)]),
    ]


def made(shape):
    return [with_values(s, *shape, seed=i).float() for i, s in enumerate(spectra())]


@pytest.fixture(scope="module", params=[(M, N), (N, M)], ids=["tall", "wide"])
def batch(request):
    return torch.stack(made(request.param))


def memory_of(together, columns, held=6):
    """Bytes with which a part of so many matrices has bases of so many columns."""
    part = dataclasses.replace(SIZE, batch=together)
    others = (held - together) * SIZE.result // 6
    return part.workspace(2 * 8) + columns * part.column + others + together * COPY


ALONE = dataclasses.replace(SIZE, batch=1)
PARTS_OF_TWO = {
    "golub-kahan": memory_of(2, 260),
    "exact": 2 * ALONE.exact() + 4 * ALONE.result + (1 << 16),
}


@functools.cache
def solved_alone(shape):
    """What each matrix gets alone, in one solve for all tests."""
    options = {"tol": TOL, "method": "golub-kahan", "on_unconverged": "ignore"}
    return [svds(matrix, K, **options) for matrix in made(shape)]


def assert_own(result, batch):
    """Each matrix has the certified triplets that it has alone."""
    assert result.s.shape == (len(batch), K)
    assert result.U.shape[:2] == batch.shape[:2]
    each = zip(batch, spectra(), solved_alone(tuple(batch.shape[1:])), strict=True)
    for i, (matrix, s, alone) in enumerate(each):
        own = result.of(i)
        assert_truthful(own, s, tuple(matrix.shape))
        assert own.certificate.sound
        both = own.converged & alone.converged
        assert ((own.s - alone.s).abs()[both] <= 2 * TOL * float(s[0])).all()
        assert alone.converged.sum() <= own.converged.sum() + 1
        A, U, V = (x.double() for x in (matrix, own.U, own.Vh.mT))
        residual = torch.linalg.vector_norm(A @ V - U * own.s, dim=0)
        assert (residual <= own.residuals.double() + 1e-5 * float(s[0])).all()


@pytest.mark.parametrize("vectors", [True, False])
def test_each_of_a_large_batch_gets_what_it_gets_alone(batch, vectors):
    result = svds(batch, K, tol=TOL, method="golub-kahan", vectors=vectors)
    assert result.converged.all()
    assert not isinstance(result.plan.solver, InParts)
    if vectors:
        assert_own(result, batch)
    for i, s in enumerate(spectra()):
        assert_truthful(result.of(i), s, tuple(batch.shape[1:]))


def test_each_of_a_batch_is_checked_at_its_own_time(monkeypatch):
    """Small decompositions of a batch are about as many as those of its matrices alone."""
    decompositions = []

    def counted(matrix, k, loss, device):
        if matrix.shape[-1] >= 256:
            decompositions.append(1 if matrix.ndim == 2 else len(matrix))
        return leading_svd(matrix, k, loss, device)

    monkeypatch.setattr(ritz, "leading_svd", counted)
    ends = (1e-1, 1e-2, 1e-3, 1e-6)
    each = [torch.logspace(0, math.log10(end), 800, dtype=torch.float64) for end in ends]
    batch = torch.stack([with_values(s, 1000, 800, seed=i) for i, s in enumerate(each)]).float()
    options = {"k": 160, "tol": 1e-4, "method": "golub-kahan"}
    for matrix in batch:
        assert svds(matrix, **options).converged.all()
    alone = sum(decompositions)
    decompositions.clear()
    result = svds(batch, **options)
    assert result.converged.all()
    assert sum(decompositions) <= 1.25 * alone
    assert sum(count < 4 for count in decompositions) > 2
    for i, s in enumerate(each):
        assert_truthful(result.of(i), s, (1000, 800))
        assert result.of(i).certificate.sound
        assert result.of(i).certificate.complete


@pytest.mark.parametrize(("together", "parts"), [(3, 2), (2, 3), (1, 6)])
def test_a_batch_that_does_not_fit_is_split(batch, together, parts):
    memory = memory_of(together, 260)
    reports = []
    result = svds(batch, K, tol=TOL, method="golub-kahan", memory=memory, progress=reports.append)
    assert result.plan.solver.together == together == 6 // parts
    assert f"{together} of 6 matrices in lock step" in result.plan.reason
    assert result.plan.predicted_bytes <= memory
    assert result.converged.all()
    assert_own(result, batch)
    assert {report.wanted for report in reports} == {6 * K}
    done = [report.converged for report in reports]
    assert done[-1] == 6 * K
    assert [report.share for report in reports][-1] == 1.0
    assert all(before <= after for before, after in pairwise(done))


def test_the_copy_of_a_part_counts(batch):
    memory = memory_of(3, 260)
    size = ProblemSize.of(MatrixOperator(batch))
    without = dataclasses.replace(size, selected=0)
    request = Request(K, tol=TOL, method="golub-kahan", memory=memory)
    assert matrices_together(size, request) == 3
    shorter = dataclasses.replace(request, memory=memory - 3 * COPY)
    assert matrices_together(without, shorter) == 3
    assert matrices_together(size, shorter) < 3


def test_a_batch_that_fits_is_not_selected_from(batch):
    class Counting(MatrixOperator):
        selected = 0

        def _select(self, index):
            type(self).selected += 1
            return super()._select(index)

    same = batch[:1].expand(3, -1, -1).contiguous()  # they end together
    assert not isinstance(svds(Counting(same), K, method="exact").plan.solver, InParts)
    assert Counting.selected == 0


@pytest.mark.parametrize(
    "made",
    [
        lambda A: A,
        lambda A: A.T,
        lambda A: 2 * A,
        lambda A: A.T @ A,
    ],
)
def test_what_a_selection_copies_is_known_of_compositions(batch, made):
    A = made(MatrixOperator(batch))
    parts = 2 if A.shape[-1] == A.shape[-2] else 1
    assert A.selection_bytes == parts * COPY
    assert made(MatrixOperator(batch[0])).selection_bytes is None


def test_values_of_a_split_batch(batch):
    part = dataclasses.replace(SIZE, batch=2, vectors=False)
    memory = part.workspace(2 * 8) + 260 * part.values_column + 4 * N * K * 4 + 2 * COPY
    result = svds(batch, K, tol=TOL, method="golub-kahan", memory=memory, vectors=False)
    assert result.plan.solver.together == 2
    for i, s in enumerate(spectra()):
        assert_truthful(result.of(i), s, tuple(batch.shape[1:]))


def test_restarts_of_one_at_a_time(batch):
    result = svds(
        batch, K, tol=TOL, method="golub-kahan", memory=memory_of(1, 80), on_unconverged="ignore"
    )
    assert (result.plan.solver.together, result.plan.max_size) == (1, 80)
    assert result.converged[[0, 1, 3, 4]].all()
    for i, s in enumerate(spectra()):
        assert_truthful(result.of(i), s, tuple(batch.shape[1:]), rounding_factor=4)
        assert result.of(i).certificate.sound


def test_a_start_is_split_with_its_matrices(batch):
    cold = svds(batch, K, tol=TOL, method="golub-kahan")
    A = MatrixOperator(batch)
    warm = svds(A, K, tol=TOL, method="golub-kahan", start=cold, memory=memory_of(2, 260))
    assert warm.plan.solver.together == 2
    assert warm.products.total < cold.products.total
    assert_own(warm, batch)


def test_the_exact_method_in_parts(batch):
    result = svds(batch, K, method="exact", memory=PARTS_OF_TWO["exact"])
    assert 1 <= result.plan.solver.together <= 2
    whole = svds(batch, K, method="exact")
    torch.testing.assert_close(result.s, whole.s, atol=1e-5, rtol=1e-5)
    assert_own(result, batch)


@pytest.mark.parametrize("method", PARTS_OF_TWO)
def test_a_matrix_of_a_part_is_named_by_its_index_in_the_batch(batch, method):
    memory = PARTS_OF_TWO[method]
    bad = batch.clone()
    bad[3, 4, 5] = float("inf")
    with pytest.raises(NonFiniteError, match=r"^a \w+ product of the \d+ x \d+ operator 3 of 6 "):
        svds(bad, K, tol=TOL, method=method, memory=memory)
    bad = batch.clone()
    bad[5] *= 1e-36
    with pytest.raises(ArgumentError, match=r"^operator 5 of 6: products of about "):
        svds(bad, K, tol=TOL, method=method, memory=memory)


@pytest.mark.parametrize(
    ("together", "said"),
    [(1, r"^operator 5 of 6: singular"), (2, r"^of operators 4 to 5, singular")],
)
def test_a_part_is_named_where_no_single_matrix_is(batch, together, said):
    bad = batch.clone()
    bad[5] = 1e36
    solver = InParts(Exact(), together)
    with pytest.raises(ArgumentError, match=f"{said} values exceed what torch.float32 can hold"):
        solver.solve(MatrixOperator(bad), Request(K), Monitor())


def test_a_batch_that_cannot_be_divided_restarts_as_a_whole(batch):
    class Whole(MatrixOperator):
        selection_bytes = None

        def _select(self, index):
            return LinearOperator._select(self, index)

    same = batch[:1].expand(3, -1, -1).contiguous()  # they end together
    memory = dataclasses.replace(SIZE, batch=3).workspace(16) + 100 * SIZE.column // 2
    result = svds(Whole(same), K, tol=TOL, method="golub-kahan", memory=memory)
    assert not isinstance(result.plan.solver, InParts)
    assert result.converged.all()


def test_what_not_even_one_fits_is_refused(batch):
    with pytest.raises(ArgumentError, match="more than memory= allows"):
        svds(batch, K, method="golub-kahan", memory=memory_of(1, 20))
    with pytest.raises(ArgumentError, match="k=40 triplets of 6 operators"):
        svds(batch, K, method="golub-kahan", memory=5 * SIZE.result // 6)


def test_the_solve_stops_where_it_is_told(batch):
    result = svds(
        batch,
        K,
        tol=TOL,
        method="golub-kahan",
        memory=memory_of(2, 260),
        progress=lambda progress: False,
        on_unconverged="ignore",
    )
    assert not result.converged.any()
    assert (result.residuals >= 0).all()


@pytest.mark.parametrize("k", [10, 500])
def test_a_part_has_the_bases_of_one_alone(k):
    """The plan of the largest part never restarts sooner than that of one matrix."""
    card = torch.device("cuda")
    for rows in (1000, 15680, 75264):
        size = ProblemSize((rows, 150528), torch.float32, card, batch=32)
        for gib in (8, 16, 40, 70):
            request = Request(k, tol=1e-4, memory=gib << 30, vectors=False)
            together = matrices_together(size, request)
            chosen = plan_batch(size, request)
            alone = plan(dataclasses.replace(size, batch=1), request)
            assert chosen.method == alone.method
            solver = chosen.solver.solver if together < 32 else chosen.solver
            if chosen.method == "golub-kahan" and together > 1:
                bases = min(alone.solver.values_size, int(1.5 * chosen.predicted_products / 2))
                assert solver.values_size >= bases
                assert solver.max_size >= k + 2 * solver.block_size
            assert chosen.predicted_bytes <= gib << 30
            assert 1 <= together <= 32
            assert isinstance(chosen.solver, InParts) == (together < 32)


@pytest.mark.parametrize("free", [3 << 30, 2 << 30, 1 << 30])
def test_what_the_operator_holds_is_taken_off_once(free):
    size, k = ProblemSize((15680, 150528), torch.float32, batch=32), 20
    expected = matrices_together(size, Request(k, memory=free))
    held = dataclasses.replace(size, held=5 << 30)
    assert matrices_together(held, Request(k, memory=free + held.held)) == expected
    rest = dataclasses.replace(size, held=memory_of_device(None) - 2 * free)
    assert matrices_together(rest, Request(k)) == expected


def test_a_batch_that_fits_whole_only_is_solved_whole():
    """A part is a copy beside the whole, for which there may be no room."""
    A = torch.diag(0.5 ** torch.arange(1000)) * torch.tensor([1.0, 3.0])[:, None, None]
    options = {"method": "golub-kahan", "memory": "1MiB", "tol": 1e-2}
    result = svds(A, 1, **options, on_unconverged="ignore")  # bases restart too soon to tell
    assert torch.allclose(result.s[:, 0], torch.tensor([1.0, 3.0]), rtol=1e-2)
    assert not isinstance(result.plan.solver, InParts)
