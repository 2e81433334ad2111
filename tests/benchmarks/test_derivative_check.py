"""The check of products against differences is right on small networks of every kind."""

import pytest

from benchmarks.parts.derivative_check import (
    HONEST,
    PART,
    WHOLE,
    count_outcomes,
    draw_functions,
    find_outcome,
    is_wrong,
)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of what hides a derivative
@pytest.mark.parametrize("kind", [*HONEST, *WHOLE, *PART])
def test_what_is_said_of_each_kind(kind):
    count = 3 if kind in HONEST else 1
    found = count_outcomes(kind, count)
    assert not {said: seeds for said, seeds in found.items() if seeds and is_wrong(kind, said)}
    assert sum(len(seeds) for seeds in found.values()) == count


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [*HONEST, *WHOLE, *PART])
def test_a_cast_to_float32_inside_changes_nothing(kind):
    seeds = (1, 3) if kind in HONEST else (1,)
    for seed, (fn, x), derivatives in draw_functions(kind, 1 + max(seeds)):
        if seed in seeds:
            cast = lambda z, fn=fn: fn(z.float()).double()  # noqa: E731
            assert not is_wrong(kind, find_outcome((cast, x.double()), derivatives))


def test_what_counts_as_wrong():
    assert is_wrong("networks", "logged")
    assert is_wrong("networks", "refused")
    assert not is_wrong("networks", "silent")
    assert is_wrong("whole: detach", "logged")
    assert not is_wrong("part: detach", "logged")
    assert is_wrong("part: detach", "silent")
