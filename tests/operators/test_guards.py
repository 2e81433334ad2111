"""Wrong derivatives, random functions and values that are not finite are refused, and named."""

import re
import threading

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import AdjointError, ArgumentError, ModelError, NonFiniteError, TraceError
from jvpsvd.operators.environment.precision import full_precision

EVERY_WAY = pytest.mark.parametrize("derivatives", ["trace", "transforms"])


class Doubled(torch.autograd.Function):
    """x² with a right jvp; its backward is too large by the factor, if that is not one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.factor = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.factor * 2 * x * grad, None

    @staticmethod
    def jvp(ctx, tangent, _):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


def hooked(x, factor):
    """x² with a hook on its gradient, as for clipping or reversing it; this can be recorded."""
    x = x * 1
    if x.requires_grad:
        x.register_hook(lambda grad: factor * grad)
    return x**2


# torch has no functionalization of custom functions, so that none can be recorded.
WRONG = pytest.mark.parametrize(
    ("square", "derivatives"),
    [
        (Doubled.apply, "auto"),
        (Doubled.apply, "transforms"),
        (hooked, "auto"),
        (hooked, "trace"),
        (hooked, "transforms"),
    ],
    ids=["function-auto", "function-transforms", "hook-auto", "hook-trace", "hook-transforms"],
)


@WRONG
@pytest.mark.parametrize("factor", [2.0, 1.01, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backward_that_is_no_adjoint_is_refused(factor, dtype, square, derivatives):
    x = torch.linspace(1, 2, 4, dtype=dtype)
    with pytest.raises(AdjointError, match=r"not of one matrix.*custom functions"):
        JacobianOperator(lambda z: square(z, factor), x, derivatives=derivatives)


@WRONG
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_backward_that_is_no_adjoint_inside_a_network_is_refused(batch_dims, square, derivatives):
    torch.manual_seed(0)
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    with pytest.raises(AdjointError, match="not of one matrix"):
        JacobianOperator(
            lambda z: last(square(first(z), 3.0)),
            torch.randn(5, 3),
            batch_dims=batch_dims,
            derivatives=derivatives,
        )


@WRONG
def test_it_is_taken_unchecked_on_demand(square, derivatives):
    x = torch.tensor([1.0, 2.0])
    J = JacobianOperator(lambda z: square(z, 2.0), x, check=False, derivatives=derivatives)
    assert (J @ torch.ones(2)).tolist() == [2.0, 4.0]
    assert (J.T @ torch.ones(2)).tolist() == [4.0, 8.0]


@WRONG
def test_a_right_backward_passes(square, derivatives):
    x = torch.tensor([1.0, 2.0])
    J = JacobianOperator(lambda z: square(z, 1.0), x, derivatives=derivatives)
    assert (J @ torch.ones(2)).tolist() == (J.T @ torch.ones(2)).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("check", [True, False])
def test_a_custom_function_cannot_be_recorded(check):
    with pytest.raises(TraceError, match="custom_function_call"):
        JacobianOperator(
            lambda z: Doubled.apply(z, 2.0), torch.ones(2), check=check, derivatives="trace"
        )


class Careless(nn.Module):
    """Drops out in evaluation mode too."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def random_network(middle):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 64), middle)
    return nn.Sequential(nn.Linear(4, 4), body, nn.Linear(64, 2)).eval()


ROUTES = {
    "module": lambda net: net,
    "method": lambda net: net.forward,
    "lambda": lambda net: lambda x: 2 * net(x),
}


@EVERY_WAY
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("middle", [Careless, Counting])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_function_with_two_values_at_one_point_is_refused(middle, route, batch_dims, derivatives):
    fn = ROUTES[route](random_network(middle()))
    with pytest.raises(
        ArgumentError,
        match=rf"module '1.1' \({middle.__name__}\) (gave two diff|changes its buffers)",
    ):
        JacobianOperator(fn, torch.ones(3, 4), batch_dims=batch_dims, derivatives=derivatives)


def test_a_random_function_without_a_module_is_refused():
    said = (
        "fn gave two different values at the same point; it is random (it draws numbers by "
        "aten::rand); call model.eval(), or take out what draws them"
    )
    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}$"):
        JacobianOperator(lambda x: x * torch.rand(()), torch.ones(3))


def test_the_error_leaves_no_hooks_behind():
    net = random_network(Careless())
    with pytest.raises(ArgumentError):
        JacobianOperator(net, torch.ones(4))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("route", ["method", "lambda"])
def test_batch_statistics_hidden_in_a_function_are_refused(route):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).train()
    with pytest.raises(ArgumentError, match=r"module '1' \(BatchNorm2d\)"):
        JacobianOperator(ROUTES[route](net), torch.randn(2, 2, 3, 3))


class Logarithm(nn.Module):
    def forward(self, x):
        return x.log()


@EVERY_WAY
@pytest.mark.parametrize("route", ROUTES)
def test_the_module_that_made_nan_is_named(route, derivatives):
    x = torch.tensor([-1.0, -2.0])
    net = nn.Sequential(nn.Identity(), nn.Sequential(nn.Tanh(), Logarithm()), nn.Tanh()).eval()
    fn = ROUTES[route](net)
    with pytest.raises(NonFiniteError, match=r"module '1.1' \(Logarithm\) made first"):
        JacobianOperator(fn, x, derivatives=derivatives)
    JacobianOperator(fn, -x, derivatives=derivatives)


