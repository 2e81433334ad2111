"""Networks that are random or couple samples while in training mode."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from jvpsvd import JacobianOperator
from jvpsvd.errors import ModelError
from jvpsvd.operators import refuse_training_mode

MODE_DEPENDENT = {
    "dropout": lambda: nn.Dropout(0.5),
    "channel dropout": lambda: nn.Dropout2d(0.1),
    "alpha dropout": lambda: nn.AlphaDropout(0.1),
    "batch norm": lambda: nn.BatchNorm2d(2),
    "batch norm without statistics": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "synchronised batch norm": lambda: nn.SyncBatchNorm(2),
    "instance statistics": lambda: nn.InstanceNorm2d(2, track_running_stats=True),
    "random slopes": lambda: nn.RReLU(),
    "attention dropout": lambda: nn.MultiheadAttention(2, 1, dropout=0.1),
    "recurrent dropout": lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.1),
}
INDIFFERENT = {
    "linear": lambda: nn.Linear(2, 2),
    "no dropout": lambda: nn.Dropout(0.0),
    "layer norm": lambda: nn.LayerNorm(2),
    "instance norm": lambda: nn.InstanceNorm2d(2),
    "group norm": lambda: nn.GroupNorm(1, 2),
    "attention": lambda: nn.MultiheadAttention(2, 1),
    "activation, pooling and shape": lambda: nn.Sequential(
        nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(-1)
    ),
    "containers": lambda: nn.ModuleList([nn.ModuleDict({"a": nn.Conv2d(1, 1, 1)})]),
    "lazy": lambda: nn.LazyLinear(2),
}


class DropPath(nn.Module):
    """Random in training mode by its own doing."""

    def forward(self, x):
        return x * torch.rand(()).round() if self.training else x


class FunctionalDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, training=self.training)


class NoisyLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + (torch.rand(()) if self.training else 0)


class Plain(nn.Module):
    """Does not read its mode, which one cannot see from outside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x):
        return self.inner(x)


ELSEWHERE = {
    "DropPath": DropPath,
    "FunctionalDropout": FunctionalDropout,
    "NoisyLinear": lambda: NoisyLinear(2, 2),
    "Plain": Plain,
    "ParametrizedNoisyLinear": lambda: orthogonal(NoisyLinear(2, 2)),
}


@pytest.mark.parametrize("name", MODE_DEPENDENT)
def test_in_training_mode_they_are_refused_by_name(name):
    module = MODE_DEPENDENT[name]()
    model = nn.Sequential(nn.Identity(), nn.Sequential(module)).train()
    with pytest.raises(ModelError, match=rf"module '1.0' \({type(module).__name__}\).*eval\(\)"):
        refuse_training_mode(model)
    refuse_training_mode(model.eval())


@pytest.mark.parametrize("name", INDIFFERENT)
def test_what_does_not_depend_on_the_mode_passes(name):
    refuse_training_mode(nn.Sequential(INDIFFERENT[name]()).train())


@pytest.mark.parametrize("name", ELSEWHERE)
def test_classes_from_outside_of_torch_are_refused_by_name(name):
    model = nn.Sequential(nn.Linear(2, 2), ELSEWHERE[name]()).train()
    with pytest.raises(ModelError, match=rf"^module '1' \({name}\) is in training .*eval\(\)"):
        JacobianOperator(model, torch.ones(1, 2))
    JacobianOperator(model.eval(), torch.ones(1, 2)) @ torch.ones(2)


def test_a_layer_of_torch_that_cares_is_named_before_the_class_around_it():
    model = Plain()
    model.inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(ModelError, match=r"module 'inner.1' \(Dropout\)"):
        refuse_training_mode(model)


def test_one_forgotten_module_in_an_evaluated_model_is_found():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
    model[1].train()
    with pytest.raises(ModelError, match="module '1'"):
        JacobianOperator(model, torch.ones(2))


def test_a_bare_module_is_called_the_model():
    with pytest.raises(ModelError, match=r"module 'model' \(Dropout\)"):
        JacobianOperator(nn.Dropout(0.5), torch.ones(2))


def test_evaluation_mode_gives_the_dense_jacobian(dense):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Dropout(0.5), norm, nn.SiLU()).double().eval()
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    found = JacobianOperator(model, x) @ torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(found, dense(model, x))
