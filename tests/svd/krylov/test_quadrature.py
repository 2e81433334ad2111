import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.quadrature import Recurrences, gauss_rule

N = 90


def spectrum(kind):
    i = torch.arange(1, N + 1, dtype=torch.float64)
    spikes = torch.where(i <= 5, 9 + i, 0.0)
    return {
        "power": 3 / i,
        "line": i / N,
        "exponential": torch.exp(-i / 8),
        "spikes": spikes + (i > 5) * i / N,
        "deficient": torch.where(i < 30, i, 0.0),
        "repeated": (i / 10).ceil(),
    }[kind]


def factorise(values, width, steps, seed=0):
    """The recurrence of a diagonal operator, and its starting block."""
    bases = GolubKahanFactorization(
        MatrixOperator(torch.diag(values)), block_size=width, seed=seed, capacity=width * steps
    )
    bases.initialize()
    while bases.steps < steps and not bases.exhausted:
        bases.expand()
    return Recurrences(bases.B[None], bases.R[None], width, bases.steps), bases.V[:, :width]


def radau_by_hand(rule, threshold):
    """The masses below and at the node τ² of the matrix that is T but for its last block."""
    s, starts, coupling = rule.nodes[0], rule.starts[0], rule.couplings[0] * rule.nodes[0]
    x, width = threshold**2, coupling.shape[0]
    corner = (
        x * torch.eye(width, dtype=s.dtype) + coupling @ torch.diag(1 / (s**2 - x)) @ coupling.T
    )
    whole = torch.cat(
        [torch.cat([torch.diag(s**2), coupling.T], 1), torch.cat([coupling, corner], 1)]
    )
    first = int((s**2 < x).sum())  # as many eigenvalues lie below x, by inertia
    masses = ((starts @ torch.linalg.eigh(whole)[1][: len(s)]) ** 2).sum(0)
    return float(masses[:first].sum()), float(masses[: first + width].sum())


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("kind", ["power", "line", "exponential", "spikes"])
def test_bounds_are_those_of_the_rule_with_a_node_at_the_threshold(kind, width):
    values = spectrum(kind)
    rule = gauss_rule(factorise(values, width, 5)[0])
    thresholds = torch.quantile(values, torch.tensor([0.1, 0.35, 0.8, 0.97]).double()) * 1.01
    low, high = rule.below(thresholds)
    for i, threshold in enumerate(thresholds.tolist()):
        expected = radau_by_hand(rule, threshold)
        assert (float(low[i]), float(high[i])) == pytest.approx(expected, abs=3e-6 * width)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("width", "steps"), [(1, 4), (1, 30), (2, 5), (6, 3), (6, 12), (30, 2)])
@pytest.mark.parametrize(
    "kind", ["power", "line", "exponential", "spikes", "deficient", "repeated"]
)
def test_bounds_hold_for_the_measure_of_the_starting_block(kind, width, steps, seed):
    values = spectrum(kind)
    sample, start = factorise(values, width, steps, seed)
    mass = (start**2).sum(1)
    thresholds = torch.linspace(0.01, 1.1, 25, dtype=torch.float64) * values.max()
    low, high = gauss_rule(sample).below(thresholds)
    for i, threshold in enumerate(thresholds):
        # Rounding moves values: a value at the threshold may fall on either side.
        assert low[i] <= float(mass[values <= threshold * (1 + 1e-9)].sum()) + 1e-8
        assert high[i] >= float(mass[values < threshold * (1 - 1e-9)].sum()) - 1e-8


def test_blocks_bound_more_narrowly_than_their_columns_would():
    values = spectrum("line")
    sample, start = factorise(values, 8, 5)
    thresholds = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
    low, high = gauss_rule(sample).below(thresholds)
    singles = []
    for column in start.T:
        bases = GolubKahanFactorization(
            MatrixOperator(torch.diag(values)), block_size=1, seed=0, capacity=9
        )
        bases.F, bases.R = column[:, None].clone(), torch.zeros(1, 0, dtype=torch.float64)
        while bases.steps < 5:
            bases.expand()
        singles.append((bases.B, bases.R))
    B, R = (torch.stack(each) for each in zip(*singles, strict=True))
    single_low, single_high = gauss_rule(Recurrences(B, R, 1, 5)).below(thresholds)
    assert bool((high - low < 0.95 * (single_high - single_low)).all())


@pytest.mark.parametrize("width", [1, 4])
def test_moments_are_exact_up_to_twice_the_steps(width):
    values, steps = spectrum("line"), 3
    sample, start = factorise(values, width, steps)
    rule = gauss_rule(sample)
    nodes, weights = rule.with_node_at_zero()
    for degree in range(2 * steps + 1):
        exact = float(((start**2).sum(1) * values ** (2 * degree)).sum())
        gauss = float((rule.weights * rule.nodes ** (2 * degree)).sum())
        radau = float((weights * nodes ** (2 * degree)).sum())
        assert radau == pytest.approx(exact, rel=1e-10)
        if degree < 2 * steps:
            assert gauss == pytest.approx(exact, rel=1e-10)
        else:
            assert gauss < exact * (1 - 1e-6)  # the first that it misses


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("width", [1, 4])
def test_both_rules_bound_powers_from_different_sides(width, power):
    values = spectrum("line")
    sample, start = factorise(values, width, 3)
    rule = gauss_rule(sample)
    nodes, weights = rule.with_node_at_zero()
    exact = float(((start**2).sum(1) * values**power).sum())
    gauss = float((rule.weights * rule.nodes**power).sum())
    radau = float((weights * nodes**power).sum())
    assert min(gauss, radau) < exact < max(gauss, radau)
    assert abs(gauss - radau) < 0.2 * exact


def test_a_threshold_at_a_node_or_beyond_all_of_them_is_no_special_case():
    values = spectrum("line")
    rule = gauss_rule(factorise(values, 2, 4)[0])
    node = rule.nodes[0, 3]
    thresholds = torch.stack([node * 1e-9, node, node * (1 + 1e-7), rule.nodes.max() * 1e6])
    low, high = rule.below(thresholds)
    assert torch.isfinite(low).all()
    assert torch.isfinite(high).all()
    assert low[1] == pytest.approx(float(low[2]), abs=1e-4)
    assert high[0] < 0.4
    assert low[3] == pytest.approx(2, abs=1e-4)  # the mass of two columns


@pytest.mark.parametrize("off", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 4e-7])
@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("steps", [2, 3, 6])
def test_copies_of_a_value_lie_on_their_side_of_a_threshold_near_it(steps, width, off):
    values = torch.repeat_interleave(torch.tensor([2.0, 1.0, 0.5]).double(), N // 3)
    sample, start = factorise(values, width, steps)
    mass = (start**2).sum(1)
    thresholds = torch.tensor([1 - off, 1 + off], dtype=torch.float64)
    low, high = gauss_rule(sample).below(thresholds)
    for i, threshold in enumerate(thresholds):
        true = float(mass[values < threshold].sum())
        assert low[i] - 1e-5 * width <= true <= high[i] + 1e-5 * width
        if steps >= 3:  # all three values are found
            assert high[i] - low[i] < 1e-5 * width
