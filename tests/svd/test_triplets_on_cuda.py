"""Triplets found on a GPU are the true ones, stay there, and repeat."""

import pytest
import torch
from support.svd_problems import SPECTRA, spectrum, with_values
from torch import nn

from jvpsvd import JacobianOperator, LinearOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import choose_batch
from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.krylov import ritz
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.lock_step import InParts
from jvpsvd.svd.memory import memory_of

pytestmark = pytest.mark.gpu

TOL = {torch.float32: 1e-5, torch.float64: 1e-9}


def assert_triplets(result, matrix, s, tol):
    """On the card, in order, orthonormal, with small residuals and the true values."""
    U, V = result.U.double(), result.Vh.double().mT
    assert U.is_cuda
    assert V.is_cuda
    A, found = matrix.cuda(), result.s.cuda().double()
    scale = max(float(s[0]), 1e-300)
    assert (found.cpu() - s).abs().max() <= tol * scale
    assert (A @ V - U * found).norm(dim=0).max() <= 2 * tol * scale
    assert (A.mT @ U - V * found).norm(dim=0).max() <= 2 * tol * scale
    for W in (U, V):
        eye = torch.eye(W.shape[1], dtype=torch.float64, device="cuda")
        assert (W.mT @ W - eye).abs().max() <= 10 * tol


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(60, 140), (140, 60)])
@pytest.mark.parametrize("name", SPECTRA)
def test_hard_spectra(name, shape, dtype):
    s = spectrum(name, 60)
    matrix = with_values(s, *shape)
    for method in ("exact", "golub-kahan"):
        result = svds(MatrixOperator(matrix.to("cuda", dtype)), 10, tol=TOL[dtype], method=method)
        assert bool(result.converged.all())
        assert_triplets(result, matrix, s[:10], TOL[dtype])


@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_a_network_and_its_certificate(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 120)).requires_grad_(False)
    x = torch.randn(300)
    truth = torch.func.jacrev(net.double())(x.double())
    J = JacobianOperator(net.float().cuda(), x.cuda())
    result = svds(J, 20, tol=1e-4, method=method, on_unconverged="ignore")
    assert_triplets(result, truth, torch.linalg.svdvals(truth)[:20], 1e-4)
    assert result.certificate.complete
    values = svds(J, 20, tol=1e-4, method=method, vectors=False, on_unconverged="ignore")
    torch.testing.assert_close(values.s, result.s, rtol=1e-5, atol=1e-6)


def test_residuals_of_random_subspaces_are_the_true_ones():
    matrix = with_values(spectrum("harmonic", 200), 200, 500)
    result = svds(
        MatrixOperator(matrix.float().cuda()), 10, method="randomized", on_unconverged="ignore"
    )
    U, s, V = result.U.cpu().double(), result.s.cpu().double(), result.Vh.cpu().double().mT
    forward, adjoint = (matrix @ V - U * s).norm(dim=0), (matrix.mT @ U - V * s).norm(dim=0)
    torch.testing.assert_close(
        result.residuals.cpu().double(), torch.maximum(forward, adjoint), rtol=0.1, atol=2e-6
    )


def test_only_the_leading_part_of_a_large_projected_problem_is_computed():
    s = 1 / torch.arange(1, 801, dtype=torch.float64).sqrt()
    matrix = with_values(s, 800, 1000)
    result = svds(MatrixOperator(matrix.float().cuda()), 100, tol=1e-5, method="golub-kahan")
    assert_triplets(result, matrix, s[:100], 1e-5)


def test_a_large_projected_problem_is_solved_on_the_card(monkeypatch):
    calls = []

    def recorded(matrix, k, loss, device):
        calls.append((matrix.shape[-1], device.type))
        return leading_svd(matrix, k, loss, device)

    monkeypatch.setattr(ritz, "leading_svd", recorded)
    s = 1 / torch.arange(1, 801, dtype=torch.float64).sqrt()
    matrix = with_values(s, 800, 4000)
    result = svds(MatrixOperator(matrix.float().cuda()), 200, tol=1e-5, method="golub-kahan")
    assert_triplets(result, matrix, s[:200], 1e-5)
    assert {device for size, device in calls if 256 <= size <= 280} == {"cuda"}
    assert {device for size, device in calls if size < 256} == {"cpu"}


