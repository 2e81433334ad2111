import pytest
import torch

from jvpsvd.svd.kernels.row_blocked import (
    count_row_blocks,
    project,
    remainder_norms,
    subtract_projection,
)

AMD, INTEL = "AuthenticAMD", "GenuineIntel"
ENTRIES = 1 << 22  # smaller bases go to BLAS
SHAPES = [(9000, 500, 8), (135000, 32, 3), (4096, 1024, 1), (4097, 1100, 24), (6143, 700, 5)]


def block(length, count, seed, dtype, spare=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count + spare, length, dtype=torch.float64, generator=generator)
    return rows.to(dtype)[:count].T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("maker", [None, AMD, INTEL])
@pytest.mark.parametrize(("length", "size", "width"), SHAPES)
def test_products_by_blocks_of_rows_are_those_of_the_whole(length, size, width, maker, dtype):
    basis, W = block(length, size, 1, dtype, spare=3), block(length, width, 2, dtype)
    C = project(basis, W, maker)
    rest = subtract_projection(W, basis, C, maker)
    expected = basis.double().T @ W.double()
    eps = torch.finfo(dtype).eps
    assert (C.shape, rest.shape, rest.stride()) == ((size, width), (length, width), (1, length))
    assert (C - expected).abs().max() < 4 * eps * length
    exact = W.double() - basis.double() @ C.double()
    assert (rest - exact).abs().max() < 4 * eps * exact.abs().max() * size**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("length", "size"), [(1, 3), (3, 1), (7, 0), (4000, 60), (30000, 150)])
def test_inner_products_with_a_few_vectors(length, size, width, dtype):
    basis, W = block(length, size, 1, dtype, spare=1), block(length, width, 2, dtype)
    expected = basis.double().T @ W.double()
    both = [each.expand(2, -1, -1) for each in (basis, W, expected)]
    for matrix, vectors, wanted in ((basis, W, expected), both):
        found = project(matrix, vectors)
        assert (found.shape, found.dtype) == (wanted.shape, dtype)
        assert torch.allclose(found.double(), wanted, atol=4 * torch.finfo(dtype).eps * length)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [40, 2047, 1 << 14, (1 << 14) + 1, 50000])
@pytest.mark.parametrize("width", [1, 8])
def test_norms_of_a_remainder_are_those_of_the_whole(length, width, dtype):
    W, basis = block(length, width, 1, dtype, spare=2), block(length, 5, 2, dtype)
    other = block(length, width, 3, dtype)
    C, R = basis.double().T @ W.double(), torch.eye(width, dtype=torch.float64)
    exact = W.double() - basis.double() @ C.to(dtype).double() - other.double()
    found = remainder_norms(W, [(basis, C), (other, R)])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact.norm(dim=0), rtol=2e-3, atol=0)
    several = remainder_norms(
        torch.stack([W, 2 * W]), [(basis.expand(2, -1, -1), torch.stack([C, 2 * C]))]
    )
    torch.testing.assert_close(several[1], 2 * several[0], rtol=1e-4, atol=0)


def test_the_norm_of_what_is_only_rounding_is_small():
    W = block(40000, 6, 1, torch.float32)
    Q, R = torch.linalg.qr(W.double())
    norms = remainder_norms(W, [(Q.float(), R)])
    assert bool((norms < 4e-7 * R.norm()).all())
    assert bool((norms > 0).all())


def test_what_lies_row_by_row_goes_to_blas():
    basis, W = block(5000, 840, 1, torch.float64), block(5000, 3, 2, torch.float64)
    assert count_row_blocks(basis, W, AMD) == 2
    for given in ((basis.contiguous(), W), (basis, W.contiguous())):
        assert count_row_blocks(*given, AMD) == 0
        C = project(*given, AMD)
        assert torch.allclose(C, basis.T @ W)
        assert torch.allclose(subtract_projection(given[1], given[0], C, AMD), W - basis @ C)


@pytest.mark.parametrize("length", [1, 2047, 2048, 5000])
def test_what_is_short_has_no_blocks_or_whole_ones(length):
    size = -(-ENTRIES // length)
    basis, W = block(length, size, 1, torch.float64), block(length, 2, 2, torch.float64)
    assert count_row_blocks(basis, W, AMD) == length // 2048
    C = project(basis, W, AMD)
    assert torch.allclose(C, basis.T @ W)
    assert torch.allclose(subtract_projection(W, basis, C, AMD), W - basis @ C)


def test_small_bases_wide_blocks_batches_and_other_devices_go_to_blas():
    large, eight = torch.empty(1 << 10, 1 << 12).T, torch.empty(8, 1 << 12).T
    assert count_row_blocks(large, eight, AMD) == 2
    assert count_row_blocks(large, eight, INTEL) == 0
    assert count_row_blocks(large[:, 1:], eight, AMD) == 0
    assert count_row_blocks(large, torch.empty(25, 1 << 12).T, AMD) == 0
    assert count_row_blocks(large.expand(2, -1, -1), eight.expand(2, -1, -1), AMD) == 0
    assert count_row_blocks(large.to("meta"), eight.to("meta"), AMD) == 0


def test_nothing_that_was_given_changes():
    basis, W = block(5000, 840, 1, torch.float32), block(5000, 4, 2, torch.float32)
    before = basis.clone(), W.clone()
    subtract_projection(W, basis, project(basis, W, AMD))
    assert torch.equal(basis, before[0])
    assert torch.equal(W, before[1])
