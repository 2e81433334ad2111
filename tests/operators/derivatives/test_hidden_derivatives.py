"""A derivative that autograd cannot see is refused or logged, never taken for 0."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, layer_map, svds
from jvpsvd.errors import AdjointError, DerivativeError, ModelError
from jvpsvd.operators import Trace, by_transforms, transformed
from jvpsvd.operators.function.obstacles import evaluate_and_watch, find_obstacles

pytestmark = pytest.mark.filterwarnings(
    "ignore:Converting a tensor with requires_grad=True to a scalar",
    "ignore:torch.quantize_per_tensor",
    "ignore:jvpsvd_tests..double. an autograd kernel was not registered",
)
EVERY_WAY = pytest.mark.parametrize("derivatives", ["auto", "transforms"])
HIDDEN = r"products vanish .* in proportion|torch\.inference_mode|not of one matrix"


class Blind(torch.autograd.Function):
    """A kernel that says it has no derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return None


LIBRARY = torch.library.Library("jvpsvd_tests", "DEF")
LIBRARY.define("double(Tensor x) -> Tensor")
LIBRARY.impl("double", lambda x: 2 * x, "CPU")


@torch.inference_mode()
def inference(x):
    return 2 * x


@torch.no_grad()
def no_grad(x):
    return 2 * x


HIDES = {
    "inference_mode": inference,
    "no_grad": no_grad,
    "NumPy": lambda x: torch.from_numpy(2 * x.detach().numpy()),
    "floats": lambda x: torch.tensor([2 * float(entry) for entry in x.flatten()], dtype=x.dtype),
    "item": lambda x: torch.stack([torch.tensor(2 * x[0].item(), dtype=x.dtype)]),
    "detach": lambda x: 2 * x.detach(),
    "data": lambda x: 2 * x.data,
    "custom function": Blind.apply,
}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype).eval()


