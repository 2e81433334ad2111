"""The tangent kernel's eigenpairs against a dense kernel in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from jvpsvd import ntk
from jvpsvd.errors import ArgumentError, DerivativeError, ModelError

INPUTS, OUTPUTS = 9, 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, OUTPUTS)).eval()


def inputs():
    return torch.randn(INPUTS, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def dense_kernel(net, X, names=None):
    net, X = net.double(), X.double()
    theta = {n: p.detach() for n, p in net.named_parameters() if names is None or n in names}

    def f(theta, x):
        return functional_call(net, theta, (x[None],))[0]

    J = vmap(jacrev(f), in_dims=(None, 0))(theta, X)
    J = torch.cat([part.flatten(2) for part in J.values()], dim=2).flatten(0, 1)
    return J @ J.T


def check(kernel, K, k):
    truth = torch.linalg.eigvalsh(K).flip(0)[:k]
    assert (kernel.values - truth).abs().max() <= 1e-5 * truth[0]
    assert kernel.vectors.shape == (INPUTS, OUTPUTS, k)
    W = kernel.vectors.reshape(-1, k)
    assert torch.allclose(W.T @ W, torch.eye(k).double(), atol=1e-5)
    rest = torch.linalg.vector_norm(K @ W - W * kernel.values, dim=0)
    assert (rest <= kernel.residuals + 1e-5 * truth[0]).all()
    assert kernel.check <= 1e-5


@pytest.mark.parametrize("block", [None, 1, 3, 4, 9])
@pytest.mark.parametrize("k", [1, 5, INPUTS * OUTPUTS])
def test_eigenpairs_of_an_assembled_kernel(k, block):
    kernel = ntk(network(), inputs(), k, block=block)
    K = dense_kernel(network(), inputs())
    assert kernel.method == "assembled"
    assert kernel.trace == pytest.approx(float(K.trace()), rel=1e-5)
    check(kernel, K, k)


@pytest.mark.parametrize("block", [None, 300])
def test_a_kernel_of_many_rows_is_left_to_products(block):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    X = torch.randn(700, 4)
    kernel = ntk(net, X, 3, block=block)
    K = dense_kernel(net, X)
    truth = torch.linalg.eigvalsh(K).flip(0)[:3]
    assert kernel.method != "assembled"
    assert torch.allclose(kernel.values, truth, rtol=1e-4)
    W = kernel.vectors.reshape(-1, 3)
    rest = torch.linalg.vector_norm(K @ W - W * kernel.values, dim=0)
    assert (rest <= kernel.residuals + 1e-5 * truth[0]).all()
    assert kernel.trace == pytest.approx(float(K.trace()), rel=0.2)


def test_the_check_of_products_is_that_of_the_kernel():
    """No combination w of the pairs differs from J J' w by more than the pairs differ from K's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 3)).eval()
    X = torch.randn(700, 60) * 0.8 ** torch.arange(60)
    kernel = ntk(net, X, 10, tol=0.3)
    W = kernel.vectors.flatten(0, 1)
    rest = dense_kernel(net, X) @ W - kernel.values * W
    assert kernel.method != "assembled"
    assert 1e-4 < kernel.check <= 1.01 * torch.linalg.matrix_norm(rest, 2) / kernel.values[0]


def test_one_row_of_jacobians_at_a_time_gives_the_same_kernel():
    """Where the Jacobians of all blocks do not fit, they are computed again."""
    whole = ntk(network(), inputs(), 5)
    again = ntk(network(), inputs(), 5, memory="64KiB", block=3)
    assert again.method == "assembled"
    assert torch.allclose(whole.values, again.values, rtol=1e-5)


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, OUTPUTS)

    def forward(self, x):
        return self.head(self.network(x)[0][:, -1])


