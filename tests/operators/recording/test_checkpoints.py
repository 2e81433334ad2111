"""With recompute=True few values of a point are kept, and products are the same."""

import gc
import logging

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Trace


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        return x + self.layers(x)


class Hourglass(nn.Module):
    """Values of the first half are read in the second, the last ones first."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))
        self.up = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))

    def forward(self, x):
        seen = []
        for layer in self.down:
            x = layer(x).tanh()
            seen.append(x)
        for layer in self.up:
            x = (layer(x) * seen.pop()).sigmoid()
        return x


class SeveralResults(nn.Module):
    """Operations that return several tensors."""

    def forward(self, x):
        for _ in range(8):
            a, b = x.sin().chunk(2, -1)
            largest, _ = torch.cat([b * a, a.exp()], -1).sort(-1)
            x = largest - x.topk(2, -1).values.sum(-1, keepdim=True)
        return x


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), (1, 40, 32)


def images():
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(8):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten()), (1, 3, 16, 16)


NETWORKS = {
    "residual": lambda: (nn.Sequential(*(Residual(16) for _ in range(12))), (30, 16)),
    "hourglass": lambda: (Hourglass(), (1, 4, 12, 12)),
    "several results": lambda: (SeveralResults(), (5, 6)),
    "encoder": encoder,
    "images": images,
    "narrow": lambda: (nn.Sequential(nn.Linear(3, 3), nn.Tanh()), (3,)),
    "constant": lambda: (lambda x: x.detach(), (4,)),
}


def made(name, dtype, **options):
    torch.manual_seed(0)
    net, shape = NETWORKS[name]()
    if isinstance(net, nn.Module):
        net = net.eval().requires_grad_(False).to(dtype)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    check = name != "constant"
    return JacobianOperator(net, x, check=check, derivatives="trace", **options), net, x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_a_recording_that_keeps_everything(name, dtype):
    J, plain = made(name, dtype, recompute=True)[0], made(name, dtype)[0]
    generator = torch.Generator().manual_seed(2)
    for width in (1, 5):
        V = torch.randn(J.shape[1], width, generator=generator, dtype=dtype)
        U = torch.randn(J.shape[0], width, generator=generator, dtype=dtype)
        torch.testing.assert_close(J @ V, plain @ V)
        torch.testing.assert_close(J.T @ U, plain.T @ U)
    torch.testing.assert_close(J.value, plain.value)


@pytest.mark.parametrize("name", ["residual", "encoder", "images"])
def test_a_point_holds_less_and_the_forecast_is_right(name):
    torch.manual_seed(0)
    net, shape = NETWORKS[name]()
    net, x = net.eval().requires_grad_(False), torch.rand(shape)
    plain = Trace(net, x).recording
    fewer = Trace(net, x, recompute=True).recording
    assert fewer.bytes_of_point < 0.6 * plain.bytes_of_point
    there = fewer.evaluate(x)
    weights = {t.untyped_storage().data_ptr() for t in there.constants.tensors}
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (x, *there.values, *there.kept)
    }
    kept = sum(size for address, size in held.items() if address not in weights)
    # Besides what is kept there is one segment at a time.
    assert kept <= fewer.bytes_of_point


def test_a_skip_over_all_segments_is_kept():
    net, x = Hourglass().eval(), torch.rand(1, 4, 12, 12)
    recording, plain = Trace(net, x, recompute=True).recording, Trace(net, x).recording
    assert recording.bytes_of_point <= plain.bytes_of_point


def test_triplets_are_those_of_a_recording_that_keeps_everything():
    J, plain = made("encoder", torch.float64, recompute=True)[0], made("encoder", torch.float64)[0]
    result, expected = svds(J, 8, tol=1e-8), svds(plain, 8, tol=1e-8)
    assert result.converged.all()
    torch.testing.assert_close(result.s, expected.s, rtol=1e-7, atol=0)


def test_another_point_is_computed_from_its_own_checkpoints():
    J, net, x = made("residual", torch.float64, recompute=True)
    moved = J.at(x + 0.1)
    v = torch.ones(J.shape[1], dtype=torch.float64)
    expected = torch.func.jvp(net, (x + 0.1,), (v.reshape(x.shape),))[1].flatten()
    torch.testing.assert_close(moved @ v, expected)
    torch.testing.assert_close(J @ v, torch.func.jvp(net, (x,), (v.reshape(x.shape),))[1].flatten())


@pytest.mark.parametrize("through", ["counted", "uncounted"])
def test_weights_that_change_are_refused(through):
    J, net, x = made("residual", torch.float32, recompute=True)
    weight = net[3].layers[1].weight
    (weight if through == "counted" else weight.data).mul_(1.5)
    v = torch.ones(J.shape[1])
    if through == "counted":
        with pytest.raises(ArgumentError, match="weights have changed"):
            J @ v
    moved = J.at(x)
    expected = torch.func.jvp(net, (x,), (v.reshape(x.shape),))[1].flatten()
    torch.testing.assert_close(moved @ v, expected)


def test_products_leave_nothing_behind(only_new_objects):
    J = made("residual", torch.float32, recompute=True)[0]
    V = torch.ones(J.shape[1], 3)
    J @ V

    def count():
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    before = count()
    for _ in range(3):
        J @ V
    assert count() <= before


def test_where_it_saves_nothing_the_log_says_so(caplog):
    caplog.set_level(logging.INFO)
    made("narrow", torch.float32, recompute=True)
    assert "checkpoints would save too little" in caplog.text


@pytest.mark.parametrize("options", [{"batch_dims": 1}, {"derivatives": "transforms"}])
def test_what_cannot_be_recomputed_is_refused(options):
    with pytest.raises(ArgumentError, match="recompute=True is for a recording at one point"):
        JacobianOperator(torch.sin, torch.ones(2, 2), recompute=True, **options)


def test_many_points_of_a_trace_are_taken_one_by_one(caplog):
    net, x = Hourglass().eval(), torch.rand(2, 1, 4, 12, 12)
    with torch.no_grad():
        (maps,) = Trace(net, x[0], recompute=True).at_many(x)
        (plain,) = Trace(net, x[0]).at_many(x)
    block = torch.rand(2, 3, 1, 4, 12, 12)
    torch.testing.assert_close(maps.jvp(block, chunk=4), plain.jvp(block, chunk=4))
