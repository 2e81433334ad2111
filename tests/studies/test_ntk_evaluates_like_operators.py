"""`ntk` and `wrt_parameters` evaluate as other operators do: without fast paths, on copies."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, ntk, svds


class Padded(nn.Module):
    """Torch's fast path, which takes no gradients, writes 0 where the encoder is padded."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x):
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        return self.head(self.encoder(x, src_key_padding_mask=padding)).flatten(1)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        return self.linear(x.mul_(2).flatten(1)).tanh()


@pytest.fixture(params=[Padded, InPlace])
def problem(request):
    torch.manual_seed(0)
    net = request.param().double().eval()
    X = torch.randn(3, 3, 4, dtype=torch.float64)
    theta = list(net.parameters())
    values = net(X.clone()).flatten()  # with gradients there is no fast path
    rows = [torch.autograd.grad(value, theta, retain_graph=True) for value in values]
    dense = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return net, X, torch.linalg.svdvals(dense)[:3]


def test_the_tangent_kernel(problem):
    net, X, expected = problem
    before = X.clone()
    kernel = ntk(net, X, k=3)
    assert kernel.method == "assembled"
    torch.testing.assert_close(kernel.values.sqrt(), expected)
    assert torch.equal(X, before)


def test_the_operator_by_parameters(problem):
    net, X, expected = problem
    before = X.clone()
    result = svds(JacobianOperator.wrt_parameters(net, X), 3)
    torch.testing.assert_close(result.s, expected)
    assert torch.equal(X, before)


def test_arguments_by_name_are_copied_too():
    class Two(nn.Linear):
        def forward(self, x, scale):
            return super().forward(x) * scale.add_(1)

    torch.manual_seed(0)
    net, X = Two(3, 2).double().eval(), torch.randn(4, 3).double()
    net_of_one = nn.Linear(3, 2).double().eval()
    inputs = [{"x": x, "scale": torch.ones(1).double()} for x in X]
    expected = ntk(net_of_one, X, k=2).values * 4
    torch.testing.assert_close(ntk(net, inputs, k=2).values, expected)