@pytest.mark.parametrize("names", [None, ["network.weight_ih_l0", "head.bias"]])
def test_an_lstm_in_float32(names):
    X = torch.randn(INPUTS, 3, 4, generator=torch.Generator().manual_seed(1))
    kernel = ntk(LastState().eval(), X, 5, names=names)
    assert kernel.method == "assembled"
    net = LastState().eval().double()  # torch's vmap takes no LSTM in float64
    theta = [p for name, p in net.named_parameters() if names is None or name in names]
    values = torch.cat([net(x[None])[0] for x in X.double()])
    rows = [torch.autograd.grad(value, theta, retain_graph=True) for value in values]
    J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    check(kernel, J @ J.T, 5)


def test_some_parameters_only():
    kernel = ntk(network(), inputs(), 4, names=["3.weight"])
    K = dense_kernel(network(), inputs(), ["3.weight"])
    check(kernel, K, 4)


@pytest.mark.parametrize("k", [1, 3])
def test_inputs_of_several_arguments(k):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.one = nn.Linear(4, 2)

        def forward(self, a, b):
            return self.one(a) * b

    net, a, b = Two().eval(), torch.randn(5, 4), torch.randn(5, 2)
    kernel = ntk(net, {"a": a, "b": b}, k)
    # Row (i, c) is b_ic (a_i, 1) in the weights of output c.
    J = torch.zeros(10, 10, dtype=torch.float64)
    for i in range(5):
        for c in range(2):
            row = torch.cat([a[i], torch.ones(1)]).double() * float(b[i, c])
            J[2 * i + c, 5 * c : 5 * c + 5] = row
    truth = torch.linalg.svdvals(J)[:k] ** 2
    assert torch.allclose(kernel.values, truth, rtol=1e-4)


@pytest.mark.parametrize("kind", ["array", "list of arrays", "tensors"])
@pytest.mark.parametrize("count", [2, 7, 9])
def test_inputs_in_any_number_and_kind(kind, count):
    X = inputs()[:count]
    given = {"array": X.numpy(), "list of arrays": list(X.numpy()), "tensors": list(X)}[kind]
    values = ntk(network(), given, 3, block=4, seed=None).values
    truth = torch.linalg.eigvalsh(dense_kernel(network(), X)).flip(0)[:3]
    assert (values - truth).abs().max() <= 1e-6 * truth[0]


@pytest.mark.parametrize("rate", [0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_of_many_eigenpairs(dtype, rate):
    """Values that decline slowly, and values that fall below the rounding of the first."""
    torch.manual_seed(5)
    scales = rate ** torch.arange(60, dtype=torch.float64)
    net = nn.Linear(60, 1, bias=False).to(dtype)
    X = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q * scales[:, None]
    kernel = ntk(net, X.to(dtype), 12)
    close = 1e-6 if dtype == torch.float32 else 1e-14
    assert (kernel.values - scales[:12] ** 2).abs().max() <= close
    W = kernel.vectors[:, 0]
    assert torch.allclose(W.T @ W, torch.eye(12).double(), atol=1e-12)
    assert (kernel.residuals <= close).all()


def test_it_prints_one_line():
    text = str(ntk(network(), inputs(), 3))
    assert "3 eigenpairs of a tangent kernel of 27 rows (assembled)" in text
    one = str(ntk(nn.Linear(2, 1), torch.ones(1, 2), 1))
    assert one.startswith("1 eigenpair of a tangent kernel of 1 row (assembled)")
    assert "\n" not in text


def test_a_list_shows_it_in_short_and_equal_kernels_are_equal():
    kernel = ntk(network(), inputs(), 3)
    assert repr(kernel).startswith("<TangentKernel of 9 inputs, outputs (3,), k=3: values from ")
    assert "\n" not in repr(kernel)
    assert kernel == ntk(network(), inputs(), 3)
    assert kernel != ntk(network(), 2 * inputs(), 3)


def test_errors_are_ours():
    with pytest.raises(ArgumentError, match="k=28"):
        ntk(network(), inputs(), 28)
    with pytest.raises(ArgumentError, match="no input"):
        ntk(network(), inputs()[:0])
    with pytest.raises(ArgumentError, match=r"input 1 is float32 \(1, 7, 7\), .* cut or pad"):
        ntk(network(), [torch.zeros(1, 6, 6), torch.zeros(1, 7, 7)], 2)
    with pytest.raises(ArgumentError, match="input 1 is a dict of b"):
        ntk(network(), [{"input": torch.zeros(1, 6, 6)}, {"b": torch.zeros(1, 6, 6)}], 2)
    with pytest.raises(ModelError, match="no parameter"):
        ntk(network(), inputs(), names=["nowhere"])
    with pytest.raises(ModelError, match="training mode"):
        ntk(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.zeros(2, 2))


def test_dicts_may_name_their_entries_in_any_order():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, mask, times=2):
            return times * self.linear(x * mask)

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, generator=generator)
    one, two = {"x": x, "mask": y}, {"mask": x, "x": y}
    model = Masked().eval()
    found = ntk(model, [one, two], 2)
    assert torch.equal(found.values, ntk(model, [one, {name: two[name] for name in one}], 2).values)
    with pytest.raises(ArgumentError, match="'times' of input 0 is 3; ntk joins tensors, so let"):
        ntk(model, [{**one, "times": 3}, {**two, "times": 3}], 2)


