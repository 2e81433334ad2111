"""The rank is searched for: enough triplets, few more, and no wrong value."""

import warnings

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    Diagonal,
    assert_truthful,
    line,
    repeat,
    spectrum,
    with_values,
)

from jvpsvd import svds
from jvpsvd.errors import ArgumentError, ConvergenceWarning

N = 300
silent = {"method": "randomized", "tol": 1e-2, "on_unconverged": "ignore"}


@pytest.mark.parametrize("energy", [0.5, 0.9])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_triplets_hold_the_share_of_energy(name, energy):
    truth = spectrum(name, N)
    result = svds(Diagonal(truth), N, energy=energy, **silent)
    held, whole = float((result.s**2).sum()), float((truth**2).sum())
    # ‖A‖²_F is an estimate, and the share is exceeded by two of its standard errors.
    assert held >= energy * (whole - 2 * result.certificate.fro2_error) * (1 - 1e-9)
    needed = int(((truth**2).cumsum(0) < energy * whole).sum()) + 1
    assert needed <= result.s.shape[0] <= needed + max(4, needed // 2)
    assert_truthful(result, truth, (N, N))


@pytest.mark.parametrize("tail", [0.3, 0.01])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "zero"])
def test_no_value_above_the_tail_is_left_out(name, tail):
    truth = spectrum(name, N)
    result = svds(Diagonal(truth), N, tail=tail, **silent)
    # 1/100 equals the tail, so rounding decides.
    above, below = (int((truth >= tail * truth[0] * (1 + by)).sum()) for by in (1e-9, -1e-9))
    assert above <= result.s.shape[0] <= below
    assert_truthful(result, truth, (N, N))


def test_steep_spectra_need_few_products():
    result = svds(Diagonal(spectrum("harmonic", 3000)), 500, energy=0.9, **silent)
    assert result.products.total < 200
    assert result.method == "adaptive-rank"


@pytest.mark.parametrize("shape", [(80, 40), (40, 80)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_follow_the_rank(shape, dtype):
    matrix = with_values(spectrum("geometric", 40), *shape).to(dtype)
    result = svds(matrix, 40, energy=0.99, **silent)
    rank = result.s.shape[0]
    assert rank < 40
    assert (result.U.shape, result.Vh.shape) == ((shape[0], rank), (rank, shape[1]))
    rebuilt = (result.U * result.s) @ result.Vh
    assert float((matrix - rebuilt).square().sum() / matrix.square().sum()) <= 0.01 + 1e-6


def test_k_is_the_maximum():
    result = svds(Diagonal(spectrum("line", N)), 7, energy=0.9, **silent)
    assert result.s.shape == (7,)


def test_the_zero_operator_needs_one_triplet():
    assert svds(torch.zeros(30, 20), 5, energy=0.9, **silent).s.tolist() == [0]


@pytest.mark.parametrize("wanted", [{"energy": 0.9}, {"tail": 0.1}])
def test_what_k_triplets_do_not_reach_is_said(wanted):
    result = svds(Diagonal(spectrum("line", N)), 7, **wanted, **silent)
    ((name, share),) = wanted.items()
    said = f"not shown complete: {name}={share:g} needs more than these 7 triplets; raise k"
    assert said in str(result.certificate)
    enough = svds(Diagonal(spectrum("line", N)), N, **wanted, **silent)
    assert "needs more" not in str(enough.certificate)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_energy_outside_the_bases_is_estimated_well_enough(seed):
    truth = torch.cat([spectrum("geometric", 40) * 10, torch.full((2000,), 0.05).double()])
    result = svds(Diagonal(truth), 500, energy=0.9, seed=seed, **silent)
    assert float((result.s**2).sum() / (truth**2).sum()) >= 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.9}, """^energy= needs method="randomized", got method='auto'$"""),
        ({"tail": 0.9, "method": "exact"}, """^tail= needs method="randomized", got .*'exact'$"""),
        ({"energy": 0.9, "tail": 0.1, "method": "randomized"}, "^energy= and tail= both say"),
        ({"energy": 0.9, "tail": 0.1}, "^energy= and tail= both say"),
        ({"energy": 1.5, "method": "randomized"}, "energy=1.5 must be"),
        ({"tail": 0, "method": "randomized"}, "tail=0 must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        svds(torch.eye(20), 5, **options)


@pytest.mark.parametrize("options", [{}, {"energy": 0.5}, {"tail": 0.1}])
def test_the_warning_names_a_remedy_of_this_method(options):
    matrix = with_values(line(3, 1, 400), 450, 400).float()
    with pytest.warns(ConvergenceWarning, match="missed tol") as caught:
        result = svds(matrix, 30, method="randomized", tol=1e-6, **options)
    (said,) = (str(one.message) for one in caught)
    assert "float64" not in said
    assert f'aims at no tolerance: method="auto" with k={result.k} does' in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svds(matrix, result.k, method="auto", tol=1e-6)


def test_batches_are_refused():
    with pytest.raises(ArgumentError, match="one at a time"):
        svds(torch.ones(3, 20, 20), 5, energy=0.5, **silent)


@pytest.mark.parametrize("multiplicity", [40, 60, 100])
@pytest.mark.parametrize("seed", range(3))
def test_values_that_missing_repetitions_would_displace_are_not_converged(multiplicity, seed):
    """Memory ends the search within the repeated value 1, and values of 3e-6 follow."""
    values = torch.cat([repeat(1, multiplicity), repeat(3e-6, 120 - multiplicity)])
    matrix = with_values(values, 132, 120, seed=seed)
    result = svds(
        matrix,
        38,
        tol=3e-3,
        method="randomized",
        energy=0.95,
        memory=909312,
        vectors=False,
        seed=seed,
        on_unconverged="ignore",
    )
    assert float(result.s[-1]) < 1e-2  # a repetition of 1 is missing
    assert_truthful(result, values, (132, 120))
