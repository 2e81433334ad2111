"""Spectra in one call: every kind of inputs, against dense Jacobians and against a survey."""

import copy

import numpy as np
import pytest
import torch
from support.shards import sample_members, write_tar
from support.spectra_problems import INPUTS, LAYERS, K, inputs, network
from support.thinned import thinned
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from jvpsvd import load, ntk, spectra
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Derivatives, Model, PhotoInput, weights_sha256
from jvpsvd.survey import Spec, open, run


def truth(net, x, layer):
    part = {"1": net[:2], "2": net[:3], "output": net}[layer]
    J = torch.func.jacrev(part)(x[None])
    return torch.linalg.svdvals(J.reshape(-1, x.numel()).double())


class ByIndex(Dataset):
    def __len__(self):
        return INPUTS

    def __getitem__(self, index):
        return inputs()[index], index % 2


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(inputs())


def fill(buffer):
    for x in inputs().numpy():
        buffer[:] = x
        yield buffer


KINDS = {
    "tensor": inputs,
    "dataset": lambda: TensorDataset(inputs(), torch.zeros(INPUTS)),
    "dataset by index": ByIndex,
    "stream": Streamed,
    "loader": lambda: DataLoader(TensorDataset(inputs(), torch.zeros(INPUTS)), batch_size=3),
    "loader without batches": lambda: DataLoader(ByIndex(), batch_size=None),
    "list": lambda: list(inputs()),
    "generator": lambda: (x for x in inputs()),
    "array": lambda: inputs().numpy(),
    "read-only array": lambda: np.frombuffer(inputs().numpy().tobytes(), np.float32).reshape(
        inputs().shape
    ),
    "list of arrays": lambda: list(inputs().numpy()),
    "pairs of arrays": lambda: [(x, 1) for x in inputs().numpy()],
    "loader of arrays": lambda: DataLoader(
        list(inputs().numpy()), batch_size=3, collate_fn=np.stack
    ),
    "generator with one buffer": lambda: fill(np.empty((3, 8, 8), np.float32)),
}


@thinned("kind, batch", list(KINDS), [None, 1, 3], keep=3)
def test_every_kind_of_inputs_gives_the_values_of_dense_jacobians(kind, batch):
    net, X = network(), inputs()
    found = spectra(net, KINDS[kind](), LAYERS, k=K, batch=batch, progress=False)
    assert found.layers == tuple(LAYERS)
    for layer in LAYERS:
        depth = found[layer]
        assert depth.s.shape == (INPUTS, 5 if layer == "output" else K)
        for index, x in enumerate(X):
            s = truth(net, x, layer)[: depth.k]
            assert (found[layer, index].double() - s).abs().max() <= 1e-5 * s[0]
        assert depth.certified.all()
        assert (depth.residuals <= 1e-5 * depth.s[:, :1]).all()


def test_the_model_and_its_inputs_are_as_they_were():
    net, X = network(), inputs()
    before, copy = weights_sha256(net), X.clone()
    spectra(net, X, LAYERS, k=2, progress=False)
    assert weights_sha256(net) == before
    assert torch.equal(X, copy)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_survey_gives_the_same_numbers(tmp_path):
    net = network()
    members = [m for i in range(4) for m in sample_members(f"photo{i}", i, i % 2)]
    write_tar(tmp_path / "s.tar", members)
    model = Model("mine", net, PhotoInput(size=8, resize=8), weights_sha256(net))
    spec = Spec(
        shards=[tmp_path / "s.tar"], model=model, out=tmp_path / "run", k=5, layers=tuple(LAYERS)
    )
    run(spec)
    stored = open(tmp_path / "run")
    photos = [photo_tensor(tmp_path / "s.tar", i, model) for i in range(4)]
    found = spectra(net, photos, LAYERS, k=5, progress=False)
    for layer in LAYERS:
        s = torch.from_numpy(stored.spectra(layer).s)
        assert (found[layer].s.double() - s).abs().max() <= 1e-5 * s.max()


def photo_tensor(shard, number, model):
    import tarfile

    from jvpsvd.data import decode_photo

    with tarfile.open(shard) as tar:
        name = next(m for m in tar.getnames() if m.startswith(f"photo{number}.") and "jp" in m)
        return decode_photo(tar.extractfile(name).read(), model.photo_input)[0]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens, mask):
        value = torch.tanh(self.embedding(tokens)) * mask[..., None]
        return self.head(value.mean(1))


