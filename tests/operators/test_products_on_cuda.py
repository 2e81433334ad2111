"""Products on a GPU are those of the dense Jacobian in float64 on the CPU."""

import copy
import logging

import pytest
import torch
from support.agreement import TOLERANCE, Fn
from torch import nn

from jvpsvd import JacobianOperator, LinearOperator, MatrixOperator, StreamedStack, restrict, stack

pytestmark = pytest.mark.gpu


def attention(x, qkv):
    q, k, v = qkv(x).chunk(3, dim=-1)
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def network(name):
    torch.manual_seed(0)
    if name == "perceptron":
        return nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 12)), (30,)
    if name == "attention":
        return nn.Sequential(nn.LayerNorm(6), Fn(attention, nn.Linear(6, 18))), (1, 5, 6)
    if name == "encoder":
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (1, 4, 8)
    if name == "normalised":
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2, padding=1),
            nn.LocalResponseNorm(2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 3, 2, stride=2),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        ), (1, 2, 8, 8)
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norm,
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    ), (1, 3, 8, 8)


NETWORKS = ("perceptron", "convolutions", "normalised", "attention", "encoder")


def jacobian(net, x):
    wide = copy.deepcopy(net).cpu().double()
    return torch.autograd.functional.jacobian(wide, x.cpu().double()).reshape(-1, x.numel())


def on_the_card(name, dtype):
    net, shape = network(name)
    net = net.eval().requires_grad_(False).to("cuda", dtype)
    return net, torch.randn(shape, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)


def assert_products(J, expected):
    m, n = J.shape
    scale = TOLERANCE[J.dtype] * expected.abs().max()
    forward = J.matmat(torch.eye(n, dtype=J.dtype, device="cuda"))
    reverse = J.rmatmat(torch.eye(m, dtype=J.dtype, device="cuda"))
    assert forward.is_cuda
    assert reverse.is_cuda
    assert (forward.cpu().double() - expected).abs().max() <= scale
    assert (reverse.cpu().double() - expected.T).abs().max() <= scale


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_dense_jacobian(name, dtype, chunk):
    net, x = on_the_card(name, dtype)
    J = JacobianOperator(net, x, chunk=chunk)
    assert J.device.type == "cuda"
    assert_products(J, jacobian(net, x))


def test_tf32_in_the_process_costs_our_products_nothing():
    net, x = on_the_card("convolutions", torch.float32)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_products(JacobianOperator(net, x), jacobian(net, x))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", ["perceptron", "convolutions"])
def test_each_index_of_a_batch_is_its_own_jacobian(name):
    net, shape = network(name)
    net = net.eval().requires_grad_(False).to("cuda")
    points = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2)).cuda()
    J = JacobianOperator(net, points, batch_dims=1)
    found = J.matmat(torch.eye(J.shape[-1], device="cuda").expand(4, -1, -1))
    for i, x in enumerate(points):
        truth = jacobian(net, x)
        assert (found[i].cpu().double() - truth).abs().max() <= 2e-5 * truth.abs().max()


def test_points_of_a_batch_go_through_the_card_many_at_a_time():
    net, shape = network("convolutions")
    net = net.eval().requires_grad_(False).to("cuda")
    points = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2)).cuda()
    J = JacobianOperator(net, points, batch_dims=1)
    assert J.chunk >= 64  # on a CPU as few as fit the cache
    together = J.matmat(torch.eye(J.shape[-1], device="cuda"))
    apart = JacobianOperator(net, points, batch_dims=1, chunk=1)
    torch.testing.assert_close(
        together, apart.matmat(torch.eye(J.shape[-1], device="cuda")), rtol=1e-4, atol=1e-5
    )


def test_a_parameter_jacobian_a_restriction_and_stacks():
    net, x = on_the_card("perceptron", torch.float64)
    truth = jacobian(net, x)
    J = JacobianOperator(net, x)
    rows = torch.tensor([3, 0, 7], device="cuda")
    assert_products(restrict(J, rows=rows), truth[rows.cpu()])
    assert_products(stack([J, J]), torch.cat([truth, truth]))
    assert_products(MatrixOperator(truth.cuda()), truth)
    weights = JacobianOperator.wrt_parameters(net, x)
    v = torch.randn(weights.shape[1], 2, dtype=torch.float64, device="cuda")
    u = torch.randn(weights.shape[0], 2, dtype=torch.float64, device="cuda")
    torch.testing.assert_close(u.T @ (weights @ v), (weights.T @ u).T @ v)
    streamed = StreamedStack.over(net, torch.stack([x, 2 * x]))
    assert_products(streamed, torch.cat([truth, jacobian(net, 2 * x)]))


def test_an_operator_of_ones_own_on_cuda_takes_blocks_of_the_current_card():
    class Twice(LinearOperator):
        def _matmat(self, V):
            return 2 * V

        _rmatmat = _matmat

    A = Twice((3, 3), torch.float32, "cuda")
    assert_products(A, 2 * torch.eye(3, dtype=torch.float64))


def test_a_chunk_too_large_for_the_card_is_halved(caplog):
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 3, padding=1))
    net = net.eval().requires_grad_(False).cuda()
    x = torch.randn(1, 3, 224, 224, device="cuda")
    V = torch.randn(3 * 224 * 224, 256, device="cuda")
    expected = JacobianOperator(net, x, chunk=4).matmat(V[:, :4])
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.memory_allocated() + 2**31
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        J = JacobianOperator(net, x, chunk=256)
        with caplog.at_level(logging.WARNING, logger="jvpsvd"):
            found = J.matmat(V)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "out of memory with 256 vectors" in caplog.text
    torch.testing.assert_close(found[:, :4], expected, rtol=1e-4, atol=1e-4)