def test_a_batch_is_solved_in_lock_step():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 60), nn.Sigmoid(), nn.Linear(60, 50)).requires_grad_(False)
    points = torch.randn(6, 40)
    J = JacobianOperator(net.cuda(), points.cuda(), batch_dims=1)
    result = svds(J, 8, tol=1e-5, method="golub-kahan")
    wide = net.double().cpu()
    for i, x in enumerate(points.double()):
        truth = torch.func.jacrev(wide)(x)
        assert_triplets(result.of(i), truth, torch.linalg.svdvals(truth)[:8], 1e-5)


@pytest.mark.parametrize("memory", [None, "40MiB", "16MiB"])
@pytest.mark.parametrize("vectors", [True, False])
def test_large_matrices_in_lock_step_whole_and_in_parts(memory, vectors):
    ends = (0, -1, -2, -4, -8, -1)
    spectra = [torch.logspace(0, end, 400, dtype=torch.float64) for end in ends]
    each = [with_values(s, 900, 400, seed=i) for i, s in enumerate(spectra)]
    A = MatrixOperator(torch.stack(each).float().cuda())
    options = {"tol": 1e-5, "method": "golub-kahan", "vectors": vectors, "memory": memory}
    result = svds(A, 40, **options)
    assert isinstance(result.plan.solver, InParts) == (memory == "16MiB")
    assert bool(result.converged.all())
    for i, (matrix, s) in enumerate(zip(each, spectra, strict=True)):
        assert result.of(i).certificate.sound
        if vectors:
            assert_triplets(result.of(i), matrix, s[:40], 1e-5)
        else:
            assert (result.s[i].cpu().double() - s[:40]).abs().max() <= 1e-5


def test_as_many_large_jacobians_are_solved_together_as_the_card_holds():
    card = torch.device("cuda")
    together = choose_batch(150_528, 15_680, 500, device=card)
    assert together == choose_batch(150_528, 15_680, 500, device=card, memory=memory_of(card) // 2)
    assert choose_batch(150_528, 15_680, 500, device=card, memory="1GiB") == 1
    if memory_of(card) > 20 << 30:
        assert together >= 4


def test_a_step_waits_for_the_card_six_times():
    from torch.profiler import ProfilerActivity, profile

    matrix = with_values(1 / torch.arange(1, 801, dtype=torch.float64).sqrt(), 1000, 800)
    A = MatrixOperator(torch.stack([matrix, 2 * matrix]).float().cuda())
    bases = GolubKahanFactorization(A, block_size=16, seed=0, capacity=400, max_loss=1e-4)
    bases.initialize()
    bases.expand()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(5):
            bases.expand()
    waits = sum(e.count for e in profiled.key_averages() if e.key == "cudaStreamSynchronize")
    assert waits <= 5 * 6 + 6  # what the profiler itself waits for


def test_the_same_seed_gives_the_same_bits():
    matrix = with_values(spectrum("harmonic", 100), 100, 300).float().cuda()
    one, two = (svds(MatrixOperator(matrix), 12, method="golub-kahan", seed=3) for _ in range(2))
    assert torch.equal(one.s, two.s)
    assert torch.equal(one.Vh, two.Vh)


def test_a_warm_start_saves_products():
    matrix = with_values(spectrum("harmonic", 200), 200, 500).float().cuda()
    A = MatrixOperator(matrix)
    cold = svds(A, 10, tol=1e-4, method="golub-kahan")
    warm = svds(A, 10, tol=1e-4, method="golub-kahan", start=cold)
    torch.testing.assert_close(warm.s, cold.s, rtol=1e-4, atol=1e-6)
    assert warm.products.total < cold.products.total


def test_what_the_card_cannot_hold_is_refused_by_its_own_memory():
    class Zero(LinearOperator):
        def _matmat(self, V):
            return torch.zeros_like(V)

        _rmatmat = _matmat

    A = Zero((10**6, 10**6), torch.float32, "cuda")
    with pytest.raises(ArgumentError, match="more than half of this GPU's memory"):
        svds(A, 10**5)


def test_memory_stays_under_what_was_allowed():
    matrix = with_values(1 / torch.arange(1, 401, dtype=torch.float64), 400, 20000)
    A = MatrixOperator(matrix.float().cuda())
    A.rmatmat(A.matmat(torch.ones(20000, 8, device="cuda")))  # cuBLAS takes its workspace once
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    allowed = 24 << 20
    result = svds(A, 20, tol=1e-4, method="golub-kahan", memory=allowed)
    assert bool(result.converged.all())
    assert torch.cuda.max_memory_allocated() - before <= allowed
