import pytest
import torch
from support.svd_problems import line, spectrum, with_values

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError

METHODS = ("golub-kahan", "exact")
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(70, 40), (40, 70), (40, 40)])
def test_the_parts_fit_together(shape, method, dtype):
    matrix = with_values(spectrum("harmonic", 40), *shape).to(dtype)
    result = svds(matrix, 7, method=method)
    m, n = shape
    assert (result.U.shape, result.s.shape, result.Vh.shape) == ((m, 7), (7,), (7, n))
    assert {result.U.dtype, result.s.dtype, result.Vh.dtype, result.residuals.dtype} == {dtype}
    assert result.method == result.plan.method == method
    assert (result.s[:-1] >= result.s[1:]).all()
    tolerance = 50 * torch.finfo(dtype).eps
    assert (result.U.T @ result.U - torch.eye(7)).abs().max() < tolerance
    assert (result.Vh @ result.Vh.T - torch.eye(7)).abs().max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(70, 40), (40, 70)])
@pytest.mark.parametrize("tol", [1e-1, 1e-5])
def test_residuals_are_those_of_real_products(shape, method, dtype, tol):
    matrix = with_values(spectrum("line", 40), *shape).to(dtype)
    result = svds(matrix, 9, tol=tol, method=method)
    A, U, s, V = (part.double() for part in (matrix, result.U, result.s, result.Vh.T))
    forward = torch.linalg.vector_norm(A @ V - U * s, dim=0)
    reverse = torch.linalg.vector_norm(A.T @ U - V * s, dim=0)
    rounding = 30 * torch.finfo(dtype).eps
    assert (torch.maximum(forward, reverse) - result.residuals).abs().max() < rounding
    assert torch.equal(result.converged, result.residuals <= tol * result.s[0])


@pytest.mark.parametrize("method", METHODS)
def test_products_are_those_of_this_solve_alone(method):
    A = MatrixOperator(with_values(spectrum("harmonic", 200), 200, 300))
    A.matmat(torch.ones(300, 5, dtype=torch.float64))
    before = A.products
    result = svds(A, 10, method=method)
    assert result.products == A.products.since(before)
    assert svds(A, 10, method=method).products == result.products


@pytest.mark.parametrize("method", METHODS)
def test_values_alone_are_the_same_values(method):
    matrix = with_values(spectrum("harmonic", 40), 50, 40)
    full, bare = (svds(matrix, 6, method=method, vectors=wanted) for wanted in (True, False))
    assert bare.U is None
    assert bare.Vh is None
    assert torch.equal(full.s, bare.s)
    torch.testing.assert_close(full.residuals, bare.residuals, rtol=0.5, atol=1e-15)


@pytest.mark.parametrize(("k", "taken"), [(None, 500), ("all", 510), (3, 3)])
def test_k_is_500_or_all_or_a_number(k, taken):
    assert svds(torch.eye(510, 520), k, vectors=False).k == taken


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 6, 9)])
def test_k_left_out_is_all_of_a_small_operator(shape):
    matrix = MatrixOperator(torch.randn(shape))
    assert svds(matrix).k == svds(matrix, k="all").k == 6


def test_dimension_counts_the_values_above_a_threshold():
    result = svds(torch.diag(line(5, 1, 9)), 6)
    assert result.dimension() == 6
    assert result.dimension(3.9) == 3
    assert result.dimension(6) == 0


def tanh_layers():
    """Seven tanh layers, whose smallest values float32 cannot resolve."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(64, 64, generator=generator) / 14 for _ in range(7)]

    def fn(x):
        for weight in weights:
            x = torch.tanh(weight.to(x.dtype) @ x)
        return x

    return fn, torch.randn(64, generator=generator)


@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_values_below_their_residual_are_reported_as_such(method):
    fn, x = tanh_layers()
    truth = torch.linalg.svdvals(torch.func.jacrev(fn)(x.double()))
    result = svds(JacobianOperator(fn, x), 64, method=method)
    assert result.converged.all()
    below = result.below_residual
    assert torch.equal(below, result.s < result.residuals)
    assert below[-1]
    assert not below[: 64 // 2].any()
    assert (truth <= result.s + 2 * result.residuals)[below].all()
    count = int(below.sum())
    lie = "lies below its own" if count == 1 else "lie below theirs"
    noise = f"{count} of 64 values {lie} (noise)"
    for text in (str(result), result._repr_html_()):
        assert noise in text
    exact = svds(JacobianOperator(fn, x.double()), 64, method=method)
    assert not exact.below_residual.any()
    assert "below" not in str(exact)


def test_a_value_of_zero_with_no_residual_is_exact():
    assert not svds(torch.zeros(3, 3), 2).below_residual.any()


@pytest.mark.parametrize("method", METHODS)
def test_no_graph_is_recorded(method):
    matrix = with_values(line(1, 0, 20), 20, 20).requires_grad_()
    result = svds(matrix, 3, method=method)
    assert not result.s.requires_grad
    assert not result.U.requires_grad


@pytest.mark.parametrize("index", [None, "0", 1.5, torch.ones(2), slice(None), 7])
def test_a_matrix_of_a_batch_is_named_by_its_index(index):
    result = svds(MatrixOperator(torch.randn(2, 5, 4)), 2)
    with pytest.raises(ArgumentError) as caught:
        result.of(index)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threshold", [None, "1", 1j, torch.ones(2), [1.0]])
def test_a_threshold_is_a_number(threshold):
    result = svds(MatrixOperator(torch.randn(5, 4)), 2)
    with pytest.raises(ArgumentError, match=r"threshold=.* must be a number"):
        result.dimension(threshold)
