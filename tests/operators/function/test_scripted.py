"""What torch.jit made is differentiated as what it was made from, also after calls by the user."""

import threading
from contextlib import suppress

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, singular_values
from jvpsvd.errors import AdjointError, ArgumentError, ModelError
from jvpsvd.operators.function.scripted import weights_without_grad

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")


class Gated(nn.Module):
    """A weight meets the input first, so that it alone requires grad."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 2, 6).double())
        self.mix = nn.Linear(6, 4).double()

    def forward(self, x):
        y = torch.tanh(x * self.scale + 1) * torch.sigmoid(x)
        return self.mix(y).clamp(-3.0, 3.0)


@torch.jit.script
def scripted_gate(x, scale):
    y = torch.tanh(x * scale + 1)
    return y * torch.sigmoid(x) + y.exp()


class CallsScripted(Gated):
    def forward(self, x):
        return self.mix(scripted_gate(x, self.scale))


class Inside(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.sin()).cos()


def gated(kind=Gated):
    torch.manual_seed(0)
    return kind().eval()


POINT = torch.linspace(-1, 1, 12).double().reshape(2, 6)
MADE = {
    "scripted": lambda: torch.jit.script(gated()),
    "traced": lambda: torch.jit.trace(gated(), POINT),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(gated())),
    "inside": lambda: Inside(torch.jit.script(gated())).eval(),
    "function": lambda: gated(CallsScripted),
}


def plain(name):
    """The function without torch.jit."""
    net = gated()

    def called_without_jit(x):
        y = torch.tanh(x * net.scale + 1)
        return net.mix(y * torch.sigmoid(x) + y.exp())

    return {"inside": lambda x: net(x.sin()).cos(), "function": called_without_jit}.get(name, net)


def call_as_users_do(fn, times):
    """Without and with gradients of the input: torch.jit adapts to what it is called with."""
    for _ in range(times):
        fn(POINT)
        fn(POINT.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("name", MADE)
def test_products_after_calls_are_those_of_the_plain_network(name, derivatives, dense):
    fn, expected = MADE[name](), dense(plain(name), POINT)
    fn(POINT)
    for times in range(4):
        J = JacobianOperator(fn, POINT, derivatives=derivatives)
        torch.testing.assert_close(J.to_dense(), expected)
        torch.testing.assert_close(J.T @ torch.eye(8).double(), expected.T)
        call_as_users_do(fn, times)
    assert all(weight.requires_grad for weight in fn.parameters())


@pytest.mark.parametrize("check", [True, False])
def test_forward_mode_is_right_where_torch_alone_loses_it(check, dense):
    net, expected = torch.jit.script(gated()), dense(gated(), POINT)
    for _ in range(3):
        net(POINT)
    J = JacobianOperator(net, POINT, derivatives="transforms", check=check)
    torch.testing.assert_close(J @ torch.eye(12).double(), expected)


def test_weights_are_marked_again_after_the_last_of_several_evaluations():
    net, first_in, second_done = gated(), threading.Event(), threading.Event()

    def first():
        with weights_without_grad((net,)):
            first_in.set()
            second_done.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with weights_without_grad((net,)):
        pass
    assert not net.scale.requires_grad
    second_done.set()
    thread.join()
    assert net.scale.requires_grad
    with pytest.raises(ZeroDivisionError), weights_without_grad((net,)):
        1 / 0  # noqa: B018
    assert net.scale.requires_grad


def test_kernels_of_inference_are_refused_with_what_to_pass():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    made = torch.jit.optimize_for_inference(torch.jit.script(net))
    if not any("mkldnn" in node.kind() for node in made.graph.nodes()):
        pytest.skip("torch puts no kernels of oneDNN in here")
    x = torch.ones(1, 2, 5, 5)
    for fn, name in ((made, "model"), (nn.Sequential(nn.Tanh(), made).eval(), "1")):
        with pytest.raises(ModelError, match=f"module '{name}' was made by .*made from") as caught:
            JacobianOperator(fn, x)
        assert "\n" not in str(caught.value)


def test_a_fast_path_that_was_traced_is_refused_with_what_to_pass():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    traced = torch.jit.trace(layer, torch.ones(1, 3, 8))
    with pytest.raises(ArgumentError, match="pass the module that it was made from") as caught:
        JacobianOperator(traced, torch.ones(1, 3, 8))
    assert "\n" not in str(caught.value)


class Holds(Gated):
    """A scripted function as an attribute, alone or in a list."""

    def __init__(self, listed):
        super().__init__()
        self.gates = [scripted_gate] if listed else scripted_gate

    def forward(self, x):
        gate = self.gates[0] if isinstance(self.gates, list) else self.gates
        return self.mix(gate(x, self.scale))


NETWORKS = {
    "scripted": lambda: torch.jit.script(Gated().eval()),
    "traced": lambda: torch.jit.trace(Gated().eval(), torch.ones(6).double()),
    "calls": lambda: CallsScripted().eval(),
    "holds": lambda: Holds(False).eval(),
    "holds a list": lambda: Holds(True).eval(),
}


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_singular_values_have_all_gradients_after_calls_by_the_user(name, calls, batch_dims):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    plain = Gated() if name in ("scripted", "traced") else CallsScripted()
    plain.load_state_dict(net.state_dict())
    x = torch.linspace(-1, 1, 6).double()
    for _ in range(calls):
        net(x.clone().requires_grad_()).sum().backward()
    net.zero_grad()
    X = torch.stack([x, -x])[: 1 + batch_dims].requires_grad_()
    point = X if batch_dims else X[0]
    singular_values(net, point, k=2, batch_dims=batch_dims).sum().backward()
    truth = X.detach().clone().requires_grad_()
    for z in truth:
        J = torch.autograd.functional.jacobian(plain, z, create_graph=True)
        torch.linalg.svdvals(J)[:2].sum().backward(inputs=[truth, *plain.parameters()])
    torch.testing.assert_close(X.grad, truth.grad)
    for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None and theirs.grad.any():
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_weights_made_in_inference_mode_keep_their_mark():
    with torch.inference_mode():
        net = CallsScripted().eval()
    before = [weight.requires_grad for weight in net.parameters()]
    with suppress(AdjointError):  # torch lets nobody take the mark from them
        JacobianOperator(net, torch.ones(6).double())
    assert [weight.requires_grad for weight in net.parameters()] == before
