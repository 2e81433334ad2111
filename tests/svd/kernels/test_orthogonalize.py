import pytest
import torch
from support.svd_problems import orthonormal

from jvpsvd.svd.kernels.orthogonalize import (
    orthogonalize_block,
    orthonormal_images,
    orthonormality,
    random_columns,
)

DTYPES = (torch.float32, torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def eps(dtype):
    return torch.finfo(dtype).eps


def check(basis, W, new, floor, dtype):
    both = torch.cat([basis, new.Q], dim=1).double()
    assert orthonormality(both) < 30 * eps(dtype)
    rebuilt = basis.double() @ new.coefficients + new.Q.double() @ new.R
    length = float(torch.linalg.vector_norm(W, dtype=torch.float64))
    assert (rebuilt - W.double()).abs().max() <= floor + 30 * eps(dtype) * length


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 20])
@pytest.mark.parametrize("condition", [1, 1e3, 1e4, 1e6, 1e12])
def test_a_block_is_split_along_the_basis_and_beyond(dtype, size, condition):
    basis = orthonormal(80, size, 1).to(dtype) if size else torch.empty(80, 0, dtype=dtype)
    stretch = torch.logspace(0, -torch.tensor(float(condition)).log10(), 6).double()
    W = (orthonormal(80, 6, 2) * stretch @ orthonormal(6, 6, 3)).to(dtype)
    floor = eps(dtype)
    new = orthogonalize_block(basis, W, floor=floor, generator=generator())
    assert new.Q.shape == (80, 6)
    check(basis, W, new, floor, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_directions_inside_the_basis_are_replaced_at_random(dtype):
    all_of_it = orthonormal(50, 11, 1).to(dtype)
    basis = all_of_it[:, :10]
    W = torch.cat([basis[:, :3], all_of_it[:, 10:]], dim=1)
    new = orthogonalize_block(basis, W, floor=10 * eps(dtype), generator=generator())
    assert new.rank == 1
    assert new.Q.shape == (50, 4)
    assert new.R[1:].abs().max() == 0
    check(basis, W, new, 10 * eps(dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_nearly_in_the_basis_is_resolved(dtype):
    all_of_it = orthonormal(60, 13, 1).to(dtype)
    basis, outside = all_of_it[:, :12], all_of_it[:, 12:]
    W = basis[:, :2] + 1e3 * eps(dtype) * outside
    new = orthogonalize_block(basis, W, floor=20 * eps(dtype), generator=generator())
    assert new.rank == 1
    assert orthonormality(torch.cat([basis, new.Q], dim=1)) < 30 * eps(dtype)
    assert (outside.T @ new.Q[:, :1]).abs() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_block_gives_random_columns(dtype):
    basis = orthonormal(20, 5, 1).to(dtype)
    new = orthogonalize_block(
        basis, torch.zeros(20, 3, dtype=dtype), floor=0.0, generator=generator()
    )
    assert new.rank == 0
    assert new.R.abs().max() == new.coefficients.abs().max() == 0
    assert orthonormality(torch.cat([basis, new.Q], dim=1)) < 30 * eps(dtype)


@pytest.mark.parametrize("floor", [0.0, 1e-12])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_no_more_columns_than_the_space_has_left(left, floor):
    basis = orthonormal(8, 8 - left, 1)
    W = torch.randn(8, 4, dtype=torch.float64, generator=generator())
    new = orthogonalize_block(basis, W, floor=floor, generator=generator())
    assert new.Q.shape == (8, left)
    check(basis, W, new, floor, torch.float64)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_does_not_matter(scale, dtype):
    basis = orthonormal(40, 4, 1).to(dtype)
    W = (scale * torch.randn(40, 5, dtype=torch.float64, generator=generator())).to(dtype)
    new = orthogonalize_block(basis, W, floor=eps(dtype) * scale, generator=generator())
    assert new.rank == 5
    check(basis, W, new, eps(dtype) * scale, dtype)


def test_random_columns_are_orthogonal_to_both_blocks():
    all_of_it = orthonormal(30, 12, 1)
    basis, block = all_of_it[:, :8], all_of_it[:, 8:]
    fresh = random_columns(basis, 18, generator(), block=block)
    assert orthonormality(torch.cat([basis, block, fresh], dim=1)) < 1e-13


def test_random_columns_depend_on_the_generator_alone():
    one, same, other = (random_columns(torch.empty(9, 0), 2, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 70, 100])
def test_images_of_singular_vectors_become_orthonormal(dtype, rank):
    s = torch.zeros(100, dtype=torch.float64)
    s[:rank] = torch.logspace(0, -3, rank)
    U = orthonormal(150, 100, 1)
    images = (U * s).to(dtype)
    found = orthonormal_images(images, s.to(dtype), generator())
    assert orthonormality(found) < 30 * eps(dtype)
    overlap = (found.double() * U).sum(dim=0)[:rank]
    assert (1 - overlap).abs().max() < 1e4 * eps(dtype) if rank else True


def test_orthonormality_of_long_columns_is_right():
    rows = torch.randn(4, 1 << 22, generator=generator())
    basis = torch.linalg.qr(rows.T.double())[0].float()
    wide = basis.double()
    truth = (wide.T @ wide - torch.eye(4)).abs().max()
    assert (orthonormality(basis) - truth).abs() < 2e-7


@pytest.mark.parametrize("entry", [0.25, -0.25])
def test_orthonormality_sees_one_bad_entry(entry):
    Q = torch.eye(5)[:, :3].clone()
    Q[1, 0] = entry
    assert orthonormality(Q) == pytest.approx(0.25)
