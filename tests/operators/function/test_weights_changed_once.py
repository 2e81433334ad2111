"""A network that rescales its weights at its first call, as RWKV does."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map


class Rescaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.is_rescaled = False

    def forward(self, x):
        if not self.is_rescaled:
            with torch.no_grad():
                self.second.weight.div_(2)
            self.is_rescaled = True
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("cut", [True, False])
def test_weights_are_rescaled_once(derivatives, cut):
    torch.manual_seed(0)
    net = Rescaled().double().eval()
    x, weight = torch.randn(3, dtype=torch.float64), net.second.weight.detach().clone()
    f, z = layer_map(net, x, to="output", since="first") if cut else (net, x)
    if not cut:
        net(x)
    J = JacobianOperator(f, z, derivatives=derivatives)
    torch.testing.assert_close(net.second.weight.detach(), weight / 2)
    expected = torch.func.jacrev(f)(z).detach()
    torch.testing.assert_close(J.to_dense(), expected)
