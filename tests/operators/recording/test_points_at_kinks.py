"""Points are taken together, also where rounding decides on which side of a kink a unit is.

A product of many points rounds in another way than that of one, so a unit that is 0 but for
rounding may be active in one of them and not in the other.
"""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import TraceError
from jvpsvd.operators import Trace
from jvpsvd.operators.recording.verify_replay import verify_recording_at_many

COLUMNS, UNITS, EVERY = 300, 4000, 500


def at_kinks(count, activation):
    """A layer, and points to all of which a few of its weights are orthogonal."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(count, 1, COLUMNS, generator=generator)
    weights = torch.randn(UNITS, COLUMNS, generator=generator).double()
    Q, _ = torch.linalg.qr(X[:, 0].T.double())
    weights[::EVERY] -= weights[::EVERY] @ Q @ Q.T
    net = nn.Sequential(nn.Linear(COLUMNS, UNITS, bias=False), activation)
    net[0].weight.data = weights.float()
    return net.eval().requires_grad_(False), X


def skip_without_flips(net, X):
    """OpenBLAS, for one, may round products of one point and of many alike."""
    flipped = (net[0](X[:, 0]) > 0) != torch.cat([net[0](x) > 0 for x in X])
    if not flipped[:, ::EVERY].any():
        pytest.skip("products of one point and of many round alike here")


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2)])
def test_points_at_kinks_are_taken_together(activation, caplog):
    net, X = at_kinks(6, activation)
    skip_without_flips(net, X)
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        (J,) = Trace(net, X[0]).at_many(X)
    assert J.jvp_product.together
    assert not caplog.records
    V = torch.eye(COLUMNS)[:8, None].expand(6, -1, -1, -1)
    images = J.jvp(V, chunk=64)[:, :, 0]
    for x, image in zip(X, images, strict=True):
        alone = JacobianOperator(net, x, derivatives="transforms").matmat(torch.eye(COLUMNS)[:, :8])
        apart = (image.T - alone).abs().amax(1) > 1e-4
        kinks = torch.zeros(UNITS, dtype=torch.bool)
        kinks[::EVERY] = True
        assert not (apart & ~kinks).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda there: replace(there, values=tuple(2 * v for v in there.values)), "differs from"),
        (
            lambda there: replace(
                there, kept=tuple(1.05 * k if k.is_floating_point() else ~k for k in there.kept)
            ),
            "comes out differently",
        ),
    ],
    ids=["values doubled", "5 % off"],
)
def test_a_batch_that_is_wrong_is_refused(change, message):
    net, X = at_kinks(6, nn.ReLU())
    skip_without_flips(net, X)
    recording = Trace(net, X[0]).recording
    wrong = change(recording.evaluate_many(X))
    with pytest.raises(TraceError, match=message):
        verify_recording_at_many(recording, wrong, recording.maps_at_many(wrong))


def test_what_differs_in_many_entries_is_refused():
    net, X = at_kinks(6, nn.ReLU())
    recording = Trace(net, X[0]).recording
    there = recording.evaluate_many(X)
    verify_recording_at_many(recording, there, recording.maps_at_many(there))
    wrong = replace(there, kept=tuple(one.flip(-1) for one in there.kept))
    with pytest.raises(TraceError, match="comes out differently"):
        verify_recording_at_many(recording, wrong, recording.maps_at_many(wrong))
