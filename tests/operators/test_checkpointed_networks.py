"""Networks with gradient checkpointing whose weights are replaced while they run."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jvpsvd import JacobianOperator

WAYS = pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
KINDS = pytest.mark.parametrize("use_reentrant", [False, True])


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def segment(self, x):
        return self.first(x).tanh()

    def forward(self, x):
        return self.last(self.segment(x)).tanh()


class Checkpointed(Plain):
    def __init__(self, use_reentrant=False):
        super().__init__()
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return self.last(checkpoint(self.segment, x, use_reentrant=self.use_reentrant)).tanh()


def networks(use_reentrant=False):
    torch.manual_seed(0)
    net = Checkpointed(use_reentrant).eval()
    plain = Plain().eval()
    plain.load_state_dict(net.state_dict())
    return net, plain, torch.randn(1, 6)


@WAYS
@KINDS
def test_it_is_differentiated_in_another_dtype(derivatives, use_reentrant):
    net, plain, x = networks(use_reentrant)
    wide = copy.deepcopy(plain).double()
    expected = torch.func.jacrev(wide)(x.double()).detach().reshape(4, 6)
    J = JacobianOperator(net, x, dtype=torch.float64, derivatives=derivatives)
    torch.testing.assert_close(J.to_dense(), expected)
    torch.testing.assert_close(J.T.to_dense(), expected.T)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_it_is_differentiated_by_its_parameters(dtype):
    net, plain, x = networks()
    x = x.to(dtype or x.dtype)
    J, expected = (JacobianOperator.wrt_parameters(f, x, dtype=dtype) for f in (net, plain))
    torch.testing.assert_close(J.to_dense(), expected.to_dense())
    elsewhere = {name: 2 * value.to(x.dtype) for name, value in net.state_dict().items()}
    torch.testing.assert_close(J.at(elsewhere).to_dense(), expected.at(elsewhere).to_dense())


def test_checkpoints_are_as_they_were_afterwards():
    net, _, x = networks()
    before = dict(vars(torch.utils.checkpoint))
    JacobianOperator(net, x, dtype=torch.float64)
    after = vars(torch.utils.checkpoint)
    assert all(after[name] is value for name, value in before.items())


def test_the_context_of_its_forward_pass_is_entered():
    scale = [1.0]

    @contextlib.contextmanager
    def doubled():
        scale[0] = 2.0
        try:
            yield
        finally:
            scale[0] = 1.0

    class Scaled(Plain):
        def forward(self, x):
            return checkpoint(
                lambda z: scale[0] * self.segment(z),
                x,
                use_reentrant=False,
                context_fn=lambda: (doubled(), doubled()),
            )

    torch.manual_seed(0)
    net, x = Scaled().eval(), torch.randn(1, 6)
    J = JacobianOperator(net, x, dtype=torch.float64)
    torch.testing.assert_close(J.value.float(), net(x).detach())
    wide = copy.deepcopy(net).double()
    expected = 2 * torch.func.jacrev(wide.segment)(x.double()).detach().reshape(5, 6)
    torch.testing.assert_close(J.to_dense(), expected)
