"""A batch is solved in lock step: each matrix gets what it would get alone, then leaves."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.svd_problems import SPECTRA, TOL, assert_truthful, line, repeat, spectrum, with_values
from support.thinned import thinned
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, spectra, svds
from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.svd.certificate import certify, converged_mask
from jvpsvd.svd.memory import Footprint
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request

METHODS = ("golub-kahan", "exact", "randomized")
DTYPES = (torch.float32, torch.float64)
SHORT = 120
SHAPES = ((150, SHORT), (SHORT, 150))


def all_spectra(shape, dtype):
    """A batch of one matrix for each spectrum, with singular vectors of its own."""
    short = min(shape)
    matrices = [
        with_values(spectrum(name, short), *shape, seed=i) for i, name in enumerate(SPECTRA)
    ]
    return torch.stack(matrices).to(dtype)


def truths(batch):
    return torch.linalg.svdvals(batch.double())


def assert_own_triplets(result, batch, rounding=100):
    """Every U, s, Vh belongs to the matrix at its index: A V = U S and A'U = V S."""
    A, U, s, V = (x.double() for x in (batch, result.U, result.s, result.Vh.mT))
    slack = rounding * torch.finfo(batch.dtype).eps * s[:, :1]
    allowed = result.residuals.double() + slack
    assert (torch.linalg.vector_norm(A @ V - U * s[:, None], dim=-2) <= allowed).all()
    assert (torch.linalg.vector_norm(A.mT @ U - V * s[:, None], dim=-2) <= allowed).all()


def same(one, two):
    parts = (getattr(one, name) for name in ("U", "s", "Vh", "residuals", "converged"))
    others = (getattr(two, name) for name in ("U", "s", "Vh", "residuals", "converged"))
    return all(torch.equal(x, y) for x, y in zip(parts, others, strict=True))


@thinned("k, shape, method, dtype", [1, 15, SHORT], SHAPES, METHODS, DTYPES, keep=2)
def test_every_matrix_gets_what_it_would_get_alone(k, shape, method, dtype):
    batch = all_spectra(shape, dtype)
    silent = {"on_unconverged": "ignore"} if method == "randomized" else {}
    result = svds(batch, k, tol=TOL[dtype], method=method, **silent)
    truth = truths(batch)
    assert (result.U.shape, result.s.shape) == ((13, shape[0], k), (13, k))
    assert result.Vh.shape == (13, k, shape[1])
    assert len(result.certificates) == 13
    assert_own_triplets(result, batch)
    for i, matrix in enumerate(batch):
        alone = svds(matrix, k, tol=TOL[dtype], method=method, **silent)
        assert_truthful(result.of(i), truth[i], shape)
        both = result.converged[i] & alone.converged
        allowed = 10 * TOL[dtype] * float(truth[i, 0])
        assert ((result.s[i] - alone.s).abs()[both] <= allowed).all()
        assert bool(result.of(i).certificate.sound)
    if method != "randomized" or k == SHORT:
        assert result.converged.all()
        assert all(certificate.complete for certificate in result.certificates)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_alone_are_the_same_values(shape, seed):
    batch = all_spectra(shape, torch.float64)
    full, bare = (
        svds(batch, 15, tol=1e-9, method="golub-kahan", vectors=wanted, seed=seed)
        for wanted in (True, False)
    )
    assert bare.U is None
    assert bare.Vh is None
    assert bare.converged.all()
    assert ((full.s - bare.s).abs() <= 1e-9 * full.s[:, :1]).all()
    for i in range(len(batch)):
        assert_truthful(bare.of(i), truths(batch)[i], shape)


@pytest.mark.parametrize("vectors", [True, False])
def test_finished_matrices_leave(vectors):
    steep = torch.logspace(0, -30, 200, dtype=torch.float64)
    matrices = [with_values(steep, 220, 200, seed=i) for i in range(9)]
    matrices.insert(4, with_values(line(1, 0.5, 200), 220, 200, seed=9))
    options = {"k": 10, "tol": 1e-9, "method": "golub-kahan", "vectors": vectors}
    slowest, easy = MatrixOperator(matrices[4]), MatrixOperator(matrices[0])
    svds(slowest, **options)
    svds(easy, **options)
    A = MatrixOperator(torch.stack(matrices))
    result = svds(A, **options)
    assert result.converged.all()
    assert easy.products.total < 0.6 * slowest.products.total
    # In lock step until the easy ones are done; the slowest then goes on alone.
    assert A.products.total < 0.7 * 10 * slowest.products.total
    assert result.products == A.products


def test_leaving_mixes_nothing_up():
    """Matrices of one spectrum shape but different sizes of values leave one after the other."""
    flat = [1e-30, 0.9, 1e-12, 0.99, 1e-3, 0.5]
    spectra = [
        (i + 1) * torch.logspace(0, float(torch.tensor(last).log10()), 150, dtype=torch.float64)
        for i, last in enumerate(flat)
    ]
    batch = torch.stack([with_values(s, 150, 180, seed=i) for i, s in enumerate(spectra)])
    counts = []
    A = MatrixOperator(batch)
    result = svds(A, 8, tol=1e-10, method="golub-kahan", progress=lambda x: counts.append(x))
    assert result.converged.all()
    assert_own_triplets(result, batch)
    for i, s in enumerate(spectra):
        assert_truthful(result.of(i), s, (150, 180))
        norm2 = float((s**2).sum())
        certificate = result.of(i).certificate
        assert abs(certificate.fro2 - norm2) <= 6 * certificate.fro2_error + 1e-9 * norm2


