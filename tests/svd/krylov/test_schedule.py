"""When the next convergence check comes."""

import pytest

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest
from jvpsvd.svd.krylov.schedule import Check, next_check

TEST = ConvergenceTest(1e-4, 1e-4)


def after(*checks, width=8):
    found = [Check(*check) for check in checks]
    return next_check(TEST, Action.EXPAND, found, step=9, width=width, probe_steps=2)


def test_far_from_the_target_it_comes_after_a_sixth_more_columns():
    assert after((600, 1.0, 90)) == 700


def test_near_it_after_a_24th():
    assert after((600, 1e-3, 90)) == 625


def test_near_it_many_triplets_to_go_put_it_off():
    """Twenty converged in 50 columns, so that the other eighty are expected after 200 more."""
    assert after((550, 1e-3, 100), (600, 1e-3, 80)) == 680
    assert after((550, 1e-3, 100), (600, 1e-3, 60)) == 630
    assert after((550, 1e-3, 110), (600, 1e-3, 100)) == 700  # a sixth more at most


def test_triplets_that_have_not_converged_predict_the_end():
    """Ten of them converged in 50 columns, so the last ten are expected after 50 more."""
    assert after((550, 0.9, 20), (600, 0.8, 10)) == 640


@pytest.mark.parametrize("unconverged", [10, 12])
def test_where_none_converged_they_predict_nothing(unconverged):
    assert after((550, 0.9, 10), (600, 0.8, unconverged)) == 700


def test_a_check_comes_after_a_step_at_least():
    assert after((592, 0.9, 90), (600, 0.8, 1)) == 608
