"""A network that hides its derivative at a depth, or has a wrong one, has no values there."""

import logging
import sys

import pytest

NETWORKS = """
import torch
from torch import nn
from tiny import SIZE, net


class Hiding(nn.Module):
    def __init__(self, hide, residual=False):
        super().__init__()
        self.early, self.late = net()[0][:3], nn.Sequential(*net()[0][3:])
        self.hide, self.residual = hide, residual

    def forward(self, x):
        y = self.early(x)
        if self.residual:
            return self.late(y) + self.hide(self.late)(2 * y)
        return self.hide(self.late)(y)


def numpy(fn):
    return lambda x: torch.from_numpy(fn(x.detach()).detach().numpy().copy())


def detach(fn):
    return lambda x: fn(x.detach())


def reverse(fn):
    def apply(x):
        y = fn(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: -gradient)
        return y
    return apply


def inference():
    return Hiding(lambda fn: torch.inference_mode()(fn)).eval(), SIZE


def through_numpy():
    return Hiding(numpy).eval(), SIZE


def reversed_gradients():
    return Hiding(reverse).eval(), SIZE


def detached():
    return Hiding(detach).eval(), SIZE


def partly_inference():
    return Hiding(lambda fn: torch.inference_mode()(fn), residual=True).eval(), SIZE


def partly_detached():
    return Hiding(detach, residual=True).eval(), SIZE
"""


@pytest.fixture
def networks(tiny, monkeypatch):
    (tiny / "hiding.py").write_text(NETWORKS)
    yield
    sys.modules.pop("hiding", None)


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("inference", r"torch.inference_mode"),
        ("through_numpy", r"hidden by NumPy"),
        ("detached", r"hidden by detach"),
        ("partly_inference", r"torch.inference_mode"),
        ("reversed_gradients", r"not of one matrix"),
    ],
)
def test_the_depth_is_refused_and_others_are_not(surveyed, shard, model, cause, batch):
    outcome = surveyed([shard], model=f"hiding:{model}", layers=["early", "output"], batch=batch)
    rows = outcome.store.rows()
    assert len(rows) == 8
    for row in rows:
        if row.layer == "early":
            assert row.status == "ok"
            assert row.s[0] > 0
        else:
            assert row.status == "refused"
            assert cause in row.message
            assert "\n" not in row.message


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("batch", [1, 4])
def test_a_detached_part_is_logged_once(surveyed, shard, batch, caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        outcome = surveyed([shard], model="hiding:partly_detached", batch=batch, layers=["output"])
    assert {row.status for row in outcome.store.rows()} == {"ok"}
    (line,) = (r.getMessage() for r in caplog.records if "only a part" in r.getMessage())
    assert line.startswith("output: products explain only a part of how fn moves")
    assert "detach" in line