def test_a_matrix_that_is_not_finite_is_named():
    batch = torch.stack([with_values(line(1, 0.1, 50), 60, 50, seed=i) for i in range(5)])
    batch[2, 3, 4] = float("nan")
    for method in METHODS:
        with pytest.raises(NonFiniteError, match="operator 2 of 5"):
            svds(batch, 3, method=method)
        with pytest.raises(NonFiniteError, match="50 x 60 operator 2 of 5"):
            svds(MatrixOperator(batch.mT).T, 3, method=method)


def late_poison(batch, poisoned, after):
    class Late(MatrixOperator):
        def __init__(self, matrices, names):
            super().__init__(matrices)
            self.names = names

        def _matmat(self, V):
            block = super()._matmat(V)
            calls.append(len(self.names))
            if len(calls) > after and poisoned in self.names:
                block = block.clone()
                block[self.names.index(poisoned), 0, -1] = float("nan")
            return block

        def _select(self, index):
            names = [self.names[i] for i in index.tolist()]
            return Late(self.matrix[index], names)

    calls = []
    return Late(batch, list(range(len(batch)))), calls


def test_a_matrix_that_turns_bad_after_others_left_is_named_by_its_index():
    steep = torch.logspace(0, -30, 200, dtype=torch.float64)
    matrices = [with_values(steep, 200, 200, seed=i) for i in range(4)]
    matrices.append(with_values(line(1, 0.5, 200), 200, 200, seed=9))
    A, calls = late_poison(torch.stack(matrices), poisoned=4, after=15)
    with pytest.raises(NonFiniteError, match="operator 4 of 5"):
        svds(A, 10, tol=1e-9, method="golub-kahan")
    assert calls[-1] == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_a_batch_of_one(shape, method):
    matrix = with_values(spectrum("harmonic", 60), *shape)
    result, alone = (
        svds(A, 6, method=method, on_unconverged="ignore") for A in (matrix[None], matrix)
    )
    assert result.s.shape == (1, 6)
    torch.testing.assert_close(result.of(0).s, alone.s)
    torch.testing.assert_close(result.of(0).U, alone.U, atol=1e-4, rtol=0)
    assert result.products == alone.products
    assert result.of(0).certificate.evidence == alone.certificate.evidence
    assert result.of(-1).s.equal(result.of(0).s)


@pytest.mark.parametrize("index", [1, -2])
def test_there_is_no_matrix_beyond_the_batch(index):
    result = svds(torch.eye(5)[None], 2)
    with pytest.raises(ArgumentError, match="a batch of 1"):
        result.of(index)
    with pytest.raises(ArgumentError, match="no batch"):
        svds(torch.eye(5), 2).of(0)
    with pytest.raises(ArgumentError, match="each matrix"):
        result.dimension()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [40, 60])
def test_restarts_in_a_batch(columns, dtype, shape):
    batch = all_spectra(shape, dtype)
    A = MatrixOperator(batch)
    A = A if shape[0] > SHORT else A.T
    solver = GolubKahan(block_size=8, max_size=columns)
    triplets = solver.solve(A, Request(15, tol=TOL[dtype]), Monitor())
    certificates = certify(A, triplets, 0)
    assert all(certificate.sound for certificate in certificates)
    converged = converged_mask(triplets, TOL[dtype], certificates)
    for i, truth in enumerate(truths(batch)):
        result = SimpleNamespace(
            s=triplets.s[i],
            residuals=triplets.residuals[i],
            converged=converged[i],
            tol=TOL[dtype],
        )
        # Rounding adds up over many restarts; it stays far below any tolerance.
        assert_truthful(result, truth, shape, rounding_factor=4)
    # A matrix that ends without evidence has used up its restarts. The others are not affected.
    steep = [SPECTRA.index(name) for name in ("harmonic", "geometric", "low rank", "zero", "cliff")]
    assert converged[steep].all()
    if columns == 60:
        assert converged.all()


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_progress_is_over_the_whole_batch(method):
    batch = all_spectra((150, SHORT), torch.float64)
    checks = []
    result = svds(batch, 10, method=method, progress=checks.append)
    assert result.converged.all()
    assert {check.wanted for check in checks} == {130}
    assert all(0 <= check.converged <= 130 for check in checks)
    assert checks[-1].converged == 130
    products = [check.products.total for check in checks]
    assert products == sorted(products)
    assert products[-1] <= result.products.total


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_seed_is_one_result(method, dtype):
    batch = all_spectra((150, SHORT), dtype)
    one, two = (svds(batch, 12, method=method, seed=3, on_unconverged="ignore") for _ in range(2))
    assert same(one, two)
    assert one.products == two.products
    assert one.certificates == two.certificates


