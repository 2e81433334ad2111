"""Under torch.autocast nothing is solved in half precision: one line says to leave it."""

import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd.errors import ArgumentError

torch.manual_seed(0)
A = torch.randn(40, 30)
X = torch.randn(3, 30)
NET = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
J = jvpsvd.JacobianOperator(NET, X[0])

CALLS = {
    "svds of a matrix": lambda: jvpsvd.svds(A, 3),
    "svds of a Jacobian": lambda: jvpsvd.svds(J, 3),
    "product": lambda: J @ X[1],
    "product of the transpose": lambda: J.T @ torch.ones(10),
    "spectral_density": lambda: jvpsvd.spectral_density(A),
    "JacobianOperator": lambda: jvpsvd.JacobianOperator(NET, X[0]),
    "JacobianOperator of a function": lambda: jvpsvd.JacobianOperator(lambda x: A @ x, X[0]),
    "spectra": lambda: jvpsvd.spectra(NET, X, k=2, progress=False),
    "ntk": lambda: jvpsvd.ntk(NET, X, k=2),
    "singular_values": lambda: jvpsvd.singular_values(NET, X, batch_dims=1),
    "adversarial_direction": lambda: jvpsvd.geometry.adversarial_direction(NET, X[:1]),
    "perturbation_response": lambda: jvpsvd.geometry.perturbation_response(
        NET, X[0], torch.eye(30)[:, :1], [0.1]
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_called_under_autocast_says_to_leave_it(call):
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ArgumentError, match=r"autocast computes in bfloat16 here; call"),
    ):
        call()
    call()


def test_a_function_may_use_autocast_inside():
    def fn(x):
        with torch.autocast("cpu", torch.bfloat16):
            return NET(x).float()

    found = jvpsvd.geometry.adversarial_direction(fn, X[:1])
    expected = jvpsvd.geometry.adversarial_direction(NET, X[:1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)
