"""When triplets may be believed, look by look, without a solver."""

import pytest
import torch
from svd_problems import line, repeat

from jvpsvd.svd.krylov.convergence import Verdict, Vigil, too_narrow, trusted

GOAL = 1e-6
S = line(4, 2, 5)
DONE, FAR, NEAR = (torch.full((5,), x, dtype=torch.float64) for x in (1e-7, 1.0, 2e-5))
new = Vigil(GOAL, GOAL)


def test_far_from_the_goal_it_seeks():
    assert new.look(S, FAR, 3, False) == (new, Verdict.SEEK)
    assert new.look(S, FAR, 3, True) == (new, Verdict.SEEK)


def test_one_late_residual_is_enough_to_seek():
    late = DONE.clone()
    late[2] = 1.0
    assert new.look(S, late, 3, False)[1] is Verdict.SEEK


def test_near_the_goal_a_few_random_columns_join_once():
    vigil, verdict = new.look(S, NEAR, 3, False)
    assert verdict is Verdict.ADD_FEW
    joined = vigil.joined(3, 2)
    assert (joined.since, joined.until, joined.before) == (3, 5, None)
    assert joined.look(S, NEAR, 4, False) == (joined, Verdict.SEEK)


def test_no_matrix_is_done_before_random_columns_joined():
    assert new.look(S, DONE, 100, False)[1] is Verdict.ADD_FEW


def test_random_columns_are_waited_for():
    joined = new.joined(7, 3)
    verdicts = [joined.look(S, DONE, steps, False)[1] for steps in (7, 8, 9, 10, 11)]
    assert verdicts == [Verdict.WAIT] * 3 + [Verdict.DONE] * 2


def test_a_value_that_rises_late_shows_in_its_residual():
    joined = new.joined(7, 3)
    assert joined.look(S, FAR, 10, False)[1] is Verdict.SEEK
    assert joined.look(S, DONE, 20, False)[1] is Verdict.DONE


def test_crowds_ask_for_a_block_even_after_a_few_joined():
    for vigil in (new, new.joined(3, 2)):
        assert vigil.look(S, DONE, 9, True) == (vigil, Verdict.ADD_BLOCK)


def test_crowds_are_told_apart_first_where_that_is_cheaper():
    loose = Vigil(1e-2, 1e-2)
    small = torch.full((5,), 1e-3, dtype=torch.float64)
    sharper, verdict = loose.look(S, small, 4, True)
    assert (verdict, sharper.aim, sharper.goal) == (Verdict.SEEK, pytest.approx(1e-3), 1e-2)
    looks = 0
    while verdict is not Verdict.ADD_BLOCK:
        sharper, verdict = sharper.look(S, 0 * small, 4, True)
        looks += 1
    assert looks <= 4
    assert sharper.aim <= 1e-5 * 1.01


def test_sharpening_keeps_what_joined():
    joined = Vigil(1e-2, 1e-2).joined(3, 2)
    sharper, _ = joined.look(S, 0 * S, 9, True)
    assert (sharper.since, sharper.until) == (3, 5)


def block_vigil():
    return new.joined(5, 5, S.clone())


def test_a_block_is_given_its_steps():
    verdicts = [block_vigil().look(S, DONE, steps, True)[1] for steps in (6, 9, 10)]
    assert verdicts == [Verdict.WAIT, Verdict.WAIT, Verdict.DONE]


def test_a_value_that_a_block_raised_starts_all_over():
    raised = S.clone()
    raised[4] += 2 * GOAL * float(S[0])
    vigil, verdict = block_vigil().look(raised, DONE, 8, True)
    assert verdict is Verdict.SEEK
    assert (vigil.until, vigil.before, vigil.aim) == (None, None, GOAL)


def test_a_value_raised_by_less_than_the_goal_is_rounding():
    raised = S + 0.5 * GOAL * float(S[0])
    assert block_vigil().look(raised, DONE, 10, True)[1] is Verdict.DONE


