"""Depths at which a model can be cut: their names, order, kinds and shapes."""

import pytest
import torch
from torch import nn

from jvpsvd import depths
from jvpsvd.errors import ModelError


class Two(nn.Module):
    """Takes two arguments, or keywords."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(2, 4)

    def forward(self, a, b, scale=1.0):
        return scale * (self.left(a) + self.right(b))


def names(model, x):
    return [depth.name for depth in depths(model, x)]


def test_depths_come_in_order_of_computation_with_kind_and_shape():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), nn.Flatten()
    )
    found = depths(model, torch.zeros(1, 3, 6, 6))
    assert [(d.name, d.kind, d.shape, d.numel) for d in found] == [
        ("0", "Conv2d", (1, 4, 4, 4), 64),
        ("1.0", "ReLU", (1, 4, 4, 4), 64),
        ("1.1", "MaxPool2d", (1, 4, 2, 2), 16),
        ("1", "Sequential", (1, 4, 2, 2), 16),
        ("2", "Flatten", (1, 16), 16),
        ("output", "Sequential", (1, 16), 16),
    ]


def test_a_module_that_is_called_again_is_numbered():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    assert names(model, torch.zeros(1, 3)) == ["0", "1@1", "2", "1@2", "output"]


def test_the_model_itself_may_be_one_module():
    assert names(nn.Linear(3, 2), torch.zeros(3)) == ["output"]


@pytest.mark.parametrize(
    "x",
    [
        (torch.zeros(1, 3), torch.zeros(1, 2)),
        {"b": torch.zeros(1, 2), "a": torch.zeros(1, 3), "scale": 2.0},
    ],
    ids=["tuple", "dict"],
)
def test_inputs_of_several_arguments(x):
    assert names(Two().eval(), x) == ["left", "right", "add", "output"]


def test_outputs_that_are_no_real_tensor_are_no_depths():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.ids = nn.Identity()
            self.last = nn.Identity()

        def forward(self, x):
            self.ids(x.argmax(-1))
            return {"logits": self.last(x), "empty": x[:0], "label": "a", "ids": x > 0}

    assert names(Model().eval(), torch.zeros(4, 3)) == ["last", "output.logits"]


def test_a_model_without_any_depth_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return x.argmax()

    with pytest.raises(ModelError, match="no module of Nothing returns a floating tensor"):
        depths(Nothing().eval(), torch.zeros(3))


def test_a_model_in_training_mode_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ModelError, match=r"module '1' \(BatchNorm1d\) is in training mode"):
        depths(model, torch.zeros(4, 2))
    assert names(model.eval(), torch.zeros(4, 2)) == ["0", "1", "output"]


def test_a_model_that_works_in_place_leaves_x_and_its_hooks_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    x = torch.tensor([[-1.0, 2.0]])
    depths(model, x)
    assert x.tolist() == [[-1.0, 2.0]]
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_removed_when_the_model_fails():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        depths(model, torch.zeros(1, 2))
    assert not any(module._forward_hooks for module in model.modules())
