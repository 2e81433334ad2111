"""A start saves products and never changes what is guaranteed."""

import dataclasses
import functools
import math

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    TOL,
    Diagonal,
    assert_truthful,
    line,
    memory_for,
    repeat,
    rounding,
    spectrum,
    with_values,
)
from support.thinned import thinned

from jvpsvd import MatrixOperator, svds
from jvpsvd.errors import ArgumentError

K = 12
P = 130
SHAPES = ((170, P), (P, 170))
DTYPES = (torch.float32, torch.float64)


def solve(A, start=None, k=K, tol=1e-9, **options):
    return svds(A, k, tol=tol, method="golub-kahan", start=start, **options)


def made(name, shape, seed=0):
    return with_values(spectrum(name, min(shape)), *shape, seed=seed)


def right_side(matrix):
    """All singular vectors of the shorter side, in order."""
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return Vh.mT.contiguous() if matrix.shape[-2] >= matrix.shape[-1] else U


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
@pytest.mark.parametrize("name", ["line", "harmonic", "geometric"])
def test_a_looser_result_saves_products(name, shape):
    matrix = made(name, shape)
    saved = 0
    for seed in range(3):  # one seed alone may save nothing
        loose = solve(matrix, tol=1e-4, seed=seed)
        cold, warm = solve(matrix, seed=seed), solve(matrix, start=loose, seed=seed)
        assert warm.converged.all()
        assert_truthful(warm, spectrum(name, 300), shape)
        saved += cold.products.total - warm.products.total
    assert saved > 0


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
def test_the_answer_itself_saves_most(shape):
    matrix = made("line", shape)
    cold = solve(matrix, tol=1e-6)
    warm = solve(matrix, tol=1e-6, start=cold)
    assert warm.converged.all()
    assert warm.products.total < cold.products.total
    assert_truthful(warm, spectrum("line", 300), shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_a_perturbed_operator_gets_its_own_triplets(name, shape, dtype):
    before = made(name, shape)
    after = before + 1e-3 * made("line", shape, seed=5)
    start = solve(before.to(dtype), tol=TOL[dtype])
    result = solve(after.to(dtype), tol=TOL[dtype], start=start)
    assert_truthful(result, torch.linalg.svdvals(after.to(dtype).double()), shape)
    assert result.converged.all()
    assert result.certificate.sound


def wrong_starts(matrix, shape):
    vectors = right_side(matrix)
    short = min(shape)
    random = torch.randn(short, K, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    other = right_side(made("harmonic", shape, seed=8))[:, :K]
    return {
        "random": random,
        "of another operator": other,
        "the trailing vectors": vectors[:, -K:].contiguous(),
        "without the first": vectors[:, 1 : K + 1].contiguous(),
        "behind a gap": torch.cat([vectors[:, :3], vectors[:, 8:14]], dim=1),
        "one vector": vectors[:, P // 2 : P // 2 + 1].contiguous(),
        "zeros": torch.zeros(short, 3, dtype=torch.float64),
        "one vector, repeated": vectors[:, 4:5].expand(-1, K).contiguous(),
        "far more than k": vectors[:, P // 2 :].contiguous(),
        "huge": 1e150 * random,
        "tiny": 1e-150 * random,
    }


@functools.cache
def wrong_starts_of(name, shape):
    return wrong_starts(made(name, shape), shape)


WRONG = tuple(wrong_starts(torch.eye(P, dtype=torch.float64), (P, P)))


@thinned(
    "name, tol, start", SPECTRA, [1e-2, 1e-4, 1e-9], WRONG,
    keep=3, always=lambda name, tol, start: tol == 1e-2,
)  # fmt: skip
def test_no_start_makes_a_wrong_value_converge(name, tol, start):
    """No converged value is off by more than the tolerance."""
    matrix = made(name, (170, P))
    truth = spectrum(name, P)
    vectors = wrong_starts_of(name, (170, P))[start]
    for k in (1, 3, K):
        result = solve(matrix, vectors, k=k, tol=tol, on_unconverged="ignore")
        allowed = tol * truth[0] + rounding(truth, matrix.dtype, (170, P))
        assert ((result.s - truth[:k]).abs() <= allowed)[result.converged].all()


SHARING = ("random", "of another operator", "zeros")


@thinned("name, shape, dtype, start", SPECTRA, SHAPES, DTYPES, SHARING, keep=2)
def test_a_start_with_a_share_in_everything_is_as_good_as_none(name, shape, dtype, start):
    matrix = made(name, shape)
    vectors = wrong_starts_of(name, shape)[start].to(dtype)
    for k in (1, K):
        result = solve(matrix.to(dtype), vectors, k=k, tol=TOL[dtype])
        assert_truthful(result, torch.linalg.svdvals(matrix.to(dtype).double()), shape)
        assert result.converged.all()


@pytest.mark.parametrize("seed", range(6))
def test_values_that_a_start_is_orthogonal_to_in_a_large_space(seed):
    """A few random columns have a thousandth of each leading vector, and still find all of them."""
    truth = torch.cat([line(3, 2, 6), torch.logspace(0, -6, 1994, dtype=torch.float64)])
    start = torch.zeros(2000, 20, dtype=torch.float64)
    start[torch.arange(6, 26), torch.arange(20)] = 1
    result = solve(Diagonal(truth), start, k=10, tol=1e-5, seed=seed)
    assert_truthful(result, truth, (2000, 2000))
    assert result.converged.all()
    assert ((result.s - truth[:10]).abs() < 1e-4).all()


def test_a_higher_multiplicity_than_the_start_holds():
    truth = torch.cat([repeat(1, 40), line(0.9, 0.1, 560)])
    start = torch.eye(600, dtype=torch.float64)[:, :5]
    result = solve(Diagonal(truth), start.contiguous(), k=30, tol=1e-5)
    assert result.converged.all()
    assert (result.s > 0.9999).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_of_vectors_of_the_shorter_side(shape):
    matrix = made("line", shape)
    cold = solve(matrix, tol=1e-6)
    exact = right_side(matrix)[:, :K].contiguous()
    warm = solve(matrix, exact, tol=1e-6)
    assert warm.converged.all()
    assert warm.products.total < cold.products.total
    assert_truthful(warm, spectrum("line", P), shape)
    again = solve(matrix, exact, tol=1e-6)
    assert torch.equal(warm.s, again.s)
    assert torch.equal(warm.U, again.U)


def test_values_alone_can_start_from_vectors():
    matrix = made("harmonic", (170, P))
    full = solve(matrix)
    bare = solve(matrix, start=full, vectors=False)
    assert bare.U is None
    torch.testing.assert_close(bare.s, full.s)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_starts_from_a_batch(shape):
    batch = torch.stack([made(name, shape, seed=i) for i, name in enumerate(SPECTRA)])
    truth = torch.linalg.svdvals(batch)
    cold = solve(batch, tol=1e-6)
    warm = solve(batch, start=cold, tol=1e-6)
    shuffled = cold.U if shape[0] < shape[1] else cold.Vh.mT
    wrong = solve(batch, start=shuffled.flip(0), tol=1e-6)
    for result in (warm, wrong):
        assert result.converged.all()
        for i in range(len(batch)):
            assert_truthful(result.of(i), truth[i], shape)
    assert warm.products.total < cold.products.total


def test_restarts_after_a_warm_start():
    truth = line(1, 0, 400)
    memory = memory_for(60, (400, 400), 20, 8)
    cold = solve(Diagonal(truth), k=20, tol=1e-6, memory=memory)
    warm = solve(Diagonal(truth), start=cold, k=20, tol=1e-6, memory=memory)
    assert warm.plan.max_size == 60
    assert warm.converged.all()
    assert_truthful(warm, truth, (400, 400))


@pytest.mark.parametrize("quality", ["exact", "random", "trailing"])
@pytest.mark.parametrize("name", ["harmonic", "line", "cliff"])
def test_the_squared_norm_is_estimated_with_its_error(name, quality):
    truth = spectrum(name, 240)
    first_row = {"exact": 0, "trailing": 220}.get(quality)
    start = torch.zeros(240, 20, dtype=torch.float64)
    if first_row is None:
        start = torch.randn(
            240, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
        )
    else:
        start[torch.arange(first_row, first_row + 20), torch.arange(20)] = 1
    off = []
    norm2 = float((truth**2).sum())
    for seed in range(30):
        certificate = solve(
            Diagonal(truth), start, k=20, tol=1e-3, seed=seed, on_unconverged="ignore"
        ).certificate
        assert 0 < certificate.fro2 < math.inf
        assert certificate.fro2_error > 0 or certificate.fro2 == pytest.approx(norm2)
        if certificate.fro2_error:
            off.append((certificate.fro2 - norm2) / certificate.fro2_error)
    if off:
        # Four columns estimate their own spread badly, so the middle is what can be relied on.
        assert torch.tensor(off).abs().median() < 2
        assert abs(torch.tensor(off).median()) < 1.5


def test_bases_that_random_columns_do_not_fit_claim_no_energy():
    truth = line(1, 0, 300)
    start = torch.eye(300, dtype=torch.float64)[:, :10].contiguous()
    memory = memory_for(3, (300, 300), 1, 8, block_size=1)
    result = solve(
        Diagonal(truth), start, k=1, memory=memory, block_size=1, on_unconverged="ignore"
    )
    assert result.plan.max_size == 3
    certificate = result.certificate
    assert certificate.fro2 > 0 or math.isnan(certificate.fro2)
    assert certificate.energy_share != 1.0


def test_rounding_alone_makes_no_certificate_unsound():
    matrix = made("two clusters", (170, P))
    start = right_side(matrix)[:, -K:].contiguous()
    result = solve(matrix, start, k=1, on_unconverged="ignore")
    assert result.residuals.max() < 1e-13
    assert result.certificate.sound


def test_starts_that_cannot_be_used_are_refused():
    matrix = made("line", (170, P))
    bare = svds(matrix, K, vectors=False)
    with pytest.raises(ArgumentError, match="solve it with vectors=True"):
        solve(matrix, bare)
    good = torch.ones(P, 3, dtype=torch.float64)
    bad = good.clone()
    bad[3, 1] = math.nan
    for start in (
        torch.ones(170, 3, dtype=torch.float64),
        torch.ones(P, dtype=torch.float64),
        torch.ones(P, 0, dtype=torch.float64),
        torch.ones(2, P, 3, dtype=torch.float64),
    ):
        with pytest.raises(
            ArgumentError, match=r"start has shape .* give \(130, j\), .* start=result"
        ):
            solve(matrix, start)
    for start in (good.float(), good.long()):
        with pytest.raises(ArgumentError, match=r"start is .* give it in torch.float64"):
            solve(matrix, start)
    with pytest.raises(ArgumentError, match=r"^start holds NaN or infinity; give"):
        solve(matrix, bad)
    with pytest.raises(ArgumentError, match="shape"):
        solve(torch.stack([matrix] * 2), good)
    with pytest.raises(ArgumentError, match="shape"):
        solve(matrix, dataclasses.replace(solve(matrix), Vh=torch.ones(3, 7, dtype=torch.float64)))


@pytest.mark.parametrize("start", [[1.0, 2.0], 3, "cold"])
def test_other_types_of_start_are_refused(start):
    with pytest.raises(ArgumentError, match="start"):
        solve(made("line", (170, P)), start)


def test_the_start_is_not_changed():
    operator = MatrixOperator(made("line", (170, P)))
    first = solve(operator, tol=1e-3)
    clones = first.U.clone(), first.Vh.clone()
    solve(operator, first)
    assert torch.equal(first.U, clones[0])
    assert torch.equal(first.Vh, clones[1])
