"""Fewer parameters than outputs of all inputs: the kernel has eigenvalues that are 0."""

import pytest
import torch
from torch import nn

from jvpsvd import ntk


class Branching(nn.Module):
    """5 parameters, and 3 outputs of each input; torch.func cannot take several at once."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 1, batch_first=True)

    def forward(self, x):
        states = self.rnn(x)[0].flatten(1)
        return states if states.sum() < 1e6 else states.tanh()


@pytest.mark.parametrize("k", ["all", 12, 7, 5])
@pytest.mark.parametrize("block", [None, 2])
def test_a_kernel_that_is_not_assembled_has_them_all(k, block):
    torch.manual_seed(0)
    net = Branching().double().eval()
    X = torch.randn(4, 3, 2, dtype=torch.float64)
    kernel = ntk(net, X, k=k, block=block)
    count = 12 if k == "all" else k
    assert kernel.method != "assembled"
    assert len(kernel.values) == len(kernel.residuals) == count
    theta = list(net.parameters())
    rows = [torch.autograd.grad(v, theta, retain_graph=True) for v in net(X).flatten()]
    J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    K = J @ J.mT
    torch.testing.assert_close(kernel.values, torch.linalg.eigvalsh(K).flip(0)[:count])
    V = kernel.vectors.reshape(12, count)
    torch.testing.assert_close(V.mT @ V, torch.eye(count, dtype=V.dtype))
    residuals = torch.linalg.vector_norm(K @ V - V * kernel.values, dim=0)
    assert (residuals <= kernel.residuals + 1e-10).all()
