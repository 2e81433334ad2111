"""Singular values of functions of single operations of torch, by every way of differentiating."""

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import AdjointError, ArgumentError, DerivativeError, TraceError

# Torch does some operations vector by vector, here and in jacrev, and says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:index_reduce")

linalg, special, fft, F = torch.linalg, torch.special, torch.fft, nn.functional

EYE = torch.eye(4).double()
RIGHT_SIDE = torch.linspace(-1, 1, 8).double().reshape(4, 2)
LEVELS = torch.tensor([0.1, 0.5, 0.83]).double()
GRID = torch.linspace(-2, 2, 5).double()
ROWS = torch.tensor([0, 2, 0, 1])
WINDOW = torch.hann_window(8).double()
ADJACENCY = (EYE + EYE.roll(1, 0)).to_sparse()


def definite(A):
    return A @ A.mT + 2 * EYE


def symmetric(A):
    return A + A.mT


def triangular(A):
    return A.tril() + 3 * EYE


def of_eigenvectors(A):
    values, vectors = linalg.eigh(symmetric(A))
    return vectors @ torch.diag(values.exp()) @ vectors.mT


def of_two_vectors(A):
    U, s, Vh = linalg.svd(A)
    return U[:, :2] * s[:2] @ Vh[:2]


REDUCTIONS = {
    "logcumsumexp": lambda A: torch.logcumsumexp(A, 1),
    "logsumexp": lambda A: torch.logsumexp(A, 1),
    "cummax": lambda A: torch.cummax(A, 1).values,
    "cummin": lambda A: torch.cummin(A, 0).values,
    "cumprod": lambda A: torch.cumprod(A, 1),
    "prod": lambda A: A.prod(1),
    "median": lambda A: A.median(1).values,
    "median of all": lambda A: A.flatten().median(),
    "nanmedian": lambda A: A.nanmedian(1).values,
    "kthvalue": lambda A: A.kthvalue(2, 1).values,
    "mode": lambda A: A.mode(1).values,
    "sort": lambda A: A.sort(1).values ** 2,
    "argsort": lambda A: A.gather(1, A.argsort(1)).cumsum(1),
    "topk": lambda A: A.topk(2, 1).values.sin(),
    "amax": lambda A: A.amax(1) * A.amin(0),
    "aminmax": lambda A: torch.stack(torch.aminmax(A, dim=1)),
    "std": lambda A: torch.cat([A.std(1), A.var(0)]),
    "cov": torch.cov,
    "corrcoef": torch.corrcoef,
    "diff": lambda A: torch.diff(A**2, dim=1),
    "gradient": lambda A: torch.gradient(A**2, dim=1)[0],
    "trapezoid": lambda A: torch.cumulative_trapezoid(A**2, dim=1),
    "renorm": lambda A: torch.renorm(A, 2, 0, 1.0),
}
ENTRIES = {
    "addcmul": lambda A: torch.addcmul(A, LEVELS[0], A.sin(), value=2),
    "addcmul_": lambda A: A.clone().addcmul_(LEVELS[0], A, value=2),
    "addcdiv": lambda A: torch.addcdiv(A, LEVELS[0], A.exp(), value=0.5),
    "addcdiv_": lambda A: A.clone().addcdiv_(LEVELS[0], A.exp(), value=0.5),
    "addr": lambda A: torch.addr(A, A[:, 0], RIGHT_SIDE[:, 0], beta=0.5, alpha=2),
    "searchsorted": lambda A: A * torch.searchsorted(GRID, A.detach()),
    "masked_fill": lambda A: A.masked_fill(A > 0, 0.5) * A,
    "masked_scatter": lambda A: A.masked_scatter(A > 0, A.flip(0)),
    "take_along_dim": lambda A: A.take_along_dim(A.argmax(1, keepdim=True), 1),
    "index_add": lambda A: torch.zeros_like(A).index_add(0, ROWS, A**2),
    "scatter_reduce": lambda A: torch.zeros_like(A).scatter_reduce(
        0, ROWS.expand(4, 4), A, "amax", include_self=False
    ),
    "index_put": lambda A: A.index_put((ROWS[:2],), A[2:] ** 2),
    "unfold": lambda A: A.unfold(1, 2, 1).prod(-1),
    "roll": lambda A: A.roll(1, 0) * torch.rot90(A) * A.flip(1),
    "repeat_interleave": lambda A: A.repeat_interleave(2, 0) ** 2,
    "where": lambda A: torch.where(A > 0, A.exp(), A.sin()),
    "clamp": lambda A: A.clamp(-0.5, 0.5) * A,
    "remainder": lambda A: torch.fmod(A, 0.7) * torch.remainder(A, 0.3),
    "pow": lambda A: (A.abs() + 0.1) ** A,
    "hypot": lambda A: torch.hypot(A, A.mT) + torch.atan2(A, 1 + A.mT**2),
    "copysign": lambda A: torch.copysign(A**2, A.mT),
    "frexp": lambda A: torch.frexp(A).mantissa,
    "polar": lambda A: torch.view_as_real(torch.polar(A.abs() + 0.1, A.mT)),
    "a number chosen": lambda A: A[A > 0],
}
SPECIAL = {
    "i0e": special.i0e,
    "i1": special.i1,
    "erf": special.erf,
    "erfcx": special.erfcx,
    "erfinv": lambda A: special.erfinv(0.9 * A.tanh()),
    "logit": lambda A: special.logit(A.sigmoid()),
    "entr": lambda A: special.entr(A**2 + 0.5),
    "digamma": lambda A: special.digamma(A**2 + 0.5),
    "gammaln": lambda A: special.gammaln(A**2 + 0.5),
    "polygamma": lambda A: special.polygamma(1, A**2 + 0.5),
    "multigammaln": lambda A: special.multigammaln(A**2 + 3, 2),
    "log_ndtr": special.log_ndtr,
    "ndtri": lambda A: special.ndtri(A.sigmoid()),
    "xlogy": lambda A: special.xlogy(A, A.mT**2 + 0.5),
    "xlog1py": lambda A: special.xlog1py(A, A.mT**2 + 0.5),
    "sinc": special.sinc,
    "logaddexp": lambda A: torch.logaddexp(A, A.mT),
}
LINALG = {
    "inv": lambda A: linalg.inv(definite(A) + A),
    "solve": lambda A: linalg.solve(definite(A) + A, RIGHT_SIDE),
    "solve, right side": lambda A: linalg.solve(3 * EYE + 1, A),
    "solve_triangular": lambda A: linalg.solve_triangular(triangular(A), RIGHT_SIDE, upper=False),
    "lstsq": lambda A: linalg.lstsq(A[:, :2], RIGHT_SIDE).solution,
    "cholesky": lambda A: linalg.cholesky(definite(A)),
    "cholesky_solve": lambda A: torch.cholesky_solve(RIGHT_SIDE, linalg.cholesky(definite(A))),
    "eigvalsh": lambda A: linalg.eigvalsh(symmetric(A)),
    "eigh": of_eigenvectors,
    "eigh, vectors": lambda A: linalg.eigh(symmetric(A)).eigenvectors.abs(),
    "eigvals": lambda A: linalg.eigvals(A).abs(),
    "qr": lambda A: torch.cat(list(linalg.qr(A))),
    "svdvals": linalg.svdvals,
    "svd": of_two_vectors,
    "pinv": lambda A: linalg.pinv(A[:, :2]),
    "pinv, hermitian": lambda A: linalg.pinv(definite(A), hermitian=True),
    "det": linalg.det,
    "slogdet": lambda A: torch.stack(list(linalg.slogdet(A))),
    "logdet": lambda A: torch.logdet(definite(A)),
    "matrix_exp": linalg.matrix_exp,
    "matrix_power": lambda A: linalg.matrix_power(A, -2),
    "multi_dot": lambda A: linalg.multi_dot([A, A.mT, A]),
    "norm": linalg.norm,
    "norm, nuclear": lambda A: linalg.norm(A, "nuc"),
    "norm, spectral": lambda A: linalg.norm(A, 2),
    "vector_norm": lambda A: torch.stack([linalg.vector_norm(A, p) for p in (1, 2, 3, torch.inf)]),
    "cond": linalg.cond,
    "lu": lambda A: torch.cat(list(linalg.lu(A)[1:])),
    "lu_solve": lambda A: linalg.lu_solve(*linalg.lu_factor(definite(A)), RIGHT_SIDE),
    "householder_product": lambda A: linalg.householder_product(A.tril(-1), EYE[0] + 0.5),
    "tensorinv": lambda A: linalg.tensorinv(definite(A).reshape(2, 2, 2, 2)),
    "cross": lambda A: linalg.cross(A[:, :3], A[:, 1:].sin()),
    "vander": lambda A: linalg.vander(A[0]),
    "kron": lambda A: torch.kron(A[:2, :2], A[2:, 2:]),
    "vmap": lambda A: torch.vmap(torch.dot)(A, A.mT),
}
FFT = {
    "rfft": lambda A: torch.view_as_real(fft.rfft(A)),
    "ifft": lambda A: fft.ifft(fft.fft(A) * torch.arange(4)).real,
    "fft2": lambda A: fft.fft2(A).abs(),
    "irfft": lambda A: fft.irfft(fft.rfft(A) ** 2, n=4),
    "hfft": lambda A: fft.hfft(A.to(torch.complex128)),
    "stft": lambda A: torch.stft(A.flatten(), 8, 4, window=WINDOW, return_complex=True).abs(),
    "angle": lambda A: fft.fft(A[:, :3])[:, 1].angle(),
}
LAYERS = {
    "glu": F.glu,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "normalize": lambda A: F.normalize(A, dim=1),
    "cosine_similarity": lambda A: F.cosine_similarity(A, A.mT, dim=1),
    "cross_entropy": lambda A: F.cross_entropy(A, torch.arange(4), reduction="none"),
    "interpolate": lambda A: F.interpolate(A[None, None], scale_factor=2, mode="bicubic"),
    "max_unpool2d": lambda A: F.max_unpool2d(*F.max_pool2d(A[None], 2, return_indices=True), 2),
    "lp_pool2d": lambda A: F.lp_pool2d(A[None], 2.0, 2),
    "local_response_norm": lambda A: F.local_response_norm(A[None], 2),
    "bilinear": lambda A: F.bilinear(A, A, torch.ones(2, 4, 4).double()),
    "triplet_margin": lambda A: F.triplet_margin_loss(A, A.mT, A.flip(0), reduction="none"),
}
RECORDED = {**REDUCTIONS, **ENTRIES, **SPECIAL, **LINALG, **FFT, **LAYERS}
NOT_RECORDED = {
    "quantile": lambda A: torch.quantile(A, LEVELS, dim=1),
    "nanquantile": lambda A: torch.nanquantile(A, 0.37, dim=0),
    "lerp_": lambda A: A.clone().lerp_(A.mT, LEVELS[0]),
    "index_reduce": lambda A: torch.ones_like(A).index_reduce(0, ROWS, A, "prod"),
    "gammainc": lambda A: special.gammainc(2 * torch.ones_like(A), A**2 + 0.1),
    "zeta": lambda A: special.zeta(3 * torch.ones_like(A), A**2 + 0.5),
    "ormqr": lambda A: torch.ormqr(A.tril(-1), EYE[0] + 0.5, A),
    "gaussian_nll_loss": lambda A: F.gaussian_nll_loss(A, A.mT, A**2 + 0.1, reduction="none"),
    "one_hot": lambda A: A * F.one_hot(A.argmax(1), 4),
    "sparse.mm": lambda A: torch.sparse.mm(ADJACENCY, A) ** 2,
}
WRONG_IN_TORCH = {
    "bessel_j0": lambda A: special.bessel_j0(A**2 + 0.5),  # torch has no derivative of it
    "chebyshev_polynomial_t": lambda A: special.chebyshev_polynomial_t(A, 3),
    "cdist": lambda A: torch.cdist(A, 2 * A.flip(0)),  # no second one
    "pdist": F.pdist,
    "scatter_reduce, prod": lambda A: torch.ones_like(A).scatter_reduce(
        0, ROWS.expand(4, 4), A, "prod"
    ),
    "cholesky_inverse": lambda A: torch.cholesky_inverse(linalg.cholesky(definite(A))),
    "unique": lambda A: A.unique() ** 2,
}


