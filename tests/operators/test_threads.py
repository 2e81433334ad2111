"""Operators made and multiplied in several threads of a process."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo  # whose settings a recording switches
from torch import nn

from jvpsvd import JacobianOperator


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_operators_may_be_made_in_threads(derivatives):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    net = net.append(nn.Linear(144, 5)).eval()
    points = torch.randn(12, 1, 3, 8, 8)
    expected = [torch.func.jacrev(net)(x).reshape(5, -1) for x in points]

    def write_down(x):
        return JacobianOperator(net, x, derivatives=derivatives).to_dense()

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(write_down, points))
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@pytest.fixture
def threads_take_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns")
@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_batches_may_be_multiplied_in_threads(derivatives):
    """Forward mode has levels that belong to the process."""
    torch.manual_seed(0)
    points = torch.randn(1, 3, 6)

    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    expected = torch.func.vmap(torch.func.jacrev(net))(points[0]) @ torch.ones(6)

    def multiply_for_a_second(_):
        J = JacobianOperator(net, points[0], batch_dims=1, derivatives=derivatives)
        end, found = time.monotonic() + 1, []
        while time.monotonic() < end:
            found.append(J @ torch.ones(6))
        return found

    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(multiply_for_a_second, range(3)):
            torch.testing.assert_close(torch.stack(found), expected.expand(len(found), -1, -1))
