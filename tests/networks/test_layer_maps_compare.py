"""Functions of `layer_map` are equal where they mean the same."""

import copy
import math

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map
from jvpsvd.networks.layer_map import is_same_input


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X = torch.arange(6.0).reshape(2, 1, 3)


def test_maps_from_the_input_are_equal_at_all_points(net):
    f, g = (layer_map(net, x, to="1")[0] for x in X)
    assert f == g
    assert hash(f) == hash(g)
    assert len({f, g}) == 1


def test_maps_from_a_depth_are_equal_at_equal_inputs(net):
    made = [layer_map(net, x, to="2", since="0")[0] for x in (X[0], X[0].clone(), X[1])]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert hash(made[0]) == hash(made[1])


def test_other_depths_and_other_modules_differ(net):
    f = layer_map(net, X[0], to="1")[0]
    assert f != layer_map(net, X[0], to="2")[0]
    assert f != layer_map(net, X[0], to="1", since="0")[0]
    assert f != layer_map(copy.deepcopy(net), X[0], to="1")[0]
    assert f != net


def test_numbers_that_are_held_fixed_are_compared_by_value():
    for one in (1000, 0.5, "bilinear", True, None):
        again = type(one)(one) if one is not None else None
        assert is_same_input({"n": one}, {"n": again})
    assert is_same_input({"n": int("1000")}, {"n": int("1000")})
    assert not is_same_input({"n": 1}, {"n": True})
    assert not is_same_input({"n": 1.0}, {"n": 1})
    assert not is_same_input({"n": math.nan}, {"n": float("nan")})


@pytest.mark.parametrize("mask", [torch.eye(3).to_sparse(), torch.ones(3, device="meta")])
def test_tensors_that_torch_does_not_compare_count_as_other_ones(mask):
    assert is_same_input({"mask": mask}, {"mask": mask})
    assert not is_same_input({"mask": mask}, {"mask": mask.clone()})


def test_it_says_what_it_is(net):
    f = layer_map(net, X[0], to="2", since="0")[0]
    assert repr(f) == "<LayerMap from '0' to '2' of Sequential>"


def test_a_map_takes_the_images_of_a_batch_one_by_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()).eval()
    images = torch.randn(4, 2, 5, 5)
    for since in (None, "0"):
        f, Z = layer_map(net, images, to="output", since=since)
        J = JacobianOperator(f, Z, batch_dims=1)
        assert J.shape == (4, 27, Z[0].numel())
        torch.testing.assert_close(J.value, net(images).detach())