@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_inputs_of_several_arguments_are_differentiated_from_a_depth(batched, arrays):
    net = Words().eval()
    tokens, mask = torch.arange(10).reshape(2, 5), torch.ones(2, 5)
    X = {"tokens": tokens, "mask": mask}
    if arrays:
        X = {name: value.numpy() for name, value in X.items()}
    if not batched:
        X = [{name: value[i] for name, value in X.items()} for i in range(2)]
    found = spectra(net, X, since="embedding", k=3, progress=False)
    assert found["output"].shape == (3, 20)
    for index in range(2):
        z = net.embedding(tokens[index : index + 1]).detach()

        def f(z, index=index):
            return net.head((torch.tanh(z) * mask[index : index + 1, :, None]).mean(1))

        J = torch.func.jacrev(f)(z).reshape(3, 20)
        assert torch.allclose(found["output", index], torch.linalg.svdvals(J), rtol=1e-4)
    with pytest.raises(ArgumentError, match="since="):
        spectra(net, X, k=3, progress=False)


def test_inputs_on_another_path_than_the_first_are_solved_one_by_one():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else 3 * super().forward(x)

    net, X = Branching(3, 2).eval(), torch.tensor([[1.0, 1, 1], [-1, -1, -1], [2, 1, 1]])
    found = spectra(net, X, k=2, batch=3, progress=False)["output"].s
    s = torch.linalg.svdvals(net.weight.detach())
    assert torch.allclose(found, torch.stack([s, 3 * s, s]), rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_all_values(batch):
    net, X = network(), inputs()
    found = spectra(net, X, LAYERS, k="all", batch=batch, progress=False)
    assert [depth.k for depth in found] == [72, 72, 5]
    for layer in LAYERS:
        for index, x in enumerate(X):
            s = truth(net, x, layer)
            assert (found[layer, index].double() - s).abs().max() <= 1e-5 * s[0]


def test_without_a_seed():
    net, X = network(), inputs()
    found = spectra(net, X, k=2, seed=None, progress=False)["output"]
    assert torch.allclose(found.s, spectra(net, X, k=2, progress=False)["output"].s, rtol=1e-5)


def test_all_values_above_the_threshold_are_counted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 50)).eval()
    X = torch.randn(6, 40)
    S = spectra(model, X, layers=["1", "output"], k=4, threshold=0.3, progress=False)
    for layer, f in (("1", model[:2]), ("output", model)):
        depth = S[layer]
        truth = torch.tensor(
            [int((torch.linalg.svdvals(torch.func.jacrev(f)(x)) >= 0.3).sum()) for x in X]
        )
        _, low, high, error = depth.counts.T
        assert bool((low - 4 * error <= truth).all())
        assert bool((truth <= high + 4 * error).all())
        assert bool((truth > 4).all())
        assert abs(depth.dimension.value - float(truth.double().mean())) <= 5
    assert "σ ≥ 0.3" in str(S)


@pytest.mark.parametrize("k", [2, 40, "all"])
def test_texts_of_several_lengths(k, tmp_path):
    net = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 5)).eval()
    texts = [torch.tensor(ids) for ids in ([1, 2], [3, 4, 5], [6, 7])]
    found = spectra(net, texts, layers=["output"], since="0", k=k, progress=False)
    depth = found["output"]
    kept = 2 if k == 2 else 12
    assert depth.s.shape == (3, kept)
    assert depth.shapes.tolist() == [[10, 8], [15, 12], [10, 8]]
    truth = []
    for index, ids in enumerate(texts):
        J = torch.func.jacrev(net[1:])(net[0](ids).detach()).reshape(5 * len(ids), -1)
        s = torch.linalg.svdvals(J)[:kept]
        truth.append(torch.nn.functional.pad(s, (0, kept - len(s)), value=torch.nan))
        assert torch.allclose(depth[index], truth[-1], rtol=1e-4, equal_nan=True)
    truth = torch.stack(truth).double()
    assert torch.allclose(depth.mean, truth.nanmean(0), rtol=1e-4)
    assert torch.allclose(depth.std[:8], truth[:, :8].std(0), rtol=1e-2, atol=1e-6)
    assert depth.std[8:].tolist() == [0.0] * (kept - 8 if kept > 8 else 0)
    assert torch.equal(depth.converged, depth.s.isfinite())
    assert bool(depth.certified.all())
    line = next(line for line in str(found).splitlines() if "output" in line)
    assert "10-15 x 8-12" in line
    assert ("8-12" in line.split("x 8-12")[1]) == (k != 2)
    found.save(tmp_path / "S.safetensors")
    again = load(tmp_path / "S.safetensors")["output"]
    assert torch.equal(again.shapes, depth.shapes)
    assert torch.allclose(again.s, depth.s, equal_nan=True)


class Masked(nn.Module):
    """A network of token ids and weights of them, which tells how often it was called."""

    def __init__(self, called):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 3)
        self._called = called

    def forward(self, tokens, weights):
        self._called.append(tuple(tokens.shape))
        return self.head((torch.tanh(self.embedding(tokens)) * weights[..., None]).sum(1))


