"""The convergence test, check by check, without a solver."""

import pytest
import torch
from support.svd_problems import line, repeat

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest, State
from jvpsvd.svd.krylov.multiplicity import (
    block_is_too_narrow,
    count_without_lag,
    guaranteed_count,
)

TARGET = 1e-6
S = line(4, 2, 5)
DONE, FAR, CLOSE = (torch.full((5,), x, dtype=torch.float64) for x in (1e-7, 1.0, 2e-5))
new = ConvergenceTest(TARGET, TARGET)


def test_far_from_the_target_it_expands():
    assert new.check(S, FAR, 3, False, lags=False) == (new, Action.EXPAND)
    assert new.check(S, FAR, 3, True, lags=False) == (new, Action.EXPAND)


def test_one_late_residual_is_enough_to_expand():
    late = DONE.clone()
    late[2] = 1.0
    assert new.check(S, late, 3, False, lags=False)[1] is Action.EXPAND


def test_near_the_target_a_few_probe_columns_are_added_once():
    test, action = new.check(S, CLOSE, 3, False, lags=False)
    assert action is Action.ADD_PROBE_COLUMNS
    probed = test.with_probe(3, 2)
    assert probed.state is State.PROBE
    assert (probed.probe_start, probed.probe_end, probed.values_before_probe) == (3, 5, None)
    assert probed.check(S, CLOSE, 4, False, lags=False) == (probed, Action.EXPAND)


def test_no_matrix_is_done_before_probe_columns_were_added():
    assert new.check(S, DONE, 100, False, lags=False)[1] is Action.ADD_PROBE_COLUMNS


def test_probe_columns_are_waited_for():
    probed = new.with_probe(7, 3)
    checks = [probed.check(S, DONE, step, False, lags=False) for step in (7, 8, 9, 10, 11)]
    assert [action for _, action in checks] == [Action.WAIT] * 3 + [Action.FINISH] * 2
    assert [test.state for test, _ in checks] == [State.PROBE] * 3 + [State.DONE] * 2


def test_a_value_that_rises_late_shows_in_its_residual():
    probed = new.with_probe(7, 3)
    assert probed.check(S, FAR, 10, False, lags=False)[1] is Action.EXPAND
    assert probed.check(S, DONE, 20, False, lags=False)[1] is Action.FINISH


def test_clusters_ask_for_a_block_even_after_a_few_columns():
    for test in (new, new.with_probe(3, 2)):
        assert test.check(S, DONE, 9, True, lags=False) == (test, Action.ADD_PROBE_BLOCK)


def test_clusters_are_resolved_first_where_that_is_cheaper():
    loose = ConvergenceTest(1e-2, 1e-2)
    small = torch.full((5,), 1e-3, dtype=torch.float64)
    sharper, action = loose.check(S, small, 4, True, lags=False)
    assert (action, sharper.tolerance) == (Action.EXPAND, 1e-2)
    assert sharper.target == pytest.approx(1e-3)
    checks = 0
    while action is not Action.ADD_PROBE_BLOCK:
        sharper, action = sharper.check(S, 0 * small, 4, True, lags=False)
        checks += 1
    assert checks <= 4
    assert sharper.target <= 1e-5 * 1.01


def test_sharpening_keeps_the_probe():
    probed = ConvergenceTest(1e-2, 1e-2).with_probe(3, 2)
    sharper, _ = probed.check(S, 0 * S, 9, True, lags=False)
    assert (sharper.state, sharper.probe_start, sharper.probe_end) == (State.PROBE, 3, 5)


def with_block():
    return new.with_probe(5, 5, S.clone())


def test_a_block_is_given_its_steps():
    actions = [with_block().check(S, DONE, step, True, lags=False)[1] for step in (6, 9, 10)]
    assert actions == [Action.WAIT, Action.WAIT, Action.FINISH]


def test_a_value_that_a_block_raised_starts_all_over():
    raised = S.clone()
    raised[4] += 2 * TARGET * float(S[0])
    assert with_block().check(raised, DONE, 8, True, lags=False) == (new, Action.EXPAND)


def test_a_value_raised_by_less_than_the_tolerance_is_rounding():
    raised = S + 0.5 * TARGET * float(S[0])
    assert with_block().check(raised, DONE, 10, True, lags=False)[1] is Action.FINISH


def test_residuals_that_a_block_spoils_start_all_over():
    assert with_block().check(S, FAR, 8, True, lags=False)[1] is Action.EXPAND


def test_zeros_need_no_residual():
    zero = torch.zeros(5, dtype=torch.float64)
    assert new.check(zero, zero, 1, False, lags=False)[1] is Action.ADD_PROBE_COLUMNS
    assert new.with_probe(1, 2).check(zero, zero, 3, False, lags=False)[1] is Action.FINISH


NONE = torch.zeros(12, dtype=torch.float64)


@pytest.mark.parametrize("block_size", [1, 2, 4, 8])
def test_clear_gaps_are_guaranteed_to_the_end(block_size):
    expected = 12 if block_size > 1 else 1  # any single value may be a repeated one
    assert guaranteed_count(line(2, 1, 12), NONE, 1e-5, block_size, torch.float64) == expected


