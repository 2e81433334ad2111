"""What a function may read while it is recorded, and views by strides that only reshape."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import TraceError

MASK = torch.tensor([1.0, 1.0, 0.0])


class Masked(nn.Module):
    """Asks its mask in every way, and a number of its weights."""

    def __init__(self, ask):
        super().__init__()
        self._ask, self.linear = ask, nn.Linear(3, 3)

    def forward(self, x, mask):
        y = self.linear(x)
        return y * mask if self._ask(mask, self.linear.weight) else y.tanh()


ASKED = {
    "all": lambda mask, weight: not mask.all(),
    "a clone changed in place": lambda mask, weight: bool(mask.clone().mul_(2).sum() > 1),
    "equal": lambda mask, weight: not torch.equal(mask, torch.ones(3)),
    "item": lambda mask, weight: mask.min().item() == 0,
    "a weight": lambda mask, weight: weight.abs().max().item() > 0,
}


@pytest.mark.parametrize("ask", ASKED)
def test_numbers_that_do_not_depend_on_the_point_are_read(ask):
    torch.manual_seed(0)
    net, x = Masked(ASKED[ask]).eval(), torch.randn(3)
    J = JacobianOperator(net, x, args=(MASK,), derivatives="trace")
    expected = torch.func.jacrev(lambda z: net.linear(z) * MASK)(x).detach()
    torch.testing.assert_close(J.to_dense(), expected)


def test_another_mask_is_noticed():
    torch.manual_seed(0)
    net, x, mask = Masked(ASKED["all"]).eval(), torch.randn(3), MASK.clone()
    J = JacobianOperator(net, x, args=(mask,), derivatives="trace")
    mask.fill_(1)
    expected = torch.func.jacrev(lambda z: net.linear(z).tanh())(x).detach()
    torch.testing.assert_close(J.at(x).to_dense(), expected)


@pytest.mark.parametrize("ask", [lambda x: x.sum() > 0, lambda x: (2 * x).max().item() > 0])
def test_numbers_that_depend_on_the_point_are_not(ask):
    def fn(x):
        return 2 * x if ask(x) else x

    with pytest.raises(TraceError, match=r"it decides by values.*test_reads_and_views.py, line"):
        JacobianOperator(fn, torch.ones(2), derivatives="trace")


class Permuted(nn.Module):
    """Normalises channels, as ConvNeXt does, so that the pooling is given a permuted tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = (
            nn.Conv2d(3, 4, 1),
            nn.LayerNorm(4),
            nn.AdaptiveAvgPool2d(1),
        )

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.pool(y).flatten(1)


def pooled(size):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.LazyLinear(2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [Permuted, lambda: pooled(1), lambda: pooled(2)])
def test_pooling_in_channels_last_order_is_recorded(build, dtype):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8, dtype=dtype)
    net = build().to(dtype).eval()
    net(x)
    net = net.to(memory_format=torch.channels_last)
    point = x.to(memory_format=torch.channels_last)
    J = JacobianOperator(net, point, derivatives="trace")
    expected = torch.func.jacrev(net)(x).detach().reshape(J.shape)
    torch.testing.assert_close(J.to_dense(), expected, rtol=1e-4, atol=1e-6)
