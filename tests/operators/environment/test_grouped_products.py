"""Mixtures of experts by torch's grouped products."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map

grouped = pytest.mark.skipif(
    not hasattr(torch.nn.functional, "grouped_mm"), reason="this torch has no grouped products"
)


class Experts(nn.Module):
    """The two best of some experts for each token, as transformers computes them."""

    def __init__(self, experts, width=8):
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.matrices = nn.Parameter(torch.randn(experts, width, width))

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2)
        chosen, order = chosen.flatten().sort()
        offsets = torch.histc(chosen.float(), len(self.matrices), 0, len(self.matrices) - 1)
        offsets = offsets.cumsum(0, dtype=torch.int32)
        y = torch.nn.functional.grouped_mm(x[order // 2], self.matrices, offs=offsets).tanh()
        return (y * weights.flatten()[order, None])[order.argsort()].unflatten(0, (-1, 2)).sum(1)

    def by_hand(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2)
        y = torch.einsum("td,teds->tes", x, self.matrices[chosen]).tanh()
        return (y * weights[..., None]).sum(1)


@grouped
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("tokens", "experts"), [(2, 8), (7, 3)])
def test_products_are_those_of_the_experts_by_hand(tokens, experts, dtype, derivatives):
    torch.manual_seed(0)
    net = Experts(experts).to(dtype).eval()
    x = torch.randn(tokens, 8, dtype=dtype)
    f, z = layer_map(net, x, to="output")
    J = JacobianOperator(f, z, derivatives=derivatives)
    expected = torch.func.jacrev(net.by_hand)(x).detach().reshape(J.shape)
    torch.testing.assert_close(J @ torch.eye(J.shape[1], dtype=dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=dtype), expected.mT)
    elsewhere = torch.randn(tokens, 8, dtype=dtype)  # other experts
    expected = torch.func.jacrev(net.by_hand)(elsewhere).detach().reshape(J.shape)
    torch.testing.assert_close(J.at(elsewhere).to_dense(), expected)


@grouped
def test_torch_is_as_it_was_afterwards():
    before = torch.nn.functional.grouped_mm
    net = Experts(3).eval()
    JacobianOperator(net, torch.randn(4, 8))
    assert torch.nn.functional.grouped_mm is before