@pytest.mark.parametrize("many", [3, 4, 5])
def test_clusters_as_large_as_the_block_may_hide_more(many):
    s = torch.cat([line(3, 2, 4), repeat(1, many), line(0.9, 0.1, 8 - many)])
    assert guaranteed_count(s, NONE, 1e-5, 4, torch.float64) == (12 if many < 4 else 4 + many)


def test_fewer_values_than_the_block_are_no_cluster():
    assert guaranteed_count(repeat(1, 3), NONE[:3], 1e-5, 4, torch.float64) == 3


def test_residuals_and_rounding_blur_values_together():
    s = torch.cat([1 + line(3e-6, 0, 4), line(0.5, 0.1, 8)])
    assert guaranteed_count(s, NONE, 1e-7, 4, torch.float64) == 12
    close = torch.cat([1 + line(1e-6, 0, 4), line(0.5, 0.1, 8)])
    assert guaranteed_count(close, NONE, 1e-7, 4, torch.float64) == 12
    assert guaranteed_count(close, NONE, 1e-7, 4, torch.float32) == 1
    assert guaranteed_count(s, NONE + 2e-6, 1e-7, 4, torch.float64) == 1
    assert guaranteed_count(s, NONE + 2e-6, 1e-5, 4, torch.float64) == 4


def test_values_within_a_tolerance_of_a_cluster_are_displaced_by_no_more():
    s = torch.cat([repeat(1, 4), repeat(1 - 1e-6, 2), repeat(0.5, 6)])
    assert guaranteed_count(s, NONE, 1e-5, 4, torch.float64) == 6


def test_the_first_of_two_clusters_counts():
    s = torch.cat([repeat(2, 5), repeat(1, 5), repeat(0.5, 2)])
    assert guaranteed_count(s, NONE, 1e-5, 4, torch.float64) == 5


def test_zeros_are_one_cluster_that_displaces_nothing():
    assert guaranteed_count(torch.zeros(9), torch.zeros(9), 1e-5, 4, torch.float32) == 9


def repeated(*counts):
    """Values 1, 1/2, 1/3, …, with these multiplicities."""
    return torch.cat([torch.full((count,), 1 / (i + 1)) for i, count in enumerate(counts)]).double()


@pytest.mark.parametrize(
    ("counts", "narrow"),
    [
        ((1, 1, 1, 1, 1, 1), False),  # all differ
        ((3, 3), False),  # fewer than the block is wide
        ((4, 2), True),
        ((1, 5, 2), True),
        ((6,), False),  # all that are wanted
        ((2, 4), False),  # the last, which a higher multiplicity would not displace
        ((17, 2), False),  # refilled at random
    ],
)
def test_a_block_is_too_narrow_where_a_repeated_value_fills_it(counts, narrow):
    s = repeated(*counts)
    assert block_is_too_narrow(s, torch.zeros_like(s), 1e-4, 4, torch.float64) is narrow


def test_values_that_are_not_sharp_are_no_reason_to_begin_again():
    s = repeated(4, 2)
    assert not block_is_too_narrow(s, torch.full_like(s, 1e-6), 1e-4, 4, torch.float64)
    assert block_is_too_narrow(s, torch.full_like(s, 1e-6), 1e-4, 4, torch.float32)
    assert block_is_too_narrow(s, torch.full_like(s, 1e-10), 1e-4, 4, torch.float64)


def test_while_copies_lag_it_waits_with_its_probe_columns():
    assert new.check(S, DONE, 3, False, lags=True)[1] is Action.ADD_PROBE_COLUMNS
    probed = new.with_probe(3, 2)
    assert probed.check(S, DONE, 9, False, lags=True) == (probed, Action.EXPAND)
    assert probed.check(S, DONE, 9, False, lags=False)[1] is Action.FINISH


PAIR = torch.tensor([4.0, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
TRIPLE = torch.tensor([4.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("s", "residual", "block_size", "count"),
    [
        (PAIR, 1e-2, 1, 1),  # another 4 may come
        (PAIR, 1e-2, 2, 1),
        (PAIR, 1e-3, 2, 5),  # a tenth of the tolerance
        (PAIR, 1e-3, 3, 3),
        (PAIR, 1e-3, 4, 3),
        (PAIR, 1e-5, 4, 5),
        (PAIR, 1e-3, 5, 5),  # of five copies three would be there
        (TRIPLE, 1e-3, 5, 4),
        (TRIPLE, 1e-3, 6, 5),
        (TRIPLE, 1e-3, 8, 5),
        (TRIPLE[:2], 1e-3, 8, 2),  # fewer values than copies
        (TRIPLE[:4], 1e-3, 5, 4),  # nothing follows
        (0 * PAIR, 0.0, 4, 5),
    ],
)
def test_values_that_lagging_copies_cannot_displace(s, residual, block_size, count):
    estimates = residual * 4 * torch.ones_like(s)
    assert count_without_lag(s, estimates, 1e-2, block_size, s.dtype) == count


def test_nothing_lags_at_fine_tolerances():
    assert count_without_lag(PAIR, 4e-5 * torch.ones(5), 1e-5, 4, PAIR.dtype) == 5
