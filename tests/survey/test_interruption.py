import contextlib
import signal

import pytest

from jvpsvd.survey import Look, interruptible, unwatched


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_swallowed_is_raised_at_the_next_look(asked):
    """As where it arrives in a finaliser, whose exceptions Python prints and forgets."""
    with interruptible(unwatched) as watch:
        watch(Look())
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(asked)
        with pytest.raises(KeyboardInterrupt):
            watch(Look())


def test_signals_are_as_they_were_afterwards():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with interruptible(unwatched):
        assert all(signal.getsignal(number) not in before for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before
