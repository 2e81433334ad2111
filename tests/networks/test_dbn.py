import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jvpsvd import JacobianOperator, depths, svds
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.networks.boltzmann import ContrastiveDivergence
from jvpsvd.networks.dbn import (
    BackPropagation,
    Logistic,
    error_rate,
    fine_tune,
    load_network,
    pre_train,
    save_network,
)

CLASSES = 3


@pytest.fixture(scope="module")
def data():
    """Noisy copies of three patterns, with their labels."""
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(CLASSES, 16, generator=generator) > 0.5).float()
    labels = torch.arange(240) % CLASSES
    flips = torch.rand(240, 16, generator=generator) < 0.05
    return torch.where(flips, 1 - patterns[labels], patterns[labels]), labels


@pytest.fixture(scope="module", params=[1.0, 2.0])
def net(request, data):
    config = ContrastiveDivergence(epochs=40, batch=20)
    return pre_train(*data, sizes=(12, 10, 14), config=config, gain=request.param)


def test_layers_are_stacked_and_the_last_sees_the_labels(net):
    assert net.sizes == (16, 12, 10, 14)
    assert net.machines[-1].weight.shape == (10 + CLASSES, 14)


def test_free_energy_classifies(net, data):
    assert error_rate(net.classify(data[0]), data[1]) < 0.1


def test_network_is_the_recognition_pass(net, data):
    x = data[0][:5]
    h = net.machines[1].up(net.machines[0].up(x))
    unknown = torch.cat([h, torch.full((5, CLASSES), 1 / CLASSES)], dim=1)
    expected = net.machines[2].up(unknown)
    assert torch.allclose(net.network(softmax=False)(x), expected, atol=1e-6)
    assert net.network(softmax=True)(x).shape == (5, CLASSES)


def test_fine_tuning_lowers_the_error_and_leaves_its_network_alone(net, data):
    network = net.network(softmax=True)
    before = [parameter.clone() for parameter in network.parameters()]
    epochs = []
    tuned = fine_tune(network, *data, BackPropagation(epochs=30, batch=20), progress=epochs.append)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert error_rate(tuned(data[0]).argmax(1), data[1]) < 0.02
    assert epochs[-1].error < epochs[0].error
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_test_errors_are_reported_as_it_trains_and_change_nothing(net, data):
    config, epochs = ContrastiveDivergence(epochs=8, batch=20), []
    trained, alone = (
        pre_train(*data, sizes=(12, 10), config=config, held_out=held_out, progress=epochs.append)
        for held_out in (data, None)
    )
    assert torch.equal(trained.machines[-1].weight, alone.machines[-1].weight)
    assert [epoch.test_error is None for epoch in epochs] == [True] * 8 + [False] * 8 + [True] * 16
    assert epochs[15].test_error == error_rate(trained.classify(data[0]), data[1])
    epochs.clear()
    tuned = fine_tune(
        net.network(softmax=True), *data, BackPropagation(4), held_out=data, progress=epochs.append
    )
    assert epochs[-1].test_error == error_rate(tuned(data[0]).argmax(1), data[1])


def test_one_layer_tells_its_test_error(data):
    epochs = []
    net = pre_train(
        *data, sizes=(14,), config=ContrastiveDivergence(2), held_out=data, progress=epochs.append
    )
    assert epochs[-1].test_error == error_rate(net.classify(data[0]), data[1])


def test_fine_tuning_repeats(net, data):
    once, twice = (
        fine_tune(net.network(softmax=True), *data, BackPropagation(epochs=2)) for _ in range(2)
    )
    assert torch.equal(once(data[0]), twice(data[0]))


def test_networks_survive_the_disk(net, data, tmp_path):
    for softmax in (False, True):
        network = net.network(softmax=softmax)
        save_network(network, tmp_path / "net.safetensors")
        again = load_network(tmp_path / "net.safetensors")
        assert torch.equal(network(data[0]), again(data[0]))


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_another_file_is_one_error(tmp_path, content):
    file = tmp_path / "net.safetensors"
    if content is None:
        save_file({"x": torch.zeros(1)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ModelError, match="no network of save_network"):
        load_network(file)


ONES = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2)}
UNFIT = {
    "weights of one axis": ({**ONES, "0.weight": torch.ones(2)}, '["1"]'),
    "weights of three axes": ({**ONES, "0.weight": torch.ones(2, 3, 1)}, "[1.0]"),
    "biases of another size": ({**ONES, "0.bias": torch.ones(3)}, "[1.0]"),
    "complex weights": ({**ONES, "0.weight": torch.ones(2, 3, dtype=torch.complex64)}, "[1.0]"),
    "integers": ({**ONES, "0.bias": torch.ones(2, dtype=torch.int64)}, "[1.0]"),
    "no values": ({"0.weight": torch.ones(0, 3), "0.bias": torch.ones(0)}, "[1.0]"),
    "no layers": ({}, "[]"),
    "layers apart": (
        {**ONES, "1.weight": torch.ones(4, 3), "1.bias": torch.ones(4)},
        "[1.0, 1.0]",
    ),
    "gains without layers": (ONES, "[1.0, 2.0]"),
    "an infinite gain": (ONES, "[1e999]"),
    "a name that acts on a terminal": ({**ONES, "1.weight\x1b[2J": torch.ones(1)}, "[1.0]"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_tensors_that_are_no_network_are_one_error(case, tmp_path):
    tensors, gains = UNFIT[case]
    file = tmp_path / "net.safetensors"
    save_file(tensors, file, metadata={"gains": gains})
    with pytest.raises(ModelError, match=r"net\.safetensors is no network of save_net") as caught:
        load_network(file)
    assert str(caught.value).isprintable()


def test_jacobian_of_a_layer_is_its_weight_times_slopes(net, data):
    """J = diag(g h (1 − h)) W', the transpose of the paper's eq. 3."""
    network, x = net.network(softmax=False)[:2], data[0][0]
    rbm = net.machines[0]
    h = rbm.up(x)
    J = rbm.gain * (h * (1 - h))[:, None] * rbm.weight.T
    result = svds(JacobianOperator(network, x), 12)
    assert torch.allclose(result.s, torch.linalg.svdvals(J), rtol=1e-4)


def test_depths_are_seen(net):
    found = depths(net.network(softmax=True), torch.zeros(1, 16), functions=False)
    assert [depth.name for depth in found[:6]] == ["0", "1", "2", "3", "4", "5"]


def test_other_layers_are_not_fine_tuned(data):
    with pytest.raises(ArgumentError, match="linear and logistic"):
        fine_tune(nn.Sequential(nn.ReLU()), *data)


@pytest.mark.parametrize("sizes", [(), (4, 0)])
def test_sizes_that_are_none_are_refused(data, sizes):
    with pytest.raises(ArgumentError):
        pre_train(*data, sizes=sizes, config=ContrastiveDivergence(epochs=1))


def test_gain_steepens():
    x = torch.linspace(-2, 2, 5)
    assert torch.allclose(Logistic(3.0)(x), 1 / (1 + torch.exp(-3 * x)))