@EVERY_WAY
@pytest.mark.parametrize("hide", HIDES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_hidden_as_a_whole_is_refused(hide, derivatives, scale, dtype):
    x = scale * torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    with pytest.raises((DerivativeError, AdjointError), match=HIDDEN) as caught:
        JacobianOperator(HIDES[hide], x, derivatives=derivatives)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("constant", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("hide", ["detach", "NumPy", "floats"])
def test_a_large_constant_that_hides_the_motion_at_small_steps_hides_nothing(hide, constant):
    """Rounding of f(x) is longer than its motion at a step of 1e-3 |x|."""
    with pytest.raises(DerivativeError, match="products vanish"):
        JacobianOperator(lambda x: constant + HIDES[hide](x), torch.tensor([1.0, -2.0, 0.5]))


@pytest.mark.parametrize("stage", [torch.round, torch.sign, lambda x: torch.relu(x - 1.2)])
def test_true_zeros_pass_at_values_of_a_large_constant(stage):
    J = JacobianOperator(lambda x: 1e3 + stage(x), torch.tensor([1.1, -1.3, 0.6]))
    assert svds(J, k=1, on_unconverged="ignore").s.item() == 0


@pytest.mark.parametrize(
    ("hide", "cause"),
    [
        ("inference_mode", "torch.inference_mode"),
        ("NumPy", "NumPy"),
        ("floats", "Python numbers"),
        ("item", "Python numbers"),
        ("detach", "detach"),
        ("data", "detach"),
        ("custom function", "hidden by the custom function Blind;"),
    ],
)
def test_its_cause_is_named(hide, cause):
    with pytest.raises(DerivativeError, match=cause):
        JacobianOperator(HIDES[hide], torch.ones(3))


def test_a_kernel_without_a_derivative_is_refused():
    with pytest.raises(DerivativeError, match="a kernel or custom function without a derivative"):
        JacobianOperator(torch.ops.jvpsvd_tests.double, torch.ones(3))


def test_a_custom_operation_without_a_derivative_is_refused_in_one_line():
    @torch.library.custom_op("jvpsvd_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    with pytest.raises(ValueError, match="no autograd formula") as caught:
        JacobianOperator(twice, torch.ones(3), derivatives="transforms")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hide", ["inference_mode", "NumPy", "detach", "custom function"])
@EVERY_WAY
def test_in_a_network(hide, derivatives):
    net = network()
    with pytest.raises((DerivativeError, AdjointError), match=HIDDEN):
        JacobianOperator(lambda x: net(HIDES[hide](net(x))), torch.ones(3), derivatives=derivatives)


@pytest.mark.parametrize("hide", ["inference_mode", "NumPy", "detach"])
@EVERY_WAY
def test_at_the_only_point_of_a_batch_where_the_function_moves(hide, derivatives):
    X = torch.tensor([[-1.0, -1.0, -2.0], [-3.0, -1.0, -1.0], [1.0, 2.0, 3.0]])
    with pytest.raises(DerivativeError, match=HIDDEN):
        JacobianOperator(lambda x: HIDES[hide](x.relu()), X, batch_dims=1, derivatives=derivatives)


@pytest.mark.parametrize("hide", ["inference_mode", "NumPy", "detach"])
def test_by_parameters(hide):
    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return HIDES[hide](self.net(x))

    with pytest.raises(DerivativeError, match=HIDDEN):
        JacobianOperator.wrt_parameters(Hiding().eval(), torch.ones(3))


@pytest.mark.parametrize("hide", ["inference_mode", "NumPy", "detach"])
def test_in_stacks_and_at_a_depth(hide):
    class Hiding(nn.Module):
        def forward(self, x):
            return HIDES[hide](x)

    net = nn.Sequential(network(), Hiding(), network()).eval()
    with pytest.raises(DerivativeError, match=HIDDEN):
        StreamedStack.over(net, torch.eye(3))
    with pytest.raises((DerivativeError, ModelError), match=HIDDEN):
        JacobianOperator(*layer_map(net, torch.ones(3), to="2", since="0"))
    fn, z = layer_map(net, torch.ones(3), to="0")
    assert svds(JacobianOperator(fn, z), 2).s[0] > 0


@pytest.mark.parametrize("take", [by_transforms, transformed, Trace])
def test_by_whatever_takes_a_derivative(take):
    with pytest.raises(DerivativeError, match="detach"):
        take(lambda x: 2 * x.detach(), torch.ones(3))
    take(lambda x: 2 * x.detach(), torch.ones(3), check=False)


def test_at_a_later_point_of_a_recording():
    trace = Trace(lambda x: x.detach().relu(), -torch.ones(3))
    assert not trace.at(-2 * torch.ones(3))[0].jvp(torch.eye(3)).any()
    with pytest.raises(DerivativeError, match="detach"):
        trace.at(torch.ones(3))
    with pytest.raises(DerivativeError, match="detach"):
        trace.at_many(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))


@EVERY_WAY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_part_in_inference_mode_is_refused(derivatives, dtype):
    net = network(dtype)
    images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).to(dtype)  # torch.func can take it
    for fn, x in ((net, torch.ones(3)), (images, torch.ones(1, 1, 4, 4))):
        with pytest.raises(DerivativeError, match=r"how fn moves .* torch\.inference_mode hides"):
            JacobianOperator(
                lambda z, fn=fn: fn(z) + torch.inference_mode()(fn)(2 * z),
                x.to(dtype),
                derivatives=derivatives,
            )


def test_what_is_worked_out_in_inference_mode_and_does_not_move_passes():
    @torch.inference_mode()
    def mask(x):
        return (x > 0).to(x.dtype) + torch.ones(3)

    x = torch.tensor([1.0, -1.0, 2.0])
    J = JacobianOperator(lambda z: z * mask(z).clone(), x)
    assert (J @ torch.ones(3)).tolist() == [2.0, 1.0, 2.0]


class StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.round(4 * x) / 4

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


PARTS = {
    "detach": lambda x: x + (x**2).detach(),
    "NumPy": lambda x: x + torch.from_numpy(np.sin(x.detach().numpy())),
    "kernel": lambda x: x + Blind.apply(x),
    "floats": lambda x: x * float(x.abs().max()),
}


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_may_be_meant_is_logged_once(part, batch_dims, caplog):
    x = torch.tensor([[1.0, -0.5, 2.0], [1.0, 2.0, 3.0]])
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        JacobianOperator(PARTS[part], x if batch_dims else x[0], batch_dims=batch_dims)
    (line,) = (r.getMessage() for r in caplog.records if "only a part" in r.getMessage())
    assert "\n" not in line
    assert "straight-through estimator" in line


class Negative(torch.autograd.Function):
    """A backward of its own, of another sign; its forward goes through NumPy."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(3 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return -3 * grad


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (2 * x).clamp(-1, 1) + x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("custom", [Negative, Clipped, Blind])
def test_a_custom_function_is_named_and_not_what_its_forward_runs_under(custom, caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        JacobianOperator(lambda x: x.cos() + custom.apply(2 * x), torch.linspace(0.1, 0.2, 3))
    (line,) = (r.getMessage() for r in caplog.records if "how fn moves" in r.getMessage())
    assert line.endswith(f"(fn goes through the custom function {custom.__name__})")


def test_a_part_under_no_grad_is_named_where_it_is_no_custom_function():
    with pytest.raises(AdjointError, match=r"take torch\.no_grad out of fn"):
        JacobianOperator(lambda x: x.cos() + no_grad(x), torch.ones(3), derivatives="transforms")
    assert find_obstacles(lambda x: no_grad(Blind.apply(x)), torch.ones(3)) == [
        "the custom function Blind",
        "torch.no_grad",
    ]


def test_products_that_differ_by_more_than_the_motion_are_not_a_part_of_it(caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        JacobianOperator(Negative.apply, torch.ones(3))
    (line,) = (r.getMessage() for r in caplog.records if "how fn moves" in r.getMessage())
    assert "differ from the motion by 2.0 times its length" in line
    assert "%" not in line


def test_unchecked_on_demand(caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = JacobianOperator(PARTS["detach"], torch.ones(3), check=False)
        zero = JacobianOperator(HIDES["detach"], torch.ones(3), check=False)
    assert (J @ torch.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert (zero @ torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
    assert not caplog.records


ZEROS = torch.zeros(4)


def zero_head():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(net[2].weight)
    return net


def dead_relu():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(net[0].bias, -100.0)
    return net


HONEST = {
    "constant": (lambda x: torch.ones(3, dtype=x.dtype), ZEROS + 1),
    "constant to rounding": (lambda x: x.softmax(-1).sum(), torch.linspace(-1, 1, 4)),
    "layer norm summed": (
        lambda x: 1 + nn.functional.layer_norm(x, (4,)).sum(),
        300 + torch.linspace(-1, 1, 4),
    ),
    "dead relu": (dead_relu(), ZEROS + 1),
    "zero head": (zero_head(), ZEROS + 1),
    "square at 0": (lambda x: (x**2).sum(), ZEROS),
    "product at 0": (lambda x: x[:2] * x[2:], ZEROS),
    "cosine at 0": (torch.cos, ZEROS),
    "sign": (torch.sign, ZEROS + 1.3),
    "round": (torch.round, ZEROS + 1.3),
    "hundredths": (lambda x: torch.round(100 * x) / 100, torch.linspace(0.11, 1.7, 4)),
    "fake quantisation": (lambda x: torch.round(127 * x) / 127, torch.linspace(0.11, 1.7, 4)),
    "many, summed": (
        lambda x: (torch.round(127 * x) / 127).mean(),
        torch.linspace(-1.0, 1.7, 5000),
    ),
    "int8": (
        lambda x: torch.quantize_per_tensor(x.float(), 0.02, 0, torch.qint8).dequantize().to(x),
        torch.linspace(0.11, 1.7, 4),
    ),
    "argmax": (lambda x: nn.functional.one_hot(x.argmax(), 4).to(x), torch.linspace(0, 1, 4)),
    "relu at its kink": (torch.relu, ZEROS),
    "norm of relu at its kink": (lambda x: x.relu().sum(), ZEROS),
    "hard tanh at its edges": (nn.Hardtanh(), ZEROS + 1),
    "maximum of equals": (lambda x: x.max(), ZEROS + 1),
    "max-pool of equals": (nn.MaxPool1d(2), torch.ones(1, 4)),
    "saturated": (lambda x: torch.sigmoid(1e4 * x), torch.linspace(1, 2, 4)),
    "steep": (lambda x: torch.sin(1e5 * x), torch.linspace(1, 2, 4)),
    "large in comparison with its motion": (lambda x: 1e6 + x, torch.linspace(1, 2, 4)),
    "sizes far apart": (lambda x: x**2, torch.tensor([1e6, 1.0, 0.0, 1e-6])),
    "undefined next to the point": (lambda x: (1 - x).sqrt().nan_to_num(posinf=0), ZEROS + 1),
    "straight through": (lambda x: StraightThrough.apply(x).detach(), ZEROS + 1.3),
}


@EVERY_WAY
@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_true_zeros_kinks_and_steps_pass_without_a_word(name, dtype, derivatives, caplog):
    fn, x = HONEST[name]
    fn = fn.to(dtype) if isinstance(fn, nn.Module) else fn
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        JacobianOperator(fn, x.to(dtype), derivatives=derivatives)
    assert not [r for r in caplog.records if "how fn moves" in r.getMessage()]


def test_a_function_that_fails_next_to_its_point_passes():
    x = torch.ones(3)

    def only_here(z):
        if not torch.equal(z, x):
            raise KeyError("elsewhere")
        return torch.ones(2)

    J = JacobianOperator(only_here, x, derivatives="transforms")
    assert not (J @ torch.eye(3)).any()


def test_inference_mode_around_a_call_is_none_of_the_function():
    inside = torch.inference_mode()(torch.sin)
    assert evaluate_and_watch(inside, torch.ones(2)).runs_inference
    with torch.inference_mode():
        assert not evaluate_and_watch(torch.sin, torch.ones(2)).runs_inference


def test_no_random_state_is_touched():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    JacobianOperator(dead_relu().eval(), ZEROS + 1)
    with pytest.raises(DerivativeError):
        JacobianOperator(HIDES["detach"], torch.ones(3))
    JacobianOperator(PARTS["detach"], torch.ones(3))
    # Building a network draws; the state is taken after it.
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before[0])
    dead_relu()
    assert torch.equal(torch.random.get_rng_state(), after)
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("name", ["dead relu", "round"])
def test_a_zero_jacobian_is_complete_and_zero(name):
    fn, x = HONEST[name]
    result = svds(JacobianOperator(fn.float() if isinstance(fn, nn.Module) else fn, x), 2)
    assert result.s.tolist() == [0.0, 0.0]
    assert result.converged.all()


def in_part(x):
    """Inference mode hides a part that is 0 up to x = 0."""
    with torch.inference_mode():
        hidden = x.relu() ** 2
    return x.sin() + hidden.clone()


@pytest.mark.parametrize(
    ("derivatives", "recompute"),
    [("auto", False), ("auto", True), ("trace", False), ("transforms", False)],
)
def test_a_part_that_is_flat_at_the_first_point_is_refused_at_another(derivatives, recompute):
    x = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    J = JacobianOperator(in_part, x, derivatives=derivatives, recompute=recompute)
    torch.testing.assert_close(J.at(2 * x).to_dense(), (2 * x).cos().diag())
    for _ in range(2):
        with pytest.raises(DerivativeError, match=r"torch\.inference_mode hides"):
            J.at(-x)
    torch.testing.assert_close(J.at(x).to_dense(), x.cos().diag())


@pytest.mark.parametrize("derivatives", ["auto", "trace"])
def test_a_part_that_is_flat_at_the_first_point_of_a_batch_is_refused(derivatives):
    X = torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
    J = JacobianOperator(in_part, X[:2], batch_dims=1, derivatives=derivatives)
    with pytest.raises(DerivativeError, match=r"torch\.inference_mode hides"):
        J.at(X)
    with pytest.raises(DerivativeError, match=r"torch\.inference_mode hides"):
        JacobianOperator(in_part, X, batch_dims=1, derivatives=derivatives)


def test_a_part_that_a_later_point_of_a_batch_shows_is_told(caplog):
    X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    JacobianOperator(lambda x: x + x.relu().detach(), X, batch_dims=1)
    assert "at point 1 of the batch products explain only a part" in caplog.text


def in_part_or_nothing(x):
    """As `in_part`, where a number decides, so that it cannot be recorded."""
    return in_part(x) if float(x.sum()) > 0 else x.sin()


@pytest.mark.parametrize("fn", [in_part, in_part_or_nothing])
def test_a_part_that_is_flat_at_the_first_point_of_a_stack_is_refused(fn):
    X = torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
    stack = StreamedStack.over(fn, X[:2])
    expected = torch.cat([x.cos().diag() for x in X[:2]])
    torch.testing.assert_close(stack @ torch.eye(2, dtype=torch.float64), expected)
    stack = StreamedStack.over(fn, X)
    for _ in range(2):
        with pytest.raises(DerivativeError, match=r"torch\.inference_mode hides"):
            stack @ torch.eye(2, dtype=torch.float64)