def texts_and_truth(net, lengths, weights_of):
    """Inputs of these lengths, and the singular values of each from the embedding on."""
    dice = torch.Generator().manual_seed(0)
    texts, truth = [], []
    wide = copy.deepcopy(net).double()
    for index, length in enumerate(lengths):
        tokens = torch.randint(11, (length,), generator=dice)
        weights = weights_of(index, length)
        texts.append({"tokens": tokens, "weights": weights})

        def f(z, weights=weights):
            return wide.head((torch.tanh(z) * weights.double()[:, None]).sum(0))

        J = torch.func.jacrev(f)(wide.embedding(tokens).detach()).flatten(1)
        truth.append(torch.linalg.svdvals(J))
    return texts, torch.stack(truth)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_texts_of_one_length_with_other_masks_have_their_own_derivatives(offset):
    """Beside an output of 1e4, values hardly tell one mask from another."""
    net = Masked([]).eval()
    with torch.no_grad():
        net.head.bias[0] = offset
    texts, truth = texts_and_truth(net, [5, 5, 5], lambda i, n: (torch.arange(n) != i).float())
    found = spectra(net, texts, since="embedding", k=3, progress=False)["output"].s
    assert torch.allclose(found.double(), truth, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_float64_spectra_of_a_float32_network(batch):
    net, X = network(), inputs()
    before = weights_sha256(net)
    found = spectra(
        net, X, LAYERS, k=5, batch=batch, tol=1e-12, dtype=torch.float64, progress=False
    )
    wide = copy.deepcopy(net).double()
    for layer in LAYERS:
        assert found[layer].s.dtype == torch.float64
        for index, x in enumerate(X.double()):
            s = truth(wide, x, layer)[:5]
            assert (found[layer, index] - s).abs().max() <= 1e-12 * s[0]
    assert weights_sha256(net) == before


def test_float64_spectra_of_texts_from_a_depth():
    net = Masked([]).eval()
    texts, truth = texts_and_truth(net, [5, 4, 5], lambda i, n: torch.rand(n))
    found = spectra(
        net, texts, since="embedding", k=3, tol=1e-12, dtype=torch.float64, progress=False
    )
    assert torch.allclose(found["output"].s, truth, rtol=1e-11)


def test_float32_spectra_of_a_network_in_half_precision():
    net, X = network().bfloat16(), inputs().bfloat16()
    found = spectra(net, X, LAYERS, k=5, dtype=torch.float32, progress=False)
    wide = copy.deepcopy(net).float()
    for layer in LAYERS:
        for index, x in enumerate(X.float()):
            s = truth(wide, x, layer)[:5]
            assert (found[layer, index] - s).abs().max() <= 1e-5 * s[0]
    assert net[0].weight.dtype == torch.bfloat16


def test_a_dtype_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="dtype='float64' is not real floating point"):
        spectra(network(), inputs(), dtype="float64", progress=False)


@pytest.mark.parametrize("named", [False, True])
def test_a_loader_that_fills_one_buffer_again_and_again(named):
    """Inputs are solved in groups that hold several batches of it."""
    X, buffer = torch.randn(6, 3), torch.zeros(2, 3)

    def collate(items):
        batch = torch.stack(items, out=buffer[: len(items)])
        return {"x": batch} if named else batch

    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(x * x).tanh()

    net = Net(3, 2).eval()
    loader = DataLoader(X, batch_size=2, collate_fn=collate)
    if named:
        kernels = [ntk(net, given, k=4).values for given in (loader, {"x": X})]
        torch.testing.assert_close(*kernels)
    else:
        found, expected = (spectra(net, given, k=2, progress=False) for given in (loader, X))
        torch.testing.assert_close(found["output"].s, expected["output"].s)


def test_texts_of_one_length_share_a_recording(count_recordings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Tanh()).double().eval()
    texts = [{"input": torch.randint(9, (1, length))} for length in (5, 5, 5, 7, 7)]
    for index, text in enumerate(texts):
        before = count_recordings()
        found = spectra(net, texts[: index + 1], "output", k=3, since="0", progress=False)
        assert count_recordings() - before == 1 + (index > 2)
        z = net[0](text["input"]).detach()
        J = torch.func.jacrev(lambda z: net[1:](z))(z).reshape(-1, z.numel()).detach()
        torch.testing.assert_close(found["output", index], torch.linalg.svdvals(J)[:3])


def test_many_tiny_jacobians_are_solved_together_and_as_each_alone(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
    X = torch.randn(150, 6, generator=torch.Generator().manual_seed(1)).double()
    groups = []
    at_many = Derivatives.at_many
    monkeypatch.setattr(
        Derivatives, "at_many", lambda self, X: groups.append(len(X)) or at_many(self, X)
    )
    S = spectra(net, X, k=4, progress=False)
    alone = spectra(net, X, k=4, batch=1, progress=False)
    assert groups == [128, 22]
    expected = torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(net))(X))
    torch.testing.assert_close(S["output"].s, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(S["output"].s, alone["output"].s, rtol=1e-12, atol=1e-13)
    assert torch.equal(S["output"].counts, alone["output"].counts)
    assert torch.equal(S["output"].certified, alone["output"].certified)
    assert torch.equal(S["output"].seeds, alone["output"].seeds)
