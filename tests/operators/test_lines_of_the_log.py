"""Lines of the log: said once for a function, and none where there is nothing to say."""

import numpy as np
import torch

from jvpsvd import JacobianOperator


def test_another_point_says_nothing_again(caplog):
    J = JacobianOperator(
        lambda x: x.sin() + torch.from_numpy(np.sin(x.detach().numpy())), torch.ones(4)
    )
    first = len(caplog.records)
    assert first > 0
    for step in range(1, 4):
        J = J.at(torch.ones(4) * step)
    assert len(caplog.records) == first


def test_a_seed_that_is_set_in_the_function_is_no_memory_of_its_first_call(caplog):
    def fn(x):
        torch.manual_seed(0)
        return x * torch.randn(6)

    JacobianOperator(fn, torch.ones(6))
    assert "keeps something of its first call" not in caplog.text
