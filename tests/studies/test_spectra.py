"""Spectra in one call: every kind of inputs, against dense Jacobians and against a survey."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.shards import sample_members, write_tar
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from jvpsvd import load, spectra
from jvpsvd.errors import ArgumentError, DataError, ModelError, NonFiniteError
from jvpsvd.networks import Model, PhotoInput, weights_sha256
from jvpsvd.studies.network_spectra import KIND
from jvpsvd.survey import Spec, open, run
from jvpsvd.svd.storage import read_record, write_record

LAYERS = ["1", "2", "output"]
INPUTS, K = 7, 6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 5)).eval()


def inputs():
    return torch.randn(INPUTS, 3, 8, 8, generator=torch.Generator().manual_seed(1))


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


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
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


def test_means_table_and_representation():
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    depth = found["1"]
    assert torch.allclose(depth.mean, depth.s.double().mean(0))
    assert torch.allclose(depth.std, depth.s.double().std(0))
    text = str(found)
    assert all(word in text for word in ("σ1", "72 x 192", "5 x 192", "7/7", *LAYERS))
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\n" not in repr(found)
    assert repr(found[LAYERS[0]]).startswith(
        f"<DepthSpectra: 7 inputs at {LAYERS[0]}, 72 x 192, k="
    )
    assert all("\n" not in repr(one) and str(one) == repr(one) for one in found)
    assert [one.layer for one in found] == LAYERS
    single = spectra(network(), inputs()[:1], k=2, progress=False)["output"]
    assert single.std.tolist() == [0.0, 0.0]


def test_saved_and_loaded_again(tmp_path):
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    found.save(tmp_path / "spectra.safetensors")
    again = load(tmp_path / "spectra.safetensors")
    assert (again.layers, again.model, again.tol) == (found.layers, found.model, found.tol)
    assert str(again) == str(found)
    assert again == found
    assert again != spectra(network(), 2 * inputs(), LAYERS, k=K, progress=False)
    for one, other in zip(found, again, strict=True):
        assert one.shape == other.shape
        for name in ("s", "residuals", "converged", "certified", "energy_share", "products"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert [file.name for file in tmp_path.iterdir()] == ["spectra.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_what_is_no_file_of_spectra_is_an_error_of_one_line(damage, tmp_path):
    file = tmp_path / "spectra.safetensors"
    spectra(network(), inputs()[:1], k=2, progress=False).save(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "other":
        file.write_bytes(b"something else")
    else:
        file.unlink()
    with pytest.raises(DataError) as error:
        load(file)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError):
        spectra(network(), inputs()[:1], k=2, progress=False).save(tmp_path / "no" / "folder")


def test_plot_draws_every_depth(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    axes = spectra(network(), inputs(), LAYERS, k=K, progress=False).plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == LAYERS
    axes.figure.savefig(tmp_path / "plot.png")
    import matplotlib.pyplot as plt

    plt.close(axes.figure)


def test_xarray_has_the_dimensions_input_depth_index():
    pytest.importorskip("xarray")
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    data = found.to_xarray()
    assert dict(data.sizes) == {"input": INPUTS, "depth": 3, "index": K}
    assert data.s.sel(depth="1").values == pytest.approx(found["1"].s.numpy())
    assert bool(data.s.sel(depth="output")[:, -1].isnull().all())


def test_xarray_has_the_shape_of_each_input_where_they_differ():
    pytest.importorskip("xarray")
    alike = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    data = alike.to_xarray()
    assert data.m.dims == data.n.dims == ("depth",)
    assert list(zip(data.m.values, data.n.values, strict=True)) == [one.shape for one in alike]
    net = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 5)).eval()
    texts = [torch.tensor(ids) for ids in ([1, 2], [3, 4, 5], [6, 7])]
    found = spectra(net, texts, layers=["1", "output"], since="0", k=2, progress=False)
    data = found.to_xarray()
    assert data.m.dims == ("input", "depth")
    assert data.m.sel(depth="output").values.tolist() == [10, 15, 10]
    assert data.n.sel(depth="1").values.tolist() == [8, 12, 8]


def test_unknown_depths_and_inputs_are_errors():
    found = spectra(network(), inputs(), k=2, progress=False)
    with pytest.raises(ArgumentError, match="give one of 'output'"):
        found["3"]
    with pytest.raises(ArgumentError, match="none of the 7"):
        found["output", 7]
    with pytest.raises(ModelError, match="no depth 'nowhere'"):
        spectra(network(), inputs(), ["nowhere"], progress=False)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (torch.zeros(0, 3, 8, 8), "no input"),
        ([], "no input"),
        (7, "no inputs"),
        ("photos", "no inputs"),
        (["photo.jpg"], "input 0"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], r"input 1 is float32 \(3, 9, 9\), .*pad"),
        ([torch.zeros(3, 8, 8), np.zeros((3, 8, 8))], "input 1 is float64 .* in one dtype"),
        (iter([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]), r"input 1 is float32 \(3, 9, 9\)"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, r"hold \[2, 3\] inputs"),
        (np.array(["photo"]), "dtype <U5, which torch lacks"),
        ([np.array(["photo"])], "input 0 has dtype <U5, which torch lacks"),
        ({"a": np.array(["photo"])}, r"X\['a'\] has dtype <U5, which torch lacks"),
        (np.float32(2), "no inputs"),
        (np.zeros(()), "a batch is a tensor"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(X, match):
    with pytest.raises(ArgumentError, match=match) as error:
        spectra(network(), X, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_input_without_a_finite_value_is_named(batch):
    X = inputs()
    X[5] = torch.nan
    with pytest.raises(NonFiniteError, match="input 5"):
        spectra(network(), X, LAYERS, k=2, batch=batch, progress=False)


def test_a_bar_on_stderr(capsys):
    spectra(network(), inputs(), k=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "spectra" in shown.err


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


@pytest.mark.parametrize("k", ["every", 0, 1.5, None])
def test_k_is_a_number_or_all(k):
    with pytest.raises(ArgumentError, match="k="):
        spectra(network(), inputs(), k=k, progress=False)


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


def test_no_cell_of_the_table_is_cut():
    name = "a_module_with_a_long_name_of_its_own_" * 4
    model = nn.Sequential(OrderedDict([(name, nn.Linear(40, 30)), ("b", nn.Linear(30, 8))])).eval()
    S = spectra(model, torch.randn(3, 40), layers=[name, "b"], k=4, progress=False)
    lines = str(S).split("\n")
    assert "…" not in str(S)
    assert any(name in line and "30 x 40" in line and "3/3" in line for line in lines)


def test_counts_come_back_from_a_file(tmp_path):
    model = nn.Linear(6, 5)
    S = spectra(model, torch.randn(3, 6), k=2, threshold=0.5, progress=False)
    S.save(tmp_path / "S.safetensors")
    loaded = load(tmp_path / "S.safetensors")
    assert torch.equal(loaded["output"].counts, S["output"].counts)
    assert loaded.threshold == 0.5


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


def test_a_file_of_earlier_days_has_one_shape_for_all_inputs(tmp_path):
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    found.save(tmp_path / "new.safetensors")
    record = read_record(tmp_path / "new.safetensors", KIND, {})
    for number in range(len(LAYERS)):
        del record[f"{number}.shapes"]
    write_record(tmp_path / "old.safetensors", KIND, record)
    assert str(load(tmp_path / "old.safetensors")) == str(found)


def test_a_list_of_mixed_inputs_is_refused_before_the_network_is_called():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            Counting.calls += 1
            return x.flatten(1)[:, :3]

    X = [(torch.zeros(8), 0)] * 5 + [(torch.zeros(9), 1)]
    with pytest.raises(ArgumentError, match=r"input 5 is float32 \(9,\), the first"):
        spectra(Counting().eval(), X, k=2, batch=1, progress=False)
    with pytest.raises(ArgumentError, match=r"input 2 is 'x\.jpg'; give tensors"):
        spectra(Counting().eval(), [torch.zeros(8)] * 2 + ["x.jpg"], k=2, progress=False)
    assert Counting.calls == 0


def test_depths_and_inputs_are_found_walked_and_cut_as_in_a_list():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    S = spectra(model, torch.zeros(5, 3), layers=["1", "output"], k=2, progress=False)
    assert "1" in S
    assert S.depths[1] in S
    assert "2" not in S
    depth = S["1"]
    assert len(list(depth)) == len(depth) == 5
    assert torch.equal(S["1", 1:3], depth.s[1:3])


def test_one_input_is_one():
    S = spectra(nn.Linear(3, 2).eval(), torch.ones(1, 3), k=2, progress=False)
    assert str(S).startswith("Linear, 1 input: means")
    assert repr(S) == "<NetworkSpectra: Linear, 1 input at output>"
    with pytest.raises(ArgumentError, match=r"none of the 1 input$"):
        S["output", 1]


def test_a_compiled_network_has_its_own_name():
    compiled = torch.compile(network(), backend="eager")
    S = spectra(compiled, inputs()[:2], k=2, progress=False)
    plain = spectra(network(), inputs()[:2], k=2, progress=False)
    assert (S.model, Model.of(compiled).spec) == ("Sequential", "Sequential")
    assert torch.equal(S["output"].s, plain["output"].s)
    with pytest.raises(ModelError, match="Sequential, called at x,"):
        spectra(compiled, torch.zeros(2, 3), progress=False)
