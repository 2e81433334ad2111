"""Values that are repeated as often as a block has columns are found by a second, wider solve."""

import math

import pytest
import torch
from support.svd_problems import Diagonal

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request

DTYPES = (torch.float32, torch.float64)


def laplacian_values(side):
    """Return the singular values of the Laplacian of a square grid: most come in pairs."""
    one = 2 - 2 * torch.cos(torch.arange(1, side + 1) * math.pi / (side + 1)).double()
    return (one[:, None] + one).flatten().sort(descending=True).values


def repeated(times):
    return (
        torch.arange(1, 1 + 1200 // times, dtype=torch.float64).pow(-0.5).repeat_interleave(times)
    )


def products(A, k, width, **options):
    result = svds(A, k, method="golub-kahan", block_size=width, **options)
    assert result.converged.all()
    return result, result.products.forward / max(1, len(result.certificates))


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 1e-4), (torch.float64, 1e-4), (torch.float64, 1e-7)]
)
@pytest.mark.parametrize("k", [6, 20])
def test_pairs_in_blocks_of_two_cost_a_second_solve_at_most(k, dtype, tol):
    truth = laplacian_values(40)
    found, narrow = products(Diagonal(truth.to(dtype)), k, 2, tol=tol)
    _, wide = products(Diagonal(truth.to(dtype)), k, 4, tol=tol)
    assert (found.s.double() - truth[:k]).abs().max() <= tol * truth[0]
    assert narrow <= 2.5 * wide  # a block of probe columns takes more


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("times", [2, 3, 5, 12])
def test_values_that_fill_several_widths_of_a_block(times, seed):
    truth = repeated(times)
    found, _ = products(Diagonal(truth), 24, 2, tol=1e-5, seed=seed)
    assert (found.s - truth[:24]).abs().max() <= 1e-5


def test_bases_that_have_become_compact_begin_again_too():
    truth = laplacian_values(80)
    found = svds(Diagonal(truth), 6, tol=1e-6)
    _, wide = products(Diagonal(truth), 6, 4, tol=1e-6)
    assert found.converged.all()
    assert (found.s - truth[:6]).abs().max() <= 1e-6 * truth[0]
    assert found.products.forward <= 4 * wide


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_a_batch_probe_columns_that_are_there_serve_as_the_block(dtype):
    truth = laplacian_values(30)
    batch = torch.diag_embed(torch.stack([truth, 2 * truth])).to(dtype)
    found, narrow = products(batch, 6, 2, tol=1e-5)
    _, wide = products(batch, 6, 4, tol=1e-5)
    assert (found.s.double() - truth[:6] * torch.tensor([[1], [2]])).abs().max() <= 2e-5 * truth[0]
    assert narrow <= 4 * wide  # and 5 times as many with probe columns of their own


def seven_copies():
    """Return values of which the first has more copies than a block of 2 and 4 probe columns."""
    others = torch.linspace(4, 0.01, 592, dtype=torch.float64)
    return torch.cat([torch.tensor([5.0] * 7 + [4.9], dtype=torch.float64), others])


def start_of(seed):
    return torch.randn(600, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_probe_columns_that_copies_fill_do_not_serve_as_the_block():
    A = MatrixOperator(torch.diag(seven_copies()).expand(16, 600, 600))
    start = torch.stack([start_of(seed) for seed in range(16)])
    found = svds(A, 7, tol=1e-2, method="golub-kahan", block_size=2, start=start)
    wrong = (found.s - 5).abs() > 1e-2 * 5
    assert not (wrong & found.converged).any()
    assert found.converged.all()


@pytest.mark.parametrize("seed", range(4))
def test_nor_where_bases_restart(seed):
    request = Request(7, tol=1e-2, start=start_of(seed))
    solver = GolubKahan(block_size=2, max_size=44)
    found = solver.solve(Diagonal(seven_copies()), request, Monitor())
    complete = found.evidence[0].complete
    assert not complete or ((found.s - 5).abs() <= 1e-2 * 5).all()
