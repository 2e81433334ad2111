"""A recording that gives something else than torch.func is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from jvpsvd.errors import TraceError
from jvpsvd.operators import Trace
from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.recording.outputs import Outputs
from jvpsvd.operators.recording.verify_replay import verify_replay


class Wrong:
    """A recorded product whose images are changed."""

    def __init__(self, product, change):
        self.graph, self._product, self._change = product.graph, product, change

    def at(self, *args):
        multiply = self._product.at(*args)
        return lambda block: self._change(multiply(block))


def of_one_direction(images):
    return torch.cat([images[:1] * 1.01, images[1:]])


def of_another_direction(images):
    return images[-1:].expand_as(images)


CHANGES = {
    "one percent": lambda images: 1.01 * images,
    "the first of a block": of_one_direction,
    "the last of a block": lambda images: of_one_direction(images.flip(0)).flip(0),
    "the last for all": of_another_direction,
    "the first for all": lambda images: images[:1].expand_as(images),
    "in reverse": lambda images: images.flip(0),
    "a sum over the block": lambda images: images.sum(0, keepdim=True).expand_as(images),
    "an entry": lambda images: images + 0.01 * images.abs().max() * (images == images.amax()),
}


@pytest.fixture(params=[torch.float32, torch.float64])
def recorded(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(request.param)
    x = torch.randn(5, 6, dtype=request.param)
    outputs = Outputs(net.requires_grad_(False))
    products = outputs.compute_products(x, direction(x), direction(x.new_empty(5, 4)))
    return Trace(net, x).recording, outputs, x, products


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("which", ["jvp", "vjp"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_wrong_product_is_refused(recorded, which, change, check):
    recording, outputs, x, products = recorded
    (output,) = recording.outputs
    wrong = replace(output, **{which: Wrong(getattr(output, which), change)})
    with pytest.raises(TraceError, match=r"own; take out what is random|jvpsvd or torch; report"):
        verify_replay(replace(recording, outputs=(wrong,)), outputs, x, products, check=check)


def test_the_right_one_is_not(recorded):
    recording, outputs, x, products = recorded
    there = verify_replay(recording, outputs, x, products, check=True)
    (images,) = there.probed
    torch.testing.assert_close(images[1], products.jvps[0])