def test_residuals_that_a_block_spoils_start_all_over():
    assert block_vigil().look(S, FAR, 8, True)[1] is Verdict.SEEK


def test_nothing_is_asked_of_zeros():
    zero = torch.zeros(5, dtype=torch.float64)
    assert new.look(zero, zero, 1, False)[1] is Verdict.ADD_FEW
    assert new.joined(1, 2).look(zero, zero, 3, False)[1] is Verdict.DONE


NONE = torch.zeros(12, dtype=torch.float64)


@pytest.mark.parametrize("copies", [1, 2, 4, 8])
def test_clear_gaps_are_trusted_to_the_end(copies):
    expected = 12 if copies > 1 else 1  # any single value may stand for more of its kind
    assert trusted(line(2, 1, 12), NONE, 1e-5, copies, torch.float64) == expected


@pytest.mark.parametrize("many", [3, 4, 5])
def test_as_many_copies_as_can_be_held_may_stand_for_more(many):
    s = torch.cat([line(3, 2, 4), repeat(1, many), line(0.9, 0.1, 8 - many)])
    assert trusted(s, NONE, 1e-5, 4, torch.float64) == (12 if many < 4 else 4 + many)


def test_fewer_values_than_copies_are_no_crowd():
    assert trusted(repeat(1, 3), NONE[:3], 1e-5, 4, torch.float64) == 3


def test_residuals_and_rounding_blur_values_together():
    s = torch.cat([1 + line(3e-6, 0, 4), line(0.5, 0.1, 8)])
    assert trusted(s, NONE, 1e-7, 4, torch.float64) == 12
    close = torch.cat([1 + line(1e-6, 0, 4), line(0.5, 0.1, 8)])
    assert trusted(close, NONE, 1e-7, 4, torch.float64) == 12
    assert trusted(close, NONE, 1e-7, 4, torch.float32) == 1
    assert trusted(s, NONE + 2e-6, 1e-7, 4, torch.float64) == 1
    assert trusted(s, NONE + 2e-6, 1e-5, 4, torch.float64) == 4


def test_values_within_a_tolerance_of_a_crowd_are_displaced_by_no_more():
    s = torch.cat([repeat(1, 4), repeat(1 - 1e-6, 2), repeat(0.5, 6)])
    assert trusted(s, NONE, 1e-5, 4, torch.float64) == 6


def test_the_first_of_two_crowds_counts():
    s = torch.cat([repeat(2, 5), repeat(1, 5), repeat(0.5, 2)])
    assert trusted(s, NONE, 1e-5, 4, torch.float64) == 5


def test_zeros_are_one_crowd_that_displaces_nothing():
    assert trusted(torch.zeros(9), torch.zeros(9), 1e-5, 4, torch.float32) == 9


def alike(*counts):
    """Values 1, 1/2, 1/3, …, so many copies of each."""
    return torch.cat([torch.full((count,), 1 / (i + 1)) for i, count in enumerate(counts)]).double()


@pytest.mark.parametrize(
    ("counts", "narrow"),
    [
        ((1, 1, 1, 1, 1, 1), False),  # all differ
        ((3, 3), False),  # fewer than the block is wide
        ((4, 2), True),
        ((1, 5, 2), True),
        ((6,), False),  # all that are wanted
        ((2, 4), False),  # the last, which more copies would not displace
        ((17, 2), False),  # refilled at random
    ],
)
def test_a_block_is_too_narrow_where_copies_of_a_value_fill_it(counts, narrow):
    s = alike(*counts)
    assert too_narrow(s, torch.zeros_like(s), 1e-4, 4, torch.float64) is narrow


def test_values_that_are_not_sharp_are_no_reason_to_begin_again():
    s = alike(4, 2)
    assert not too_narrow(s, torch.full_like(s, 1e-6), 1e-4, 4, torch.float64)
    assert too_narrow(s, torch.full_like(s, 1e-6), 1e-4, 4, torch.float32)
    assert too_narrow(s, torch.full_like(s, 1e-10), 1e-4, 4, torch.float64)
