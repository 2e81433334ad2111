"""A survey on a GPU stores what the same survey on the CPU stores."""

import numpy as np
import pytest

from jvpsvd.survey import verify

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_rows_are_those_of_the_cpu(surveyed, shard, batch):
    here = surveyed([shard], "cpu", device="cpu", batch=batch).store.rows()
    outcome = surveyed([shard], "cuda", device="cuda", batch=batch)
    there = outcome.store.rows()
    assert verify(outcome.store).problems == ()
    assert len(here) == len(there) == 8
    for one, two in zip(here, there, strict=True):
        assert (two.key, two.layer, two.status, two.converged) == (one.key, one.layer, "ok", 10)
        np.testing.assert_allclose(two.s, one.s, atol=2e-6 * one.s[0])


def test_a_run_that_was_begun_on_the_cpu_goes_on_on_the_card(surveyed, shard):
    def stop(progress):
        if progress.photos_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed([shard], device="cpu", batch=2, report=stop)
    outcome = surveyed([shard], device="cuda", batch=None)
    assert (outcome.computed, outcome.skipped, outcome.store.identity.batch) == (2, 2, 2)
    assert verify(outcome.store).problems == ()


def test_auto_takes_the_card_and_vectors_are_stored(surveyed, shard):
    outcome = surveyed([shard], device="auto", vectors=True)
    assert outcome.failures == 0
    assert verify(outcome.store).problems == ()