def test_infinity_on_the_way_is_named_where_it_becomes_nan():
    net = nn.Sequential(nn.ReLU(), Logarithm(), nn.Softmax(-1)).eval()
    with pytest.raises(NonFiniteError, match=r"module '1' \(Logarithm\)"):
        JacobianOperator(net, -torch.ones(3))


@pytest.mark.parametrize("route", ROUTES)
def test_the_point_of_a_batch_and_the_module_are_named(route):
    net = nn.Sequential(nn.Identity(), Logarithm()).eval()
    X = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 1.0], [1.0, -4.0]])
    with pytest.raises(NonFiniteError, match=r"points 1, 3 of the batch.*'1' \(Logarithm\)"):
        JacobianOperator(ROUTES[route](net), X, batch_dims=1)
    with pytest.raises(NonFiniteError, match=r"at point 1 of the batch.*'1' \(Logarithm\)"):
        JacobianOperator(ROUTES[route](net), X[:3], batch_dims=1)


def test_an_overflow_in_half_precision_is_named_and_passes_in_float32():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()).eval()
    with torch.no_grad():
        for layer in net[:2]:
            layer.weight.fill_(200)
            layer.bias.zero_()
    net.half()
    with pytest.raises(NonFiniteError, match=r"module '1' \(Linear\)"):
        JacobianOperator(net, torch.ones(4).half())
    JacobianOperator(net, torch.ones(4).half(), dtype=torch.float32)


def test_a_point_that_is_not_finite_blames_no_module():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).eval()
    with pytest.raises(NonFiniteError) as caught:
        JacobianOperator(net, torch.tensor([float("nan"), 1.0]))
    assert "module" not in str(caught.value)


def settings():
    return [
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.mkldnn.conv.fp32_precision,
    ]


@pytest.fixture
def _loose():
    """A process that allows less than float32 everywhere, as many training scripts do."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("torch names these settings otherwise before 2.9")
    before = settings()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    yield
    torch.backends.cuda.matmul.fp32_precision = before[0]
    torch.backends.cudnn.conv.fp32_precision = before[1]
    torch.backends.cudnn.rnn.fp32_precision = before[2]
    torch.backends.mkldnn.matmul.fp32_precision = before[3]
    torch.backends.mkldnn.conv.fp32_precision = before[4]


LOOSE, EXACT = ["tf32"] * 3 + ["bf16"] * 2, ["ieee"] * 5


@pytest.mark.usefixtures("_loose")
@EVERY_WAY
@pytest.mark.parametrize(("tf32", "inside"), [(False, EXACT), (True, LOOSE)])
def test_a_function_is_evaluated_in_full_precision_by_default(tf32, inside, derivatives):
    seen = []

    def fn(x):
        seen.append(settings())
        return x**2

    J = JacobianOperator(fn, torch.ones(3), tf32=tf32, derivatives=derivatives)
    assert settings() == LOOSE
    J @ torch.ones(3), J.T @ torch.ones(3)
    assert settings() == LOOSE
    assert seen == [inside] * len(seen)


@pytest.mark.usefixtures("_loose")
@EVERY_WAY
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_products_on_cpu_are_not_rounded_to_bfloat16(batch_dims, derivatives):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32)).eval()
    x = torch.randn(4, 32)
    J = JacobianOperator(net, x, batch_dims=batch_dims, derivatives=derivatives)
    exact = JacobianOperator(net, x, batch_dims=batch_dims, dtype=torch.float64)
    V = torch.randn(*J.batch, J.shape[-1], 32)
    expected = exact @ V.double()
    assert ((J @ V).double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("_loose")
def test_the_settings_come_back_after_an_error():
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        JacobianOperator(lambda x: x / (1 // 0), torch.ones(3))
    assert settings() == LOOSE
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert settings() == LOOSE


@pytest.mark.usefixtures("_loose")
def test_they_come_back_only_after_the_outermost():
    with full_precision():
        with full_precision():
            assert settings() == EXACT
        assert settings() == EXACT
    assert settings() == LOOSE


@pytest.mark.usefixtures("_loose")
def test_they_come_back_after_the_last_of_several_threads():
    entered, leave, seen = threading.Barrier(4), threading.Event(), []

    def work():
        with full_precision():
            entered.wait(10)
            leave.wait(10)
            seen.append(settings())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    with full_precision():
        pass
    assert settings() == EXACT
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == [EXACT] * 3
    assert settings() == LOOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_folding_changes_products_by_rounding_only(batch_dims, dtype):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(6, 2, 3))
    net, x = net.to(dtype).eval(), torch.randn(2, 1, 2, 5, 5, dtype=dtype)
    point = x if batch_dims else x[0]
    folded, plain = (
        JacobianOperator(net, point, batch_dims=batch_dims, fold=fold, derivatives="trace")
        for fold in (True, False)
    )
    m, n = folded.shape[-2:]
    V, U = (torch.randn(*folded.batch, size, 3, dtype=dtype) for size in (n, m))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    for ours, theirs in ((folded @ V, plain @ V), (folded.T @ U, plain.T @ U)):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()
