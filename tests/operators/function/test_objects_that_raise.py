"""Functions may hold objects that raise errors when they are asked for an attribute."""

import pytest
import torch

from jvpsvd import JacobianOperator, singular_values, svds


class Stubborn:
    def __getattr__(self, name):
        raise RuntimeError(f"there is no {name}")


class Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self, x):
        return 2 * x.sin()


HELD = {"an object": Stubborn, "a namespace of torch.classes": lambda: torch.classes.quantized}


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_what_holds_them_is_differentiated(held, derivatives):
    other, x = held(), torch.zeros(3)
    for fn in (Holder(held()), lambda x: 2 * x.sin() if other is not None else x):
        J = JacobianOperator(fn, x, derivatives=derivatives)
        torch.testing.assert_close(svds(J, 3).s, torch.full((3,), 2.0))
        torch.testing.assert_close(J.at(x + 0).to_dense(), 2 * torch.eye(3))
        torch.testing.assert_close(singular_values(fn, x), torch.tensor([2.0]))
