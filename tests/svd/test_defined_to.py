"""How well J itself is defined: rounding for smooth functions, and the jump at a kink."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds


def smooth(dtype):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 30)).to(dtype).eval()


class Kinked(nn.Module):
    """x ↦ A x + jump · |x₀ − 1| a, |a| = 1: at x₀ = 1 rounding moves J by ± jump · a e₀'."""

    def __init__(self, jump, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        a = torch.randn(30, generator=generator, dtype=dtype)
        self.A = torch.randn(30, 20, generator=generator, dtype=dtype)
        self.a = jump * a / a.norm()
        self.eval()

    def forward(self, x):
        return self.A @ x + (x[0] - 1).abs() * self.a


def at_kink(distance=0.0, dtype=torch.float32):
    x = torch.randn(20, generator=torch.Generator().manual_seed(3), dtype=dtype)
    x[0] = 1 + distance
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
@pytest.mark.parametrize("vectors", [True, False])
def test_smooth_functions_show_rounding(dtype, method, vectors):
    J = JacobianOperator(smooth(dtype), torch.randn(20, dtype=dtype))
    found = svds(J, 5, tol=1e-4, method=method, vectors=vectors, on_unconverged="ignore")
    assert 0 < found.certificate.defined_to < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("jump", [1e-1, 1e-3])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_kink_at_the_point_shows_its_jump(dtype, jump, transposed):
    J = JacobianOperator(Kinked(jump, dtype), at_kink(dtype=dtype))
    found = svds(J.T if transposed else J, 20)
    # With all 20 right vectors V, ‖ΔJ V‖ = jump; two random combinations estimate it within a small
    # factor.
    share = found.certificate.defined_to * float(found.s[0]) / jump
    assert 0.1 < share < 10


def test_values_on_the_two_sides_differ_by_no_more():
    net = Kinked(0.5)
    found = svds(JacobianOperator(net, at_kink()), 20)
    below, above = (svds(JacobianOperator(net, at_kink(step)), 20).s for step in (-1e-3, 1e-3))
    differ = float((below - above).abs().max() / found.s[0])
    assert 1e-3 < differ < 10 * found.certificate.defined_to


def test_each_point_of_a_batch_has_its_own():
    X = torch.stack([at_kink(step) for step in (1.0, 0.0, -1.0)])
    J = JacobianOperator(Kinked(0.5), X, batch_dims=1)
    found = svds(J, 5, tol=1e-4)
    beyond, at, before = (c.defined_to for c in found.certificates)
    assert max(beyond, before) < 1e-5 < 1e-3 < at
    assert found.certificate.defined_to == at


def test_a_matrix_has_no_point():
    certificate = svds(torch.eye(5), 2).certificate
    assert certificate.defined_to is None
    assert "defined" not in str(certificate)


def test_the_certificate_says_so():
    found = svds(JacobianOperator(Kinked(0.5), at_kink()), 5)
    assert f"J itself is defined to {found.certificate.defined_to:.0e} s1 here" in str(found)
    found = svds(JacobianOperator(nn.Linear(4, 3).eval(), torch.randn(4)), 2)
    assert "rounding of the point did not move J" in str(found)


def test_the_same_seed_gives_the_same():
    J = JacobianOperator(smooth(torch.float32), torch.ones(20))
    first, second = (svds(J, 3, seed=5).certificate.defined_to for _ in range(2))
    assert first == second


def test_a_jacobian_that_is_zero_on_one_side_of_the_point():
    J = JacobianOperator(lambda x: (x - 1).relu(), torch.ones(20))
    found = svds(J, 3)
    assert not torch.signbit(found.s).any()
    assert "rounding of the point moves J, which is 0 here" in str(found)


class WithoutRoomForAnotherPoint(JacobianOperator):
    """A Jacobian whose activations fit into memory once."""

    def changed_products(self, *_):
        return None

    def perturbed_by_rounding(self, seed):
        raise MemoryError("32 GB of activations")


def test_where_a_second_point_does_not_fit_into_memory_the_log_says_so(caplog):
    J = WithoutRoomForAnotherPoint(smooth(torch.float32), torch.ones(20))
    with caplog.at_level("INFO", logger="jvpsvd.svd"):
        result = svds(J, 3)
    assert result.certificate.defined_to is None
    assert any(
        "rounding of the point is not measured: MemoryError: 32 GB" in one
        for one in caplog.messages
    )