def test_the_model_is_as_it_was():
    net = network()
    before = [p.clone() for p in net.parameters()]
    ntk(net, inputs(), 3)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_a_derivative_that_torch_does_not_see_is_an_error():
    class Hidden(nn.Linear):
        def forward(self, x):
            with torch.inference_mode():
                return super().forward(x)

    with pytest.raises(DerivativeError):
        ntk(Hidden(3, 2).eval(), torch.randn(4, 3), k=2)


def test_a_value_without_the_dimension_of_the_batch_is_an_error():
    class Summed(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()

    with pytest.raises(ArgumentError, match="dimension of the batch"):
        ntk(Summed(3, 2).eval(), torch.randn(4, 3), k=2)


def test_inputs_that_act_on_each_other_are_refused():
    class Mixing(nn.Linear):
        def forward(self, x):
            return super().forward(x) + super().forward(x).mean(0, keepdim=True)

    torch.manual_seed(6)
    X = torch.randn(40, 3)
    with pytest.raises(ArgumentError, match="mixes the inputs of one"):
        ntk(Mixing(3, 2).eval(), X, 4)
    assert ntk(nn.Linear(3, 2).eval(), X, 4).check < 1e-6


def test_a_value_that_is_no_tensor_is_an_error():
    class Named(nn.Linear):
        def forward(self, x):
            return {"y": super().forward(x)}

    with pytest.raises(ArgumentError, match="returns dict; ntk needs a tensor: give a module"):
        ntk(Named(3, 2).eval(), torch.randn(4, 3), k=2)


def test_a_random_model_is_an_error():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(2)

    with pytest.raises(ArgumentError, match="different values at the same point"):
        ntk(Noisy(3, 2).eval(), torch.randn(4, 3), k=2)


class HidesAtPositive(nn.Module):
    """Inference mode hides a derivative by `scale`, which is 0 at an input of negative sum."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, x):
        with torch.inference_mode():
            hidden = self.scale * self.scale * x.sum(1, keepdim=True).relu()
        return self.linear(x).tanh() + hidden.clone()


def test_what_is_hidden_at_a_later_input_is_refused():
    net, X = HidesAtPositive().double().eval(), torch.rand(3, 3, dtype=torch.float64)
    assert ntk(net, -X, k=2).method == "assembled"
    for first in range(3):
        with pytest.raises(DerivativeError, match=r"torch\.inference_mode hides"):
            ntk(net, torch.where(torch.arange(3)[:, None] == first, X, -X), k=2)
