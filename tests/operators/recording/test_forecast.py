"""What a point of a recording will hold is known before it is replayed, and said in the log."""

import logging

import pytest
import torch
from torch import nn

from jvpsvd.operators import Trace


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (1, 50, 32)


def images():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers), (1, 3, 32, 32)


def multilayer():
    return nn.Sequential(nn.Linear(100, 200), nn.SiLU(), nn.Linear(200, 50)), (40, 100)


@pytest.mark.parametrize("build", [encoder, images, multilayer])
def test_the_forecast_is_what_is_held(build):
    torch.manual_seed(0)
    net, shape = build()
    x = torch.randn(shape)
    recording = Trace(net.eval(), x).recording
    constants = recording.constants.values().tensors
    values, kept = recording.primal(x, *constants)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in (x, *values, *kept)}
    for constant in constants:
        held.pop(constant.untyped_storage().data_ptr(), None)
    actual = sum(storage.nbytes() for storage in held.values())
    assert 0.8 * actual <= recording.bytes_of_point <= 1.2 * actual


def test_the_log_tells_it(monkeypatch, caplog):
    monkeypatch.setattr("jvpsvd.operators.recording.record.TOLD_GIB", 0.0)
    caplog.set_level(logging.INFO)
    Trace(nn.Linear(2, 2), torch.ones(2))
    assert "each point of this recording will hold about 0.0 GiB" in caplog.text
