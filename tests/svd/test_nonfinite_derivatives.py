"""A derivative that is not finite, where the value is: the message names what makes it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import lp_pool2d

from jvpsvd import JacobianOperator, singular_values, spectra, spectral_density, svds
from jvpsvd.errors import NonFiniteError

torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.LPPool2d(2, 2), nn.Flatten()
).eval()
BLACK = torch.zeros(1, 2, 6, 6)
OF_NET = r"module '2' \(LPPool2d\) made it first"


def of_net(**options):
    return JacobianOperator(NET, BLACK, derivatives="transforms", **options)


CALLS = {
    "one value": (lambda: svds(of_net(), 1), OF_NET),
    "all values": (lambda: svds(of_net(), "all"), OF_NET),
    "Golub-Kahan": (lambda: svds(of_net(), 1, method="golub-kahan"), OF_NET),
    "another point": (
        lambda: svds(JacobianOperator(NET, torch.rand(1, 2, 6, 6)).at(BLACK), 1),
        OF_NET,
    ),
    "a point of a batch": (
        lambda: svds(
            JacobianOperator(
                nn.Sequential(nn.Tanh(), nn.LPPool1d(2, 2)),
                torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]),
                batch_dims=1,
            ),
            1,
        ),
        r"1 of 2 .*module '1' \(LPPool1d\) made it first",
    ),
    "the density": (lambda: spectral_density(of_net()), OF_NET),
    "gradients": (lambda: singular_values(NET, BLACK), OF_NET),
    "a function of torch": (
        lambda: svds(JacobianOperator(lambda x: lp_pool2d(x, 2.0, 2), BLACK), 1),
        "torch's lp_pool2d made it first",
    ),
    "a root": (
        lambda: svds(JacobianOperator(torch.sqrt, torch.zeros(3)), 1),
        "torch's sqrt made it first",
    ),
    "a point that is a dict": (
        lambda: svds(JacobianOperator(lambda p: p["a"].sqrt() * 2, {"a": torch.zeros(3)}), 1),
        "torch's sqrt made it first",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_named_with_a_remedy(name):
    call, words = CALLS[name]
    with pytest.raises(
        NonFiniteError, match=f"{words}.*small number under a root, or take float64$"
    ) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_of_many_inputs_the_function_is_spoken_of():
    with pytest.raises(NonFiniteError, match=r"input 0 .*roots and norms have no derivative at 0"):
        spectra(NET, BLACK, k=1, progress=False)


def test_a_small_number_under_the_root_helps():
    def norm(x):
        return (x.square().sum() + 1e-6).sqrt()

    assert svds(JacobianOperator(norm, torch.zeros(3)), 1).s.tolist() == [0.0]
