"""Attention is differentiated by operations that can be, and the settings are put back."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.operators import Trace, by_transforms
from jvpsvd.operators.environment.attention import differentiable_attention

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
WAYS = ["trace", "transforms"]


def settings():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
    )


@pytest.fixture(autouse=True)
def _settings_are_restored():
    before = settings()
    yield
    assert settings() == before


class Plain(nn.Module):
    """Scaled dot-product attention of x with itself."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return scaled_dot_product_attention(x, x, x, **self.options)


class Heads(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.options = options

    def forward(self, x):
        return self.attention(x, x, x, **self.options)[0]


MASK = torch.ones(4, 4, dtype=torch.bool).tril(1)
LAYER = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": True}
NETWORKS = {
    "sdpa": lambda: Plain(),
    "sdpa with a mask": lambda: Plain(attn_mask=MASK),
    "causal sdpa": lambda: Plain(is_causal=True),
    "heads": lambda: Heads(),
    "heads without weights": lambda: Heads(need_weights=False),
    "encoder layer": lambda: nn.TransformerEncoderLayer(**LAYER),
    "encoder layer, norm first": lambda: nn.TransformerEncoderLayer(**LAYER, norm_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**LAYER), 1),
}
SHAPES = {"sdpa": (1, 2, 4, 3), "sdpa with a mask": (1, 2, 4, 3), "causal sdpa": (1, 2, 4, 3)}


@pytest.mark.parametrize("derivatives", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_products_equal_the_dense_jacobian(name, frozen, dtype, derivatives, dense, eye):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(not frozen)
    x = torch.randn(SHAPES.get(name, (1, 4, 8)), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        expected = dense(copy.deepcopy(net).double().requires_grad_(True), x)
    J = JacobianOperator(net.to(dtype), x.to(dtype), derivatives=derivatives)

    m, n = J.shape
    scale = TOLERANCE[dtype] * expected.abs().max()
    assert (J.matmat(eye(n, dtype)).double() - expected).abs().max() < scale
    assert (J.rmatmat(eye(m, dtype)).double() - expected.T).abs().max() < scale


@pytest.mark.parametrize("check", [True, False])
def test_a_recording_serves_another_point(check, dense):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(**LAYER).eval().double().requires_grad_(False)
    example, x = torch.randn(2, 1, 4, 8, dtype=torch.float64)
    (linear_map,) = Trace(layer, example).at(x, check=check)
    found = JacobianOperator.from_linear_map(linear_map) @ torch.eye(32, dtype=x.dtype)
    with sdpa_kernel(SDPBackend.MATH):
        expected = dense(copy.deepcopy(layer).requires_grad_(True), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("derivatives", ["auto", *WAYS])
def test_what_was_switched_off_by_the_caller_stays_off(derivatives):
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            before = settings()
            J = JacobianOperator(Plain().eval(), torch.ones(1, 1, 2, 2), derivatives=derivatives)
            J.T @ (J @ torch.ones(4))
            assert settings() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("take", [JacobianOperator, Trace, by_transforms])
def test_an_error_in_the_function_leaves_the_settings_alone(take):
    def fn(x):
        assert not torch.backends.mha.get_fastpath_enabled()
        raise ZeroDivisionError

    with pytest.raises((ModelError, ZeroDivisionError), match=r"ZeroDivisionError|^$"):
        take(fn, torch.ones(2))


@pytest.mark.parametrize("derivatives", WAYS)
def test_an_error_in_differentiation_leaves_the_settings_alone(derivatives):
    calls = []

    def fn(x):
        calls.append(1)
        return scaled_dot_product_attention(x, x, x) * len(calls)

    with pytest.raises(ArgumentError, match="two different values"):
        JacobianOperator(fn, torch.ones(1, 1, 2, 2), derivatives=derivatives)


def test_threads_that_overlap_restore_what_was_there_before_the_first():
    before = settings()
    entered, leave = threading.Event(), threading.Event()

    def second():
        with differentiable_attention():
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=second)
    with differentiable_attention():
        other.start()
        assert entered.wait(10)
    assert settings() != before
    leave.set()
    other.join()
    assert settings() == before
