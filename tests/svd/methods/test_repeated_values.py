"""Values that are repeated as often as a block has columns, or more often, are all found."""

import itertools
import math

import pytest
import torch
from support.svd_problems import Diagonal, memory_for

from benchmarks.problems.random_copies import draw_copies
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
def test_pairs_in_blocks_of_two_cost_a_search_and_no_second_solve(k, dtype, tol):
    truth = laplacian_values(40)
    found, narrow = products(Diagonal(truth.to(dtype)), k, 2, tol=tol)
    _, wide = products(Diagonal(truth.to(dtype)), k, 4, tol=tol)
    assert (found.s.double() - truth[:k]).abs().max() <= tol * truth[0]
    assert narrow <= 1.4 * wide  # a second solve takes at least as many again


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


def test_the_certificate_tells_of_the_search():
    pairs = svds(Diagonal(laplacian_values(40)), 6, method="golub-kahan", block_size=2)
    assert pairs.certificate.complete
    assert "no further copy" in pairs.certificate.evidence
    single = svds(Diagonal(repeated(1)), 6, method="golub-kahan", block_size=2)
    assert "copy" not in single.certificate.evidence


@pytest.mark.parametrize("times", [2, 3, 5])
def test_bases_without_room_for_wider_blocks_are_searched_as_well(times):
    truth = repeated(times)
    request = Request(6, tol=1e-6)
    solver = GolubKahan(block_size=2, widest_block=2, max_size=30)
    found = solver.solve(Diagonal(truth), request, Monitor())
    evidence = found.evidence[0]
    assert evidence.complete
    assert "no further copy" in evidence.evidence
    assert ((found.s - truth[:6]).abs() <= 1e-6).all()


class Watched(Diagonal):
    """diag(d), which notes how many vectors each product takes."""

    def __init__(self, d):
        super().__init__(d)
        self.widths = []

    def _matmat(self, V):
        self.widths.append(V.shape[-1])
        return super()._matmat(V)


def searches(widths):
    """Return the widest product before each search: that is many products of one vector."""
    runs = [(width, len(list(same))) for width, same in itertools.groupby(widths)]
    return [
        max(width for width, _ in runs[:at])
        for at, (width, length) in enumerate(runs)
        if width == 1 and length > 5
    ]


def test_after_a_block_of_probe_columns_a_second_search_excludes_copies():
    """Blocks cannot be twice as wide here, and the first search shows a copy that they miss.

    Whether they miss one is up to rounding, so that some of several starts do.
    """
    seen = []
    for copies, seed in itertools.product((11, 14), range(12)):
        truth = torch.cat([2 * torch.ones(copies), torch.linspace(1, 0, 600 - copies)]).double()
        A, k = Watched(truth), copies + 2
        memory = memory_for(100, (600, 600), k, 8, block_size=2)
        found = svds(A, k, tol=1e-6, method="golub-kahan", block_size=2, memory=memory, seed=seed)
        seen.append(searches(A.widths))
        assert found.converged.all()
        assert found.certificate.complete
        assert "no further copy" in found.certificate.evidence
        assert (found.s - truth[:k]).abs().max() <= 1e-6
    assert any(len(widths) == 2 and widths[0] == 2 and widths[1] > 4 for widths in seen)


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("copies", "width", "k", "gap", "tol", "seeds"),
    [
        (4, 4, 7, 1.7, 1e-2, (12, 23, 36, 50, 67, 72, 82, 89, 95)),
        (4, 4, 7, 3.0, 1e-2, (74,)),
        (4, 4, 7, 1.7, 1e-3, (23, 67)),
        (3, 3, 6, 1.7, 1e-2, (0, 14, 17, 54)),
        (3, 4, 6, 1.7, 1e-2, (95,)),
        (8, 8, 11, 1.7, 1e-2, (25, 39, 55, 111)),
    ],
)
def test_the_last_copies_are_found_at_coarse_tolerances(copies, width, k, gap, tol, seeds, dtype):
    """Steps that reach the tolerance for the other values were too few for the last copy."""
    many = 12 if width == 8 else 9
    copied = [6.0, *[5.0] * copies, *[5 - gap * tol * 6] * many]
    floor = torch.linspace(4, 0.01, 200 - len(copied), dtype=torch.float64)
    truth = torch.cat([torch.tensor(copied, dtype=torch.float64), floor])
    A = Diagonal(truth.to(dtype))
    for seed in seeds:
        found = svds(A, k, tol=tol, method="golub-kahan", block_size=width, seed=seed)
        assert found.converged.all()
        assert ((found.s.double() - truth[:k]).abs() <= tol * 6).all(), seed


