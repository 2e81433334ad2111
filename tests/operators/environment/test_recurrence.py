"""Recurrent layers are computed by operations that have forward mode and rules for vmap."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jvpsvd import JacobianOperator, layer_map, spectra, svds
from jvpsvd.operators.environment.recurrence import differentiable_recurrence

LAYERS = {
    "LSTM": lambda: nn.LSTM(5, 4, batch_first=True),
    "LSTM, two layers both ways": lambda: nn.LSTM(5, 4, num_layers=2, bidirectional=True),
    "LSTM with projections": lambda: nn.LSTM(5, 4, proj_size=2, batch_first=True),
    "LSTM without bias": lambda: nn.LSTM(5, 4, bias=False),
    "LSTM with dropout, at rest": lambda: nn.LSTM(5, 4, num_layers=2, dropout=0.5),
    "GRU": lambda: nn.GRU(5, 4, batch_first=True),
    "RNN": lambda: nn.RNN(5, 4, num_layers=2),
    "RNN with ReLU": lambda: nn.RNN(5, 4, nonlinearity="relu", bidirectional=True),
}


class States(nn.Module):
    """All states, and those of the last step, after something of another kind."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        states, last = self.layer(x.sin())
        last = last if isinstance(last, tuple) else (last,)
        return torch.cat([states.flatten(), *(part.flatten() for part in last)])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
@pytest.mark.parametrize("requires_grad", [True, False], ids=["trainable", "frozen"])
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_products_are_those_of_the_layer(name, dtype, derivatives, requires_grad, dense, caplog):
    torch.manual_seed(0)
    net = States(LAYERS[name]()).to(dtype).eval().requires_grad_(requires_grad)
    x = torch.randn(3, 2, 5, dtype=dtype)
    truth = dense(copy.deepcopy(net).double(), x.double()).to(dtype)
    J = JacobianOperator(net, x, derivatives=derivatives)
    torch.testing.assert_close(J @ torch.eye(J.shape[1], dtype=dtype), truth)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=dtype), truth.mT)
    assert not caplog.text


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_layer_that_begins_in_a_given_state_is_one_too(kind, derivatives, dense, caplog):
    torch.manual_seed(0)
    layer, x = kind(5, 4).eval(), torch.randn(3, 2, 5)
    state = torch.randn(1, 2, 4)
    state = (state, state.cos()) if kind is nn.LSTM else state
    J = JacobianOperator(lambda x: layer(x, state)[0], x, derivatives=derivatives)
    truth = dense(lambda x: layer(x, state)[0], x)
    torch.testing.assert_close(J @ torch.eye(J.shape[1]), truth)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0]), truth.mT)
    assert not caplog.text


def test_a_state_may_be_the_input(dense, caplog):
    torch.manual_seed(0)
    layer, x = nn.GRU(5, 4).eval(), torch.randn(3, 5)
    J = JacobianOperator(lambda state: layer(x, state)[0], torch.randn(1, 4), derivatives="trace")
    torch.testing.assert_close(J.to_dense(), dense(lambda state: layer(x, state)[0], J.point))
    assert not caplog.text


def test_a_packed_sequence_has_the_derivative_of_its_steps():
    torch.manual_seed(0)
    layer, x = nn.LSTM(5, 4, batch_first=True).eval(), torch.randn(2, 3, 5)

    def states(x):
        packed = pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return pad_packed_sequence(layer(packed)[0], batch_first=True)[0]

    J = JacobianOperator(states, x)
    truth = torch.autograd.functional.jacobian(states, x).reshape(J.shape)
    torch.testing.assert_close(J.to_dense(), truth)


def test_a_call_of_the_function_itself_is_recorded(caplog):
    torch.manual_seed(0)
    layer = nn.LSTM(5, 4)
    state = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))

    def states(x):
        weights = [weight.detach() for weight in layer.parameters()]
        return torch.lstm(x, state, weights, True, 1, 0.0, False, False, False)[0]

    x = torch.randn(3, 2, 5)
    J = JacobianOperator(states, x, derivatives="trace")
    torch.testing.assert_close(J.to_dense(), JacobianOperator(lambda x: layer(x)[0], x).to_dense())
    assert not caplog.text


def test_arguments_may_be_given_by_name(dense):
    torch.manual_seed(0)
    layer, x, state = nn.GRU(5, 4), torch.randn(3, 2, 5), torch.zeros(1, 2, 4)
    weights = [weight.detach() for weight in layer.parameters()]
    named = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False}
    named |= {"bidirectional": False, "batch_first": False}
    J = JacobianOperator(lambda x: torch.gru(x, state, weights, **named)[0], x)
    torch.testing.assert_close(J.to_dense(), dense(lambda x: layer(x)[0], x))


def test_values_of_many_inputs_are_those_of_each(caplog):
    torch.manual_seed(0)
    net = States(nn.LSTM(5, 4, batch_first=True)).eval()
    X = torch.randn(4, 3, 5)
    S = spectra(net, X, k=5, progress=False)["output"].s
    net.double()
    for s, x in zip(S, X.double(), strict=True):
        truth = torch.linalg.svdvals(torch.func.jacrev(net)(x[None]).flatten(1))
        torch.testing.assert_close(s.double(), truth[:5], rtol=1e-5, atol=1e-6)
    assert not caplog.text


def test_a_depth_behind_a_recurrent_layer_is_recorded(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 5), nn.LSTM(5, 4)).eval()
    f, z = layer_map(net, torch.randn(3, 5), to="1[0]")
    assert svds(JacobianOperator(f, z), 3).converged.all()
    assert not caplog.text


def test_torch_is_as_it_was_afterwards():
    functions = [getattr(torch._VF, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]
    direct, enabled = torch.lstm, torch._C._get_mkldnn_enabled()
    net, x = nn.LSTM(5, 4).eval(), torch.randn(3, 5)
    before = net(x)[0]
    J = JacobianOperator(lambda x: net(x)[0], x)
    assert svds(J, 2).converged.all()
    with pytest.raises(ValueError, match="2D or 3D"), differentiable_recurrence():
        net(torch.randn(1, 1, 1, 5))
    assert functions == [
        getattr(torch._VF, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    ]
    assert torch.lstm is direct
    assert torch._C._get_mkldnn_enabled() == enabled
    assert torch.equal(net(x)[0], before)


def test_layers_of_two_threads_leave_the_libraries_as_they_were():
    enabled = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    net, x = nn.LSTM(5, 4).eval(), torch.randn(50, 5)

    def work():
        for _ in range(20):
            with differentiable_recurrence(), torch.no_grad():
                net(x)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()) == enabled