def mlp():
    return nn.Sequential(nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 45), nn.GELU()), (30,)


def conv():
    layers = (
        nn.Conv2d(2, 6, 3, padding=1, stride=2),
        nn.GELU(),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(64, 50),
    )
    return nn.Sequential(*layers), (2, 8, 8)


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
@pytest.mark.parametrize("make", [mlp, conv])
def test_jacobians_of_networks(make, method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, shape = make()
        model = model.double().eval()
        X = torch.randn(4, *shape, dtype=torch.float64)
    dense = torch.stack([torch.func.jacrev(lambda x: model(x[None])[0])(x).flatten(1) for x in X])
    A = JacobianOperator(lambda x: model(x[None])[0], X, batch_dims=1)
    assert A.shape == dense.shape
    result = svds(A, 12, tol=1e-9, method=method)
    assert result.converged.all()
    truth = truths(dense.detach())
    torch.testing.assert_close(result.s, truth[:, :12], atol=1e-9, rtol=1e-9)
    assert_own_triplets(result, dense.detach())


def test_the_weakest_certificate_speaks_for_a_batch():
    truth = torch.cat([repeat(1, 60), line(0.9, 0.1, 440)])
    batch = torch.stack(
        [with_values(torch.logspace(0, -20, 500, dtype=torch.float64), 500, 500), torch.diag(truth)]
    )
    size = Footprint(500, 500, 20, 8, 2, True)
    result = svds(
        batch,
        20,
        tol=1e-3,
        method="golub-kahan",
        on_unconverged="ignore",
        memory=size.workspace(8) + 40 * size.column,
    )
    assert result.certificate in result.certificates
    if not all(certificate.complete for certificate in result.certificates):
        assert not result.certificate.complete
    for i in range(2):
        assert_truthful(result.of(i), truths(batch)[i], (500, 500))


def halves(count):
    """Copies of a matrix with values in two groups, so that counts are off by what is sampled."""
    groups = torch.linspace(2.2, 1.8, 147), torch.linspace(0.3, 0.1, 150)
    values = torch.cat([torch.tensor([8.0, 7.0, 6.0]), *groups])
    return torch.diag(values).expand(count, -1, -1).clone()


@pytest.mark.parametrize("memory", [None, "1MiB"])
def test_matrices_with_seeds_of_their_own_start_as_they_do_alone(memory):
    """Together, and in parts."""
    seeds = [3, 4, 5, 3, 9, 4]
    options = {"method": "golub-kahan", "block_size": 2, "vectors": False, "memory": memory}
    batch = halves(len(seeds))
    result = svds(batch, 3, seed=seeds, **options)
    assert result.seed == tuple(seeds)
    counts = [result.of(i).spectrum.count(1.0) for i in range(len(seeds))]
    error = counts[0].standard_error
    assert error > 1
    for i, seed in enumerate(seeds):
        alone = svds(batch[i], 3, seed=seed, **options)
        assert result.of(i).seed == seed
        # A batch takes as many steps as its slowest matrix.
        assert counts[i].value == pytest.approx(alone.spectrum.count(1.0).value, abs=0.4 * error)
    values = torch.tensor([count.value for count in counts])
    assert (values[0], values[1]) == (values[3], values[5])
    assert values[:3].unique().numel() == 3


@pytest.mark.parametrize("method", METHODS)
def test_matrices_that_share_a_seed_are_solved_as_with_that_seed_for_each(method):
    batch = all_spectra(SHAPES[0], torch.float32)
    one, each = (
        svds(batch, 15, method=method, seed=seed, on_unconverged="ignore")
        for seed in (2, [2] * len(batch))
    )
    assert same(one, each)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], "seed has 2 numbers for 3 matrices; give one for each, or one for all"),
        ([1, 2, -1], r"seed\[2\]=-1 must be a whole number from 0"),
    ],
)
def test_seeds_must_be_as_many_as_matrices(seed, message):
    with pytest.raises(ArgumentError, match=message):
        svds(halves(3), 3, seed=seed)


def test_a_single_matrix_has_one_seed():
    with pytest.raises(ArgumentError, match=r"seed=\[1\] is for a batch; give one seed"):
        svds(halves(1)[0], 3, seed=[1])


@pytest.mark.parametrize("kind", [tuple, torch.tensor, np.array, lambda seeds: range(3, 6)])
def test_seeds_may_come_in_any_row_of_numbers(kind):
    result = svds(halves(3), 3, seed=kind([3, 4, 5]))
    assert result.seed == (3, 4, 5)


def test_the_largest_seed_serves_spectra_and_batches_as_well():
    net, largest = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval(), 2**63 - 1
    S = spectra(net, torch.randn(2, 4), k=2, seed=largest, progress=False)
    assert int(S["output"].seeds[0]) == largest
    J = JacobianOperator(net, torch.randn(2, 4), batch_dims=1)
    assert svds(J, 2, seed=[largest, largest]).seed == (largest, largest)
