"""The largest entry of every right vector is positive, whatever sign a solver left."""

import pytest
import torch

from jvpsvd.svd.triplets import Triplets, with_fixed_signs


def triplets(V):
    s = torch.ones(*V.shape[:-2], V.shape[-1])
    return Triplets(s, s, 2 * V.clone(), V.clone(), (), ())


@pytest.mark.parametrize("shape", [(9, 4), (3, 9, 4), (1, 1)])
def test_the_largest_entry_decides_and_both_sides_follow(shape):
    V = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for signs in (1, -1):
        fixed = with_fixed_signs(triplets(signs * V))
        largest = fixed.V.abs().argmax(-2, keepdim=True)
        assert (fixed.V.gather(-2, largest) > 0).all()
        assert torch.equal(fixed.U, 2 * fixed.V)
        assert torch.equal(fixed.V.abs(), V.abs())


def test_of_two_entries_of_one_size_the_first_decides():
    V = torch.tensor([[0.6, -0.6, 0.6, 0.0], [-0.6, 0.6, 0.6, -0.0], [0.5, 0.5, -0.5, 0.0]])
    for signs in (1, -1):
        assert (with_fixed_signs(triplets(signs * V)).V[0] >= 0).all()
