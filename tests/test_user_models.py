"""A network that is given to any public function is bit for bit what it was, however that ends."""

import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, depths, geometry, layer_map, svds
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Model, PhotoInput, layer_maps, load_model, weights_sha256
from jvpsvd.operators import Trace, by_transforms, refuse_training_mode, transformed
from jvpsvd.survey import PhotoSelection, Spec, run


class Remembering(nn.Module):
    """Keeps its last input, a list of all, a dictionary, and a counter that it takes anew."""

    def __init__(self):
        super().__init__()
        self.seen, self.by_size, self.calls = [], {}, 0
        self.register_buffer("last_mean", torch.zeros(()))

    def forward(self, x):
        self.last = x
        self.seen.append(x)
        self.by_size[x.shape[-1]] = x.detach().sum()
        self.calls += 1
        return x * 1.5


class Failing(nn.Module):
    """Fails from its n-th call on, counted outside of the module, with the given exception."""

    def __init__(self, error=None, at=0):
        super().__init__()
        self.error, self.at = error, at
        self.counter = (types.SimpleNamespace(calls=0),)

    def forward(self, x):
        self.counter[0].calls += 1
        if self.error is not None and self.counter[0].calls >= self.at:
            raise self.error("as the user's code may")
        return x


class Doubled(nn.Module):
    """A parametrization: what the layer uses is computed from what it holds."""

    def forward(self, weight):
        return 2 * weight


class Network(nn.Module):
    """Shared modules, tied weights, buffers, weights that require grad and frozen ones."""

    def __init__(self, failing):
        super().__init__()
        layer = nn.Linear(4, 4)
        self.shared = nn.Sequential(*[layer] * 3)
        self.norm = nn.BatchNorm1d(4)
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm.weight.requires_grad_(False)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5, 3.0]))
        self.register_buffer("alias", self.scale, persistent=False)
        self.memory, self.failing = Remembering(), failing
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        nn.utils.parametrize.register_parametrization(self.head, "weight", Doubled())

    def forward(self, x):
        rows = x.reshape(1, 4)
        y = self.norm(self.shared(rows).tanh()) * self.scale + self.alias
        y = self.second(self.memory(self.first(y)).tanh())
        return self.head(self.dropout(self.failing(y)))[0]


def network(error=None, at=0):
    torch.manual_seed(3)
    net = Network(Failing(error, at)).eval()
    net.first.register_forward_hook(lambda module, args, output: None)
    net.first.weight.grad = torch.ones_like(net.first.weight)
    net.zeroed = None
    return net


def own_bytes(tensor):
    return tensor.detach().contiguous().numpy().tobytes()


def kept(value):
    """A value as it can be compared: its entries by identity, if it holds any."""
    if isinstance(value, dict):
        return id(value), [(key, id(entry)) for key, entry in value.items()]
    if isinstance(value, list):
        return id(value), [id(entry) for entry in value]
    return id(value)


def snapshot(net):
    """All that a user can see of a network, in comparable form."""
    modules = {
        name: (id(module), type(module), {key: kept(value) for key, value in vars(module).items()})
        for name, module in net.named_modules(remove_duplicate=False)
    }
    tensors = {
        name: (
            id(tensor),
            type(tensor),
            tensor.dtype,
            tensor.requires_grad,
            tensor.data_ptr(),
            own_bytes(tensor),
            None if tensor.grad is None else (id(tensor.grad), own_bytes(tensor.grad)),
        )
        for name, tensor in (
            *net.named_parameters(remove_duplicate=False),
            *net.named_buffers(remove_duplicate=False),
        )
    }
    return modules, tensors, list(net.state_dict())