@pytest.fixture
def points():
    return torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3)).double()


def compare(J, expected):
    """Products and singular values are those of a dense Jacobian."""
    torch.testing.assert_close(J.to_dense(), expected)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0]).double(), expected.T)
    found = svds(J, "all", tol=1e-9)
    assert found.converged.all()
    s = np.linalg.svd(expected.numpy(), compute_uv=False)
    np.testing.assert_allclose(found.s.numpy(), s, rtol=0, atol=1e-8 * s[0])


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_operation_gives_the_singular_values_of_jacrev(name, points, dense):
    fn, (x, moved) = RECORDED[name], points
    J = JacobianOperator(fn, x, derivatives="trace")
    compare(J, dense(fn, x))
    compare(JacobianOperator(fn, x, derivatives="transforms"), dense(fn, x))
    if name != "a number chosen":  # another number of entries at another point
        torch.testing.assert_close(J.at(moved).to_dense(), dense(fn, moved))


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_torch_cannot_record_gives_them_by_transforms(name, points):
    fn, (x, moved) = NOT_RECORDED[name], points
    for point in (x, moved):
        expected = torch.autograd.functional.jacobian(fn, point).reshape(-1, 16)
        compare(JacobianOperator(fn, point), expected)
    with pytest.raises(TraceError) as caught:
        JacobianOperator(fn, x, derivatives="trace")
    assert str(caught.value).startswith("cannot record the function: ")
    assert "Error:" not in str(caught.value)


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("name", WRONG_IN_TORCH)
def test_what_torch_has_no_right_derivative_of_is_refused_in_one_line(name, derivatives, points):
    with pytest.raises((AdjointError, ArgumentError, DerivativeError, TraceError)) as caught:
        JacobianOperator(WRONG_IN_TORCH[name], points[0], derivatives=derivatives)
    assert "\n" not in str(caught.value)


def test_distances_are_refused_with_operations_that_have_derivatives(points, dense):
    x = points[0]
    with pytest.raises(ArgumentError, match=r"vector_norm\(a\[:, None\] - b, dim=-1\)") as caught:
        JacobianOperator(lambda A: torch.cdist(A, A), x)
    assert "\n" not in str(caught.value)
    distances = lambda A: linalg.vector_norm(A[:, None] - 2 * A.flip(0), dim=-1)  # noqa: E731
    compare(JacobianOperator(distances, x, derivatives="trace"), dense(distances, x))


def test_a_sparse_factor_is_named_where_it_cannot_be_recorded(points):
    with pytest.raises(TraceError, match=r"multiplies by a sparse tensor.* A\.to_dense\(\)"):
        JacobianOperator(NOT_RECORDED["sparse.mm"], points[0], derivatives="trace")
