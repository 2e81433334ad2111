import pytest
import torch
from support.svd_problems import (
    Diagonal,
    assert_truthful,
    line,
    repeat,
    solved_by,
    spectrum,
    with_values,
)

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.methods.randomized import BlockKrylov, SubspaceIteration

DTYPES = (torch.float32, torch.float64)
SPECTRA = ("line", "equal", "low rank", "zero", "geometric", "two clusters", "one huge")
SOLVERS = (BlockKrylov(), BlockKrylov(passes=1), SubspaceIteration(), SubspaceIteration(passes=1))


def test_memory_decides_between_the_two():
    A = Diagonal(line(1, 0, 2000))
    roomy = svds(A, 20, method="randomized", on_unconverged="ignore")
    tight = svds(A, 20, method="randomized", memory="10MiB", on_unconverged="ignore")
    assert (roomy.method, tight.method) == ("block-krylov", "subspace-iteration")


@pytest.mark.parametrize("method", ["block-krylov", "subspace-iteration"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_nothing_converged_is_wrong(name, dtype, method):
    truth = spectrum(name, 300)
    A = with_values(truth, 400, 300).to(dtype)
    for k in (1, 10, 40):
        enough = (k + 8 * (k + 16)) * 700 * dtype.itemsize
        memory = None if method == "block-krylov" else enough
        result = svds(A, k, method="randomized", memory=memory, on_unconverged="ignore")
        assert result.method == method
        assert_truthful(result, truth, (400, 300))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("shape", "k"), [((60, 36), 20), ((90, 25), 20), ((5, 1), 1)])
def test_a_block_as_wide_as_the_space_is_exact(solver, shape, k):
    truth = line(1, 0.1, shape[1])
    A = MatrixOperator(with_values(truth, *shape))
    triplets = solved_by(solver, A, k, 1e-5)
    (evidence,) = triplets.evidence
    assert evidence.complete
    assert evidence.fro2_error == evidence.epsilon == 0
    torch.testing.assert_close(triplets.s, truth[:k])


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_products_are_predicted_exactly(passes):
    A = Diagonal(line(1, 0, 500))
    solved_by(BlockKrylov(passes=passes), A, 20, 1e-5)
    assert A.products == (passes * 36, passes * 36)
    B = Diagonal(line(1, 0, 500))
    solved_by(SubspaceIteration(passes=passes), B, 20, 1e-5)
    assert B.products == ((passes + 1) * 36, passes * 36 + 20)


@pytest.mark.parametrize("method", [BlockKrylov, SubspaceIteration])
def test_more_passes_are_more_accurate(method):
    truth = 1 / torch.arange(1, 501, dtype=torch.float64)
    errors = [
        float((solved_by(method(passes=p), Diagonal(truth), 20, 1e-5).s - truth[:20]).abs().max())
        for p in (1, 2, 4)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_blocks_wider_than_k_meet_every_copy_of_a_repeated_value():
    truth = torch.cat([repeat(1, 60), line(0.01, 0, 940)])
    result = svds(Diagonal(truth), 30, method="randomized")
    assert result.converged.all()
    assert result.certificate.complete
    torch.testing.assert_close(result.s, truth[:30])


def test_what_did_not_converge_hides_what_may_be_missing_behind_it():
    triplets = solved_by(BlockKrylov(passes=1), Diagonal(line(1, 0, 500)), 20, 1e-5)
    (evidence,) = triplets.evidence
    assert not evidence.complete
    assert evidence.evidence == "none: 20 triplets did not converge in 1 pass"
    assert evidence.guaranteed == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_energy_is_estimated_without_bias(solver):
    truth = line(1, 0, 300)
    (evidence,) = solved_by(solver, Diagonal(truth), 40, 1e-5).evidence
    energy = float((truth**2).sum())
    assert abs(evidence.fro2 - energy) <= 5 * evidence.fro2_error
    assert 0 < evidence.fro2_error < energy
