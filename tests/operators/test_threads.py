"""Operators made and multiplied in several threads of a process."""

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


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_batches_may_be_multiplied_in_threads(derivatives):
    """Forward mode has levels that belong to the process."""
    torch.manual_seed(0)
    points = torch.randn(4, 3, 6)

    def multiply_again_and_again(seed):
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()
        J = JacobianOperator(net, points[seed], batch_dims=1, derivatives=derivatives)
        expected = torch.func.vmap(torch.func.jacrev(net))(points[seed])
        eye = torch.eye(6)
        return expected, [J @ eye for _ in range(60)]

    with ThreadPoolExecutor(4) as threads:
        for expected, found in threads.map(multiply_again_and_again, range(4)):
            torch.testing.assert_close(torch.stack(found), expected.expand(60, -1, -1, -1))
