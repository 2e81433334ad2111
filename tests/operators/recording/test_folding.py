"""Normalisation folded into convolution: the same derivative, fewer passes over a block."""

import pytest
import torch
from torch import nn

from jvpsvd.operators import Trace


def settled(*layers, dtype=torch.float64):
    """A network in evaluation mode whose batch norms have statistics worth folding."""
    torch.manual_seed(0)
    net = nn.Sequential(*layers).to(dtype)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return net.eval().requires_grad_(False)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6())

    def forward(self, x):
        return x + self.inner(x)


class Shared(nn.Module):
    """A convolution whose output is used beside its normalisation: not to be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x):
        y = self.conv(x)
        return torch.cat([y, self.norm(y)])


NETS = {
    "conv bn relu": lambda: [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()],
    "bias": lambda: [nn.Conv2d(3, 6, 3, bias=True), nn.BatchNorm2d(6)],
    "grouped": lambda: [nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU6()],
    "no affine": lambda: [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6, affine=False)],
    "bn first": lambda: [nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)],
    "two in a row": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)],
    "transposed": lambda: [nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()],
    "linear": lambda: [nn.Flatten(), nn.Linear(108, 9), nn.BatchNorm1d(9), nn.Tanh()],
    "residual": lambda: [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Residual(), Residual()],
    "shared": lambda: [Shared()],
    "one channel": lambda: [nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1)],
    "as wide as channels": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softmax(-1)],
}


@pytest.mark.parametrize("name", NETS)
def test_folded_derivatives_are_those_of_the_network(name, dense):
    net = settled(*NETS[name]())
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    trace = Trace(net, torch.randn_like(x))
    (derivative,) = trace.at(x)
    J = dense(net, x)
    images = derivative.jvp(torch.eye(108, dtype=x.dtype).reshape(108, *x.shape))
    torch.testing.assert_close(images.reshape(108, -1).T, J)
    m = J.shape[0]
    images = derivative.vjp(torch.eye(m, dtype=x.dtype).reshape(m, *derivative.value.shape))
    torch.testing.assert_close(images.reshape(m, -1), J)


def operations(side):
    return [str(node.target) for node in side.graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", ["conv bn relu", "bias", "grouped", "no affine", "two in a row"])
def test_no_pass_over_the_block_is_left_for_normalisation(name):
    net = settled(*NETS[name]())
    trace = Trace(net, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    masks = sum(isinstance(layer, nn.ReLU | nn.ReLU6) for layer in net)
    for side in (trace.recording.outputs[0].jvp, trace.recording.outputs[0].vjp):
        left = operations(side)
        assert "convolution" in " ".join(left)
        assert sum("mul" in name for name in left) == masks
        assert not any(word in " ".join(left) for word in ("add", "batch_norm"))


def test_what_is_folded_follows_the_weights_at_every_point(dense):
    """Folded weights are worked out from the parameters, once as long as these stay the same."""
    net = settled(*NETS["conv bn relu"]())
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    trace = Trace(net, x)
    constants = trace.recording.constants
    assert constants.values() is constants.values()
    for change in (lambda: net[0].weight.mul_(-2), lambda: net[1].running_var.add_(1)):
        change()
        images = trace.at(x)[0].vjp(torch.eye(96, dtype=x.dtype).reshape(96, 1, 6, 4, 4))
        torch.testing.assert_close(images.reshape(96, -1), dense(net, x))


def test_depths_fold_on_their_own(dense):
    net = settled(*NETS["residual"]())

    def both(x):
        y = net[1](net[0](x))
        return y, net[3](net[2](y))

    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    for index, derivative in enumerate(Trace(both, x).at(x)):
        J = dense(lambda z, index=index: both(z)[index], x)
        images = derivative.jvp(torch.eye(108, dtype=x.dtype).reshape(108, *x.shape))
        torch.testing.assert_close(images.reshape(108, -1).T, J)
