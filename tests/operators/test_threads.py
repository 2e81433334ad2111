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
