"""Inputs whose first dimension is not the batch of the network, and pairs that hold arguments."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jvpsvd import JacobianOperator, StreamedStack, ntk, singular_values, spectra
from jvpsvd.errors import ArgumentError


class Applied(nn.Module):
    """A function of x and of modules."""

    def __init__(self, run, *modules):
        super().__init__()
        self.run, self.parts = run, nn.ModuleList(modules)

    def forward(self, x):
        return self.run(x, *self.parts)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask=None):
        h = self.linear(x)
        return (h if mask is None else h * mask).tanh()


class Switched(nn.Linear):
    def forward(self, x, activated=True):
        h = super().forward(x)
        return h.tanh() if activated else h


def encoder(batch_first):
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first),
        1,
        enable_nested_tensor=False,
    )


def made(make):
    torch.manual_seed(0)
    return make().double().eval()


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def refused(call, match):
    with pytest.raises(ArgumentError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def true_values(net, x, k):
    J = torch.autograd.functional.jacobian(net, x)
    return torch.linalg.svdvals(J.reshape(-1, x.numel()))[:k]


def assert_values_of_batches(net, X, k=2):
    found = spectra(net, X, k=k, progress=False)["output"].s
    expected = torch.stack([true_values(net, x[None], found.shape[1]) for x in X])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


GREY = {
    "softmax over channels": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)),
    "mean of channels": lambda: Applied(lambda x, conv: conv(x).mean(1), nn.Conv2d(1, 4, 3)),
    "scores": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1)
    ),
}
NO_CHANNEL = r"give inputs of shape \(1, 6, 6\), as X\[:, None\]"


@pytest.mark.parametrize("name", GREY)
def test_grey_images_without_a_channel_are_refused(name):
    net, X = made(GREY[name]), randn(3, 6, 6)
    refused(lambda: spectra(net, X, k=2, progress=False), NO_CHANNEL)
    refused(lambda: ntk(net, X, k=2), NO_CHANNEL)
    refused(lambda: JacobianOperator(net, X, batch_dims=1), NO_CHANNEL)
    refused(lambda: JacobianOperator(lambda x: net(x), X, batch_dims=1), NO_CHANNEL)
    refused(lambda: singular_values(net, X, batch_dims=1), NO_CHANNEL)
    refused(lambda: StreamedStack.over(net, X), NO_CHANNEL)
    assert_values_of_batches(net, X[:, None])


def test_a_signal_without_a_channel_is_refused():
    net, X = made(lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.Softmax(1))), randn(3, 9)
    refused(lambda: spectra(net, X, k=2, progress=False), r"shape \(1, 9\), as X\[:, None\]")


def test_grey_images_of_which_a_network_computes_the_same_pass():
    net, X = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())), randn(3, 6, 6)
    found = spectra(net, X, k=2, progress=False)["output"].s
    expected = torch.stack([true_values(net, x[None, None], 2) for x in X])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


STEPS_FIRST = {
    "states": lambda: Applied(lambda x, gru: gru(x)[0], nn.GRU(4, 3)),
    "last state": lambda: Applied(lambda x, gru: gru(x)[0][-1], nn.GRU(4, 3)),
    "long memory": lambda: Applied(lambda x, lstm: lstm(x)[0].tanh(), nn.LSTM(4, 3)),
    "transformer": lambda: encoder(batch_first=False),
    "class token": lambda: Applied(lambda x, encoder: encoder(x)[0], encoder(batch_first=False)),
}
NO_BATCH = "let it take the batch first"


@pytest.mark.parametrize("name", STEPS_FIRST)
def test_networks_with_steps_first_are_refused(name):
    net, X = made(STEPS_FIRST[name]), randn(3, 5, 4)
    refused(lambda: spectra(net, X, k=2, progress=False), NO_BATCH)
    refused(lambda: spectra(net, list(X), k=2, progress=False), NO_BATCH)
    with pytest.raises(ArgumentError, match="batch"):
        ntk(net, X, k=2)


def test_words_by_steps_first_are_refused_from_their_embedding_on():
    class Words(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.gru = nn.GRU(4, 3, batch_first=batch_first)

        def forward(self, ids):
            return self.gru(self.embedding(ids))[0]

    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    net = made(lambda: Words(batch_first=False))
    refused(lambda: spectra(net, ids, since="embedding", k=2, progress=False), NO_BATCH)
    net = made(lambda: Words(batch_first=True))
    found = spectra(net, ids, ["gru[0]"], since="embedding", k=2, progress=False)["gru[0]"].s
    for s, row in zip(found, ids, strict=True):
        expected = true_values(lambda z: net.gru(z)[0], net.embedding(row[None]).detach(), 2)
        torch.testing.assert_close(s, expected, rtol=1e-5, atol=1e-8)


def test_networks_that_mix_the_inputs_of_a_batch_are_refused():
    net = made(lambda: Applied(lambda x, f: f(x) - f(x).mean(0), nn.Linear(4, 3)))
    refused(lambda: spectra(net, randn(5, 4), k=2, progress=False), "mixes the inputs")
    refused(lambda: spectra(net, torch.zeros(5, 4).double(), k=2, progress=False), "mixes")
    refused(lambda: ntk(net, randn(5, 4), k=2), "mixes the inputs")


def test_inputs_that_are_batches_of_one_are_refused():
    net, X = made(lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))), randn(5, 4)
    for given in (X[:, None], [x[None] for x in X]):
        refused(lambda given=given: spectra(net, given, k=2, progress=False), "batch of their own")
        refused(lambda given=given: ntk(net, given, k=2), r"as x\[0\], or X\[:, 0\]")
    assert_values_of_batches(net, X)


TAKEN = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Softmax(1)), (4,)),
    "numbers": (lambda: nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3), nn.Tanh()), ()),
    "flattened batches of one": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 4)),
    "grey images": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)), (1, 6, 6)),
    "images": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Softmax(1), nn.Flatten()), (3, 6, 6)),
    "one step": (lambda: Applied(lambda x, f: f(x)[0], nn.GRU(4, 3, batch_first=True)), (1, 4)),
    "states": (lambda: Applied(lambda x, f: f(x)[0], nn.GRU(4, 3, batch_first=True)), (5, 4)),
    "last state": (
        lambda: Applied(lambda x, f: f(x)[0][:, -1], nn.LSTM(4, 3, batch_first=True)),
        (5, 4),
    ),
    "transformer": (lambda: encoder(batch_first=True), (5, 4)),
    "steps first inside": (
        lambda: Applied(lambda x, f: f(x.transpose(0, 1))[-1], encoder(batch_first=False)),
        (5, 4),
    ),
    "steps first returned": (
        lambda: Applied(lambda x, f: f(x.transpose(0, 1)), encoder(batch_first=False)),
        (5, 4),
    ),
    "in one row": (
        lambda: Applied(lambda x, f: torch.cat([f(x).flatten(), x.flatten()]), nn.Linear(4, 3)),
        (4,),
    ),
    "tokens in order of their scores": (
        lambda: Applied(lambda x, f: f(x.flatten(0, 1)[x[..., 0].flatten().argsort()]), nn.Tanh()),
        (5, 4),
    ),
    "constant": (lambda: Applied(lambda x, f: f(x) * 0 + f.bias, nn.Linear(4, 3)), (4,)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_networks_of_batches_give_the_values_of_dense_jacobians(name, caplog):
    make, shape = TAKEN[name]
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        assert_values_of_batches(made(make), randn(3, *shape))
    assert "two inputs together" not in caplog.text


ONE_BY_ONE = {
    "reshape": lambda: Applied(lambda x, f: f(x.reshape(1, 4)), nn.Linear(4, 3)),
    "sum of a batch": lambda: Applied(lambda x, f: f(x).square().sum(), nn.Linear(4, 3)),
    "first of a batch": lambda: Applied(lambda x, f: f(x)[0], nn.Linear(4, 3)),
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_network_of_one_input_at_a_time_passes_and_the_log_says_so(name, caplog):
    net = made(ONE_BY_ONE[name])
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        assert_values_of_batches(net, randn(4, 4))
    assert caplog.text.count("does not take two inputs together") == 1


def test_a_network_in_half_precision_passes():
    net = made(lambda: nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 3)))
    net, X = net.bfloat16(), randn(3, 64).bfloat16()
    assert spectra(net, X, k=2, dtype=torch.float32, progress=False)["output"].s.shape == (3, 2)


def test_arguments_that_are_single_numbers_pass():
    class Timed(nn.Linear):
        def forward(self, x, t):
            return super().forward(x).tanh() * t

    net, X = made(lambda: Timed(4, 2)), randn(3, 4)
    inputs = [{"x": x, "t": torch.tensor(float(i)).double()} for i, x in enumerate(X)]
    found = spectra(net, inputs, wrt="x", k=2, progress=False)["output"].s
    for i, x in enumerate(X):
        expected = true_values(lambda z, i=i: net(z, i), x[None], 2)
        torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-8)


PAIRS = {
    "masks": lambda X: TensorDataset(X, torch.ones(5, 4)),
    "masks and labels": lambda X: TensorDataset(X, torch.ones(5, 4), torch.arange(5)),
    "labels and indices": lambda X: TensorDataset(X, torch.arange(5), torch.arange(5)),
    "loader of masks": lambda X: DataLoader(TensorDataset(X, torch.ones(5, 4)), batch_size=2),
    "list of arrays": lambda X: [(x, np.ones(4)) for x in X.numpy()],
    "dicts": lambda X: [(x, {"mask": torch.ones(4)}) for x in X],
    "boolean masks": lambda X: [(x, torch.ones(4) > 0) for x in X],
    "times": lambda X: [(x, torch.tensor(0.5)) for x in X],
    "switches": lambda X: [(x, torch.tensor(True)) for x in X],
    "switches of Python": lambda X: [(x, True) for x in X],
    "switches of NumPy": lambda X: [(x, np.bool_(True)) for x in X],
    "arrays of switches": lambda X: [(x, np.array(True)) for x in X.numpy()],
    "dataset of switches": lambda X: TensorDataset(X, torch.ones(5) > 0),
    "loader of switches": lambda X: DataLoader(TensorDataset(X, torch.ones(5) > 0), batch_size=2),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_second_argument_is_refused_in_a_pair(kind):
    net, X = made(Masked), randn(5, 4)
    match = r"takes x, mask: only the first .* as \{'x': …, 'mask': …\}"
    refused(lambda: spectra(net, PAIRS[kind](X), k=2, progress=False), match)
    refused(lambda: ntk(net, PAIRS[kind](X), k=2), match)


LABELS = {
    "indices": lambda X: TensorDataset(X, torch.arange(5)),
    "loader": lambda X: DataLoader(TensorDataset(X, torch.arange(5)), batch_size=2),
    "loader of columns": lambda X: DataLoader(TensorDataset(X, torch.zeros(5, 1).int())),
    "words": lambda X: [(x, "cat") for x in X],
    "loader of words": lambda X: DataLoader([(x, "cat") for x in X], batch_size=2),
    "numbers": lambda X: [(x, 3) for x in X],
    "scalars": lambda X: [(x, np.int64(3)) for x in X],
    "arrays": lambda X: [(x, np.array(3)) for x in X.numpy()],
    "tensors of one": lambda X: [(x, torch.tensor([3])) for x in X],
}


@pytest.mark.parametrize("kind", LABELS)
def test_class_indices_and_words_stay_labels(kind):
    net, X = made(Masked), randn(5, 4)
    found = spectra(net, LABELS[kind](X), k=2, progress=False)["output"].s
    expected = torch.stack([true_values(net, x[None], 2) for x in X])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


ONE_ARGUMENT = {
    "plain": lambda: nn.Linear(4, 4),
    "with a switch": lambda: Switched(4, 4),
    "traced": lambda: torch.jit.trace(nn.Linear(4, 4).double(), torch.ones(1, 4).double()),
    "parallel": lambda: nn.DataParallel(nn.Linear(4, 4)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", ONE_ARGUMENT.values(), ids=ONE_ARGUMENT)
def test_networks_of_one_argument_take_labels_of_any_kind(make):
    net, X = made(make), randn(5, 4)
    for kind in PAIRS:
        found = spectra(net, PAIRS[kind](X), k=2, progress=False)["output"].s
        assert torch.equal(found, spectra(net, X, k=2, progress=False)["output"].s)


def test_a_data_loader_with_a_sampler_of_batches_is_taken_apart():
    net, X = made(lambda: nn.Linear(4, 3)), randn(5, 4)
    loader = DataLoader(TensorDataset(X), batch_sampler=[[0, 1], [2, 3], [4]])
    found = spectra(net, loader, k=2, progress=False)["output"].s
    assert found.shape == (5, 2)
    assert torch.allclose(found, true_values(net, X[0], 2).expand(5, 2))