@pytest.mark.parametrize("seed", [82, 83, 103, 138, 213, 252, 290])
def test_the_second_of_a_pair_is_found_in_blocks_of_two(seed):
    problem = draw_copies(13084)
    truth = torch.linalg.svdvals(problem.matrix)[:3]
    found = svds(problem.given, **{**problem.options, "seed": seed})
    assert found.converged.all()
    assert ((found.s - truth).abs() <= found.tol * truth[0]).all()


@pytest.mark.parametrize("seed", [52, 186, 208, 306, 314, 321, 345])
def test_a_copy_of_values_that_lie_close_is_searched_for(seed):
    problem = draw_copies(702851)  # 0.6548, a pair of 0.6544 and one of 0.6535; tol 3.8e-4
    truth = torch.linalg.svdvals(problem.matrix)[:5]
    found = svds(problem.given, **{**problem.options, "seed": seed})
    assert found.converged.all()
    assert ((found.s - truth).abs() <= found.tol * truth[0]).all()


def close_values(copies, others, tail):
    """Return 0.83 repeated, other values near it, eight equal ones a gap below, and the rest."""
    leading = torch.tensor([*[0.83] * copies, *others, *[tail] * 8], dtype=torch.float64)
    return torch.cat([leading, torch.linspace(0.54, 0, 80, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("truth", "k", "tol", "seeds"),
    [
        (
            close_values(2, [0.829474], 0.826517),
            3,
            1.908e-3,
            (41, 67, 82, 110, 115, 119, 137, 158, 164, 183),
        ),
        (close_values(2, [0.829407] * 2, 0.817395), 4, 1.0593e-2, (89, 160, 218, 275, 420, 424)),
    ],
)
def test_pairs_with_others_close_to_them_are_found(truth, k, tol, seeds):
    for seed in seeds:
        found = svds(Diagonal(truth), k, tol=tol, method="golub-kahan", block_size=2, seed=seed)
        assert found.converged.all()
        assert ((found.s - truth[:k]).abs() <= tol * truth[0]).all(), seed


def two_groups(copies, high, tol):
    """Return values whose groups of copies lie 1.5 tolerances apart; others begin at `high`."""
    first, second = copies
    values = [1.0, *[0.51] * first, *[0.51 - 1.5 * tol] * second, *[0.51 - 3 * tol] * 9]
    floor = torch.linspace(high, 0.01, 175 - len(values), dtype=torch.float64)
    return torch.cat([torch.tensor(values, dtype=torch.float64), floor])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("width", "k", "copies", "size"), [(8, 26, (8, 14), 54), (2, 10, (1, 7), 28)]
)
@pytest.mark.parametrize("high", [0.44, 0.42])
def test_a_block_of_probe_columns_is_no_evidence_where_bases_restart_at_each_step(
    high, width, k, copies, size, seed
):
    """The second value has more copies than a block and the first probe columns together."""
    tol = 7e-3
    truth = two_groups(copies, high, tol)
    solver = GolubKahan(block_size=width, max_size=size)
    found = solver.solve(Diagonal(truth), Request(k, tol=tol, seed=seed), Monitor())
    guaranteed = found.evidence[0].guaranteed
    assert ((found.s - truth[:k]).abs() <= tol)[:guaranteed].all()
    assert guaranteed > copies[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first", [0, 1])
def test_nor_for_another_matrix_of_the_batch(first, seed):
    tol = 7e-3
    truth = torch.stack([two_groups((8, 14), 0.42, tol), two_groups((3, 3), 0.47, tol)])
    if first:
        truth = truth.flip(0)
    solver = GolubKahan(block_size=8, max_size=54)
    A = MatrixOperator(torch.diag_embed(truth))
    found = solver.solve(A, Request(26, tol=tol, seed=seed), Monitor())
    for evidence, s, true in zip(found.evidence, found.s, truth, strict=True):
        assert not evidence.complete
        assert ((s - true[:26]).abs() <= tol)[: evidence.guaranteed].all()
