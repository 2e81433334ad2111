import pytest
import scipy.linalg
import torch
from support.svd_problems import line, orthonormal, repeat, with_values

from jvpsvd.svd.kernels.dense import dense_svd, leading_svd, svd_by_qr_iteration


@pytest.mark.parametrize("decompose", [dense_svd, svd_by_qr_iteration])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (12, 5), (5, 12)])
def test_both_ways_give_the_thin_decomposition(decompose, dtype, shape):
    s = torch.cat([repeat(2, 1), line(2, 0, min(shape) - 1)])
    matrix = with_values(s, *shape).to(dtype)
    U, found, Vh = decompose(matrix)
    eps = torch.finfo(dtype).eps
    assert U.dtype == found.dtype == Vh.dtype == dtype
    assert (U.shape, Vh.shape) == ((shape[0], min(shape)), (min(shape), shape[1]))
    assert torch.allclose(found.double(), s, atol=20 * eps)
    assert (U * found @ Vh - matrix).abs().max() < 60 * eps


def test_a_transposed_view_is_decomposed_as_it_reads():
    matrix = orthonormal(6, 4, 1).T * line(4, 1, 6)
    U, s, Vh = svd_by_qr_iteration(matrix)
    assert torch.allclose(U * s @ Vh, matrix)


@pytest.mark.parametrize("kind", ["slope", "flat", "repeated", "cliff"])
@pytest.mark.parametrize(("rows", "k"), [(300, 1), (300, 200), (1200, 40)])
def test_the_leading_part_is_that_of_the_whole(kind, rows, k):
    s = {
        "slope": line(1, 0.01, rows),
        "flat": repeat(1, rows),
        "repeated": torch.cat([repeat(1, 30), repeat(0.5, 30), line(0.4, 0.1, rows - 60)]),
        "cliff": torch.cat([repeat(1, 2), repeat(2e-3, rows - 2)]),
    }[kind].double()
    matrix = with_values(s, rows, rows).double()
    U, found, Vh = leading_svd(matrix, k, loss=1e-9)
    assert (U.shape, found.shape, Vh.shape) == ((rows, k), (k,), (k, rows))
    assert (found - s[:k]).abs().max() < 1e-12
    assert (found.diff() <= 0).all()
    assert (matrix @ Vh.mT - U * found).abs().max() < 1e-11
    assert (matrix.mT @ U - Vh.mT * found).abs().max() < 1e-11
    for basis in (U, Vh.mT):
        assert (basis.mT @ basis - torch.eye(k)).abs().max() < 1e-9


@pytest.mark.parametrize("loss", [1e-9, 0.0])
def test_what_squares_would_lose_is_left_to_the_whole_decomposition(loss):
    s = torch.cat([repeat(1, 1), line(1e-9, 1e-10, 299)]).double()
    matrix = with_values(s, 300, 300).double()
    U, found, Vh = leading_svd(matrix, 5, loss)
    assert (found - s[:5]).abs().max() < 1e-15
    assert (Vh @ Vh.mT - torch.eye(5)).abs().max() < 1e-13
    assert (U.mT @ U - torch.eye(5)).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("rows", "k", "loss", "partial"),
    [(1200, 400, 1e-9, 1), (1200, 401, 1e-9, 0), (1199, 10, 1e-9, 0), (1200, 400, 0.0, 0)],
)
def test_only_leading_vectors_are_computed_where_that_is_cheaper(
    rows, k, loss, partial, monkeypatch
):
    calls, eigh = [], scipy.linalg.eigh

    def counted(*arguments, **options):
        calls.append(options["subset_by_index"])
        return eigh(*arguments, **options)

    monkeypatch.setattr(scipy.linalg, "eigh", counted)
    leading_svd(torch.diag(line(1, 0.1, rows)).double(), k, loss)
    assert calls == [(rows - k, rows - 1)] * partial


def test_every_matrix_of_a_batch_has_its_leading_part():
    matrix = torch.stack([with_values(line(top, 0.1, 300), 300, 300) for top in (1, 2)]).double()
    U, s, Vh = leading_svd(matrix, 3, loss=1e-9)
    assert (U.shape, s.shape, Vh.shape) == ((2, 300, 3), (2, 3), (2, 3, 300))
    assert torch.allclose(s[:, 0], torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_a_matrix_of_a_batch_keeps_digits_that_squares_would_lose():
    s = torch.stack([line(1, 0.1, 40), torch.cat([repeat(1, 1), line(1e-9, 1e-10, 39)])])
    matrix = torch.stack([with_values(values, 40, 40) for values in s]).double()
    U, found, Vh = leading_svd(matrix, 5, loss=1e-9)
    assert (found - s[:, :5]).abs().max() < 1e-14
    for basis in (U, Vh.mT):
        assert (basis.mT @ basis - torch.eye(5)).abs().max() < 1e-13


def test_where_the_eigensolver_gives_up_the_whole_decomposition_takes_over(monkeypatch):
    def gives_up(gram):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    matrix = with_values(line(1, 0.1, 30), 30, 30).double()
    assert torch.allclose(leading_svd(matrix, 3, loss=1e-9)[1], line(1, 0.1, 30)[:3].double())