def settings():
    backends = torch.backends
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "matmul": torch.get_float32_matmul_precision(),
        "precision": [
            owner.fp32_precision
            for owner in (
                backends.cuda.matmul,
                backends.cudnn.conv,
                backends.cudnn.rnn,
                backends.mkldnn.matmul,
                backends.mkldnn.conv,
            )
            if hasattr(owner, "fp32_precision")
        ],
        "attention": (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.mha.get_fastpath_enabled(),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


POINT = torch.tensor([0.3, -0.2, 0.9, 0.1])
POINTS = torch.stack([POINT, POINT + 0.1])


def cut(net):
    f, z = layer_map(net, POINT, to="head", since="second")
    return svds(JacobianOperator(f, z), 2)


ENTRIES = {
    "operator": lambda net: svds(JacobianOperator(net, POINT), 2),
    "recorded": lambda net: JacobianOperator(net, POINT, derivatives="trace") @ POINT,
    "transformed": lambda net: JacobianOperator(net, POINT, derivatives="transforms") @ POINT,
    "float64": lambda net: svds(JacobianOperator(net, POINT.double(), dtype=torch.float64), 2),
    "lambda": lambda net: svds(JacobianOperator(lambda x: net(x).tanh(), POINT), 2),
    "method": lambda net: JacobianOperator(net.forward, POINT),
    "batch": lambda net: svds(JacobianOperator(net, POINTS, batch_dims=1), 2),
    "batch transformed": lambda net: JacobianOperator(
        net, POINTS, batch_dims=1, derivatives="transforms"
    ).matmat(POINT[:, None]),
    "parameters": lambda net: svds(JacobianOperator.wrt_parameters(net, POINT), 2),
    "some parameters": lambda net: JacobianOperator.wrt_parameters(
        net, POINT, names=["shared.1.weight", "second.weight"]
    ),
    "parameters in float64": lambda net: JacobianOperator.wrt_parameters(
        net, POINT.double(), dtype=torch.float64
    ),
    "parameters transformed": lambda net: JacobianOperator.wrt_parameters(
        net, POINT, derivatives="transforms"
    ),
    "by_transforms": lambda net: by_transforms(net, POINT).jvp(POINT[None]),
    "transformed alone": lambda net: transformed(net, POINT).vjp(torch.ones(1, 3)),
    "trace": lambda net: Trace(net, POINT).at(POINT + 0.1),
    "trace at many": lambda net: Trace(net, POINT).at_many(POINTS),
    "stream": lambda net: StreamedStack.over(net, POINTS) @ POINT,
    "gram": lambda net: svds(StreamedStack.over(net, POINTS).mean_gram(), 2),
    "depths": lambda net: depths(net, POINT),
    "layer_map": lambda net: layer_map(net, POINT, to="second")[0](POINT),
    "cut": cut,
    "layer_maps": lambda net: Trace(layer_maps(net, POINT, ["second", "output"]), POINT),
    "refuse_training_mode": refuse_training_mode,
    "weights_sha256": weights_sha256,
    "perturbation": lambda net: geometry.perturbation_response(
        net, POINT, torch.eye(4), [0.1, 1.0]
    ),
    "adversarial": lambda net: geometry.adversarial_direction(net, POINT),
}


def unchanged_by(entry, net, errors=()):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(17)
    before, around = snapshot(net), settings()
    if errors:
        with pytest.raises(errors):
            entry(net)
    else:
        entry(net)
    modules, tensors, names = snapshot(net)
    assert settings() == around
    assert tensors == before[1]
    assert modules == before[0]
    assert names == before[2]


@pytest.mark.parametrize("name", ENTRIES)
def test_what_succeeds_leaves_the_network_as_it_was(name):
    unchanged_by(ENTRIES[name], network())


EVALUATING = [name for name in ENTRIES if name not in ("refuse_training_mode", "weights_sha256")]


@pytest.mark.parametrize("name", EVALUATING)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interruption_leaves_the_network_as_it_was(name, at):
    counted = network()
    ENTRIES[name](counted)
    interrupted = counted.failing.counter[0].calls >= at  # some evaluate it once only
    unchanged_by(ENTRIES[name], network(KeyboardInterrupt, at), interrupted and KeyboardInterrupt)


@pytest.mark.parametrize("name", EVALUATING)
def test_an_error_of_the_network_leaves_it_as_it_was(name):
    unchanged_by(ENTRIES[name], network(IndexError, 1), (JvpsvdError, IndexError))


@pytest.mark.parametrize("name", EVALUATING)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_network_in_training_mode_keeps_its_statistics(name, hidden):
    net = network()
    net.norm.train()
    entry = ENTRIES[name]
    unchanged_by((lambda net: entry(lambda x: net(x))) if hidden else entry, net, Exception)


class Recurrent(nn.Module):
    """Layers that torch itself keeps lists of weights of, or that have no forward mode."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(4, 4, batch_first=True)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.recurrent(x.reshape(1, 2, 4))[0])[0, -1]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "entry",
    [
        lambda net, x: JacobianOperator(net, x),
        lambda net, x: JacobianOperator(net, x.double(), dtype=torch.float64),
        lambda net, x: JacobianOperator.wrt_parameters(net, x),
    ],
)
def test_recurrent_layers_are_left_as_they_were(entry):
    torch.manual_seed(0)
    net = Recurrent().eval()
    unchanged_by(lambda net: svds(entry(net, torch.linspace(-1, 1, 8)), 2), net)


def test_what_a_factory_returns_is_left_as_it_was(monkeypatch):
    net = network()
    made = types.ModuleType("made_elsewhere")
    made.factory = lambda: net
    monkeypatch.setitem(sys.modules, "made_elsewhere", made)
    unchanged_by(lambda net: load_model("made_elsewhere:factory"), net)


class OfPhotos(Network):
    """The network above, of the first four pixels of a photo."""

    def forward(self, x):
        return super().forward(x.flatten()[:4])[None]


@pytest.mark.parametrize("way", ["recorded", "transformed"])
def test_a_run_leaves_the_network_as_it_was(way, shard, tmp_path):
    torch.manual_seed(3)
    net = OfPhotos(Failing()).eval()
    if way == "transformed":
        net.dropout = LooksAtValues().eval()
    model = Model("mine", net, PhotoInput(size=8, resize=8), weights_sha256(net))
    spec = Spec(
        str(shard),
        tmp_path / "run",
        model=model,
        layers=["second", "output"],
        k=2,
        photos=PhotoSelection(limit=2),
    )
    before = snapshot(net)
    run(spec)
    assert snapshot(net) == before


class LooksAtValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > -1e9 else -x
