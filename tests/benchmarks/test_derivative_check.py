"""The check of products against differences is right on small networks of every kind."""

import pytest

from benchmarks.parts.derivative_check import HONEST, PART, WHOLE, count_outcomes, is_wrong


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of what hides a derivative
@pytest.mark.parametrize("kind", [*HONEST, *WHOLE, *PART])
def test_what_is_said_of_each_kind(kind):
    count = 3 if kind in HONEST else 1
    found = count_outcomes(kind, count)
    assert not {said: seeds for said, seeds in found.items() if seeds and is_wrong(kind, said)}
    assert sum(len(seeds) for seeds in found.values()) == count


def test_what_counts_as_wrong():
    assert is_wrong("networks", "logged")
    assert is_wrong("networks", "refused")
    assert not is_wrong("networks", "silent")
    assert is_wrong("whole: detach", "logged")
    assert not is_wrong("part: detach", "logged")
    assert is_wrong("part: detach", "silent")
