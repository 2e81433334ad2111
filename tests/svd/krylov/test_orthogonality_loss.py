"""Which Lanczos blocks are made orthogonal to all of V, and that B is right nevertheless."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator
from support.svd_problems import line

from jvpsvd import MatrixOperator, aslinearoperator, svds
from jvpsvd.svd.krylov.lanczos import LanczosFactorization
from jvpsvd.svd.krylov.orthogonality_loss import OrthogonalityLoss
from jvpsvd.svd.krylov.retry import RetryWith
from jvpsvd.svd.krylov.ritz import ritz_triplets

EPS = torch.finfo(torch.float64).eps
N = 1200
PRODUCTS = ("matvec", "rmatvec", "matmat", "rmatmat")
SPECTRA = {
    "line": line(1, 0, N),
    "gap": torch.cat([line(1, 0.9, 8), line(0.5, 0, N - 8)]),
    "1/i": 1 / torch.arange(1, N + 1).double(),
    "pairs": line(1, 0, N // 2).repeat_interleave(2),
    "exponential": 10.0 ** -(torch.arange(N).double() / 60),
}


def bases_of(values, block_size=2, max_loss=1e-9, scale=1.0):
    A = MatrixOperator((scale * values).diag())
    return LanczosFactorization(A, block_size=block_size, seed=0, capacity=300, max_loss=max_loss)


def loss_of(V):
    return float((V.mT @ V - torch.eye(V.shape[1])).abs().max())


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("block_size", [1, 2, 5])
@pytest.mark.parametrize("scale", [1e-130, 1.0, 1e130])
def test_v_loses_what_may_be_lost_and_no_more(name, block_size, scale):
    values = SPECTRA[name]
    bases = bases_of(values, block_size, scale=scale)
    bases.initialize()
    while bases.size < 200:
        bases.expand()
    assert 100 * EPS < loss_of(bases.V) <= 1e-9
    projected = torch.linalg.svdvals(bases.B)[:5] / scale
    Q = torch.linalg.qr(bases.V)[0]
    assert (projected - torch.linalg.svdvals(values[:, None] * Q)[:5]).abs().max() < 1e-13


@pytest.mark.parametrize("block_size", [1, 3])
def test_nothing_is_lost_where_nothing_may_be(block_size):
    bases = bases_of(SPECTRA["1/i"], block_size, max_loss=0.0)
    bases.initialize()
    while bases.size < 150:
        bases.expand()
    assert loss_of(bases.V) <= 100 * EPS


@pytest.mark.parametrize("name", SPECTRA)
def test_restarts_and_probe_columns_keep_v_within_the_loss(name):
    bases = bases_of(SPECTRA[name], 2)
    bases.initialize()
    for _ in range(8):
        while bases.size < 120:
            bases.expand()
        bases.add_probe_columns(1)
        bases.expand()
        bases.restart(ritz_triplets(bases, 60))
        assert loss_of(bases.V) <= 1e-9
    values = torch.linalg.svdvals(bases.B)
    assert (values[:2] - SPECTRA[name][:2]).abs().max() < 1e-3
    assert values[0] <= SPECTRA[name][0] + 1e-13


@pytest.mark.parametrize("k", [4, 40])
@pytest.mark.parametrize("name", ["line", "pairs", "1/i"])
def test_triplets_of_long_solves_are_orthonormal_and_right(name, k):
    values = SPECTRA[name]
    matrix = sp.csr_array(sp.diags_array(values.numpy()))
    result = svds(matrix, k, tol=1e-8)
    assert result.converged.all()
    assert (result.s - values[:k]).abs().max() < 1e-12
    assert max(loss_of(result.Vh.mT), loss_of(result.U)) < 1e-13


def test_products_that_do_not_repeat_end_in_bases_with_u():
    """Rounding of 1e-10, where the estimate expects 1e-15, is seen by what is measured."""
    matrix, draw = np.diag(SPECTRA["gap"].numpy()), np.random.default_rng(0)

    def multiply(block):
        image = matrix @ block
        return image + 1e-10 * draw.standard_normal(image.shape)

    A = aslinearoperator(
        LinearOperator((N, N), dtype=np.float64, **dict.fromkeys(PRODUCTS, multiply))
    )
    bases = LanczosFactorization(A, block_size=2, seed=0, capacity=100, max_loss=1e-9)
    bases.initialize()

    def expand_and_measure():
        while bases.size < 100:
            bases.expand()
        bases.measure(ritz_triplets(bases, 4))

    with pytest.raises(RetryWith) as again:
        expand_and_measure()
    assert again.value.forms_left


def test_two_blocks_in_succession_are_made_orthogonal_to_all():
    loss = OrthogonalityLoss(1e-9)
    for size in (2, 4):
        assert loss.must_renew
        loss.renew(size, 2)
    assert not loss.must_renew
    assert not loss.accept(torch.full((6, 2), 1e-8))
    loss.renew(6, 2)
    assert loss.must_renew
    loss.renew(8, 2)
    assert not loss.must_renew
    assert loss.accept(torch.full((10, 2), 1e-10))
    loss.forget()
    assert loss.must_renew
