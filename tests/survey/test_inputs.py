"""Surveys of what is no photo: texts, arrays, tensors, and inputs of the user's own."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from support.shards import sample_members, write_tar
from torch import nn

from jvpsvd import JacobianOperator, layer_map, survey
from jvpsvd.errors import ArgumentError, ModelError, RunError, ShardError
from jvpsvd.networks import Inputs, Model, PhotoInput

TEXTS = ["a cat sat", "the dog ran away", "no", "a cat"]


class Words(nn.Module):
    """A small model of language, called by what a tokenizer returns."""

    def __init__(self):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(30, 6), nn.Dropout()
        self.mix, self.head = nn.Linear(5, 5), nn.Linear(6, 8)

    def forward(self, input_ids, attention_mask):
        x = self.drop(self.embedding(input_ids))
        if not attention_mask.all():
            x = x * attention_mask[..., None]
        return {"logits": self.head(torch.tanh(self.mix(x.mT)).mT)}


class Product(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, input1, input2):
        return super().forward(input1 * input2).tanh()


def tokenized(text, length=5):
    ids = [sum(map(ord, word)) % 29 + 1 for word in text.split()][:length]
    padded = torch.tensor([ids + [0] * (length - len(ids))])
    return {"input_ids": padded, "attention_mask": (padded > 0).long()}


def words():
    torch.manual_seed(0)
    inputs = Inputs("txt", "two words", tokenized, since="drop")
    return Model.of(Words().eval(), inputs)


def text_shard(path, texts=TEXTS):
    members = []
    for i, text in enumerate(texts):
        members += [(f"text{i}.txt", text.encode()), (f"text{i}.cls", str(i % 2).encode())]
    return write_tar(path, members)


def spec(tmp_path, **options):
    return survey.Spec(**{"out": tmp_path / "run", "k": 4, "device": "cpu", **options})


def test_texts_from_the_depth_of_embedded_tokens(tmp_path):
    model = words()
    shard = text_shard(tmp_path / "a.tar")
    wanted = spec(tmp_path, shards=[shard], model=model, layers=["mix", "output.logits"])
    outcome = survey.run(wanted, report=False)
    assert (outcome.computed, outcome.failures) == (4, 0)
    for layer in ("mix", "output.logits"):
        spectra = outcome.results.spectra(layer)
        assert spectra.shape[1] == 30
        for i, text in enumerate(TEXTS):
            f, z = layer_map(model.module, tokenized(text), to=layer, since="drop")
            expected = torch.linalg.svdvals(JacobianOperator(f, z).to_dense())[:4]
            np.testing.assert_allclose(spectra.s[i], expected, rtol=1e-4, atol=1e-6)
    assert not survey.verify(outcome.store).problems
    again = survey.run(wanted, report=False)
    assert (again.computed, again.skipped) == (0, 4)


def npy(tensor):
    file = io.BytesIO()
    np.save(file, tensor.numpy())
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_arrays_and_tensors(tmp_path, suffix):
    torch.manual_seed(0)
    net, X = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.randn(3, 1, 3)
    write = npy if suffix == "npy" else lambda x: safetensors.torch.save({"x": x})
    take = (lambda x: x) if suffix == "npy" else (lambda content: content["x"])
    example = X[0] if suffix == "npy" else {"x": X[0]}
    members = [(f"x{i}.{suffix}", write(x)) for i, x in enumerate(X)]
    shard = write_tar(tmp_path / "a.tar", members)
    model = Model.of(net, Inputs(suffix, example, take))
    outcome = survey.run(
        spec(tmp_path, shards=[shard], model=model, layers=["output"], k=2), report=False
    )
    found = outcome.results.spectra("output").s
    for s, x in zip(found, X, strict=True):
        J = torch.func.jacrev(net)(x).detach().reshape(2, 3)
        np.testing.assert_allclose(s, torch.linalg.svdvals(J), rtol=1e-4)


def test_damaged_and_longer_members_are_rows_that_say_so(tmp_path):
    members = [
        ("good.npy", npy(torch.ones(1, 3))),
        ("long.npy", npy(torch.ones(1, 4))),
        ("pickle.npy", b"\x93NUMPY" + b"x" * 50),
        ("other.txt", b"words"),
    ]
    shard = write_tar(tmp_path / "a.tar", members)
    model = Model.of(nn.Tanh().eval(), Inputs("npy", torch.ones(1, 3)))
    outcome = survey.run(
        spec(tmp_path, shards=[shard], model=model, layers=["output"], k=3), report=False
    )
    rows = {row["key"]: row for row in outcome.results.table().to_pylist()}
    assert {key: row["status"] for key, row in rows.items()} == {
        "good": "ok",
        "long": "bad-input",
        "pickle": "bad-input",
        "other": "no-photo",
    }
    assert "cut or pad all inputs to one shape" in rows["long"]["message"]
    assert "no .npy" in rows["pickle"]["message"]


@pytest.mark.parametrize("kind", ["tensors", "dicts", "labelled", "generator"])
def test_inputs_of_ones_own(tmp_path, kind):
    torch.manual_seed(0)
    net, X = Product().eval(), torch.randn(3, 1, 3)
    fixed = torch.randn(1, 3)
    pairs = [{"input1": x, "input2": fixed} for x in X]
    given = {
        "tensors": list(X),
        "dicts": pairs,
        "labelled": [(pair, i % 2) for i, pair in enumerate(pairs)],
        "generator": (pair for pair in pairs),
    }[kind]
    module = nn.Tanh().eval() if kind == "tensors" else net
    wrt = None if kind == "tensors" else "input1"
    wanted = spec(tmp_path, inputs=given, model=module, layers=["output"], k=2, wrt=wrt)
    outcome = survey.run(wanted, report=False)
    spectra = outcome.results.spectra("output")
    for s, x in zip(spectra.s, X, strict=True):
        f = torch.tanh if kind == "tensors" else lambda z: net(z, fixed)
        J = torch.func.jacrev(f)(x).detach().reshape(-1, 3)
        np.testing.assert_allclose(s, torch.linalg.svdvals(J)[:2], rtol=1e-4)
    labels = [0, 1, 0] if kind == "labelled" else [None] * 3
    assert spectra.samples["label"].to_pylist() == labels


@pytest.mark.parametrize("of_numpy", [False, True])
def test_a_function_that_returns_one_buffer_for_all_inputs(tmp_path, of_numpy):
    """Inputs are made in advance of their solves; each keeps its own numbers."""
    buffer, scale = torch.zeros(1, 4), np.ones(1)
    lengths = [1, 3, 5, 7, 9, 11, 13, 15]

    def arguments(text):
        scale[:] = len(text) if of_numpy else 1
        x = torch.tensor([1.0, 2.0, 3.0, len(text)]) / 10
        return {"x": x[None] if of_numpy else buffer.copy_(x), "scale": scale}

    class Net(nn.Linear):
        def forward(self, x, scale):
            return super().forward(x * x).tanh() * float(scale[0])

    net = Net(4, 3).eval()
    model = Model.of(net, Inputs("txt", "aa", arguments, wrt="x"))
    shard = text_shard(tmp_path / "t.tar", ["a" * length for length in lengths])
    outcome = survey.run(spec(tmp_path, shards=[shard], model=model, k=3), report=False)
    for s, length in zip(outcome.results.spectra("output").s, lengths, strict=True):
        x = torch.tensor([[1.0, 2.0, 3.0, length]]) / 10
        J = torch.func.jacrev(net)(x, [length if of_numpy else 1]).detach().reshape(3, 4)
        np.testing.assert_allclose(s, torch.linalg.svdvals(J), rtol=1e-4)


def test_shards_of_one_name_are_refused(tmp_path):
    shards = []
    for index, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        shards.append(write_tar(tmp_path / name / "s.tar", sample_members("a", index, index)))
    with pytest.raises(ShardError, match=r"two shards are named s\.tar; rename one"):
        survey.run(spec(tmp_path, shards=shards, model=nn.Flatten(), k=2), report=False)
    assert not (tmp_path / "run").exists()


def test_other_inputs_are_another_run(tmp_path):
    options = {"model": nn.Tanh().eval(), "layers": ["output"], "k": 2}
    X = torch.randn(3, 1, 3)
    survey.run(spec(tmp_path, inputs=X, **options), report=False)
    assert survey.run(spec(tmp_path, inputs=X.clone(), **options), report=False).skipped == 3
    with pytest.raises(RunError, match="begun with other inputs"):
        survey.run(spec(tmp_path, inputs=X + 1, **options), report=False)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_one_other_input_among_large_ones_is_another_run(tmp_path, changed):
    """All but the first mebibyte is compared, too."""
    options = {"model": nn.AdaptiveAvgPool1d(2).eval(), "layers": ["output"], "k": 1}
    X = torch.randn(3, 1, 200_000)
    survey.run(spec(tmp_path, inputs=X, **options), report=False)
    other = X.clone()
    other[changed, 0, -1] += 1
    with pytest.raises(RunError, match="begun with other inputs; give another out"):
        survey.run(spec(tmp_path, inputs=other, **options), report=False)
    assert survey.run(spec(tmp_path, inputs=X, **options), report=False).skipped == 3


def test_inputs_that_were_removed_are_written_again_and_others_are_not(tmp_path):
    options = {"model": nn.Tanh().eval(), "layers": ["output"], "k": 2}
    X = torch.randn(3, 1, 3)
    folder = survey.run(spec(tmp_path, inputs=X, **options), report=False).store.folder
    (file,) = folder.glob("shards/*.tar")
    file.unlink()
    with pytest.raises(RunError, match="begun with other inputs; give another out"):
        survey.run(spec(tmp_path, inputs=X + 1, **options), report=False)
    assert not file.exists()
    assert survey.run(spec(tmp_path, inputs=X, **options), report=False).skipped == 3
    assert file.exists()


def test_a_run_of_shards_takes_no_inputs_and_is_left_as_it_is(surveyed, shard):
    folder = surveyed([shard]).store.folder
    before = set(folder.rglob("*"))
    with pytest.raises(RunError, match="begun with other inputs; give another out"):
        survey.run(survey.Spec(inputs=[torch.ones(1, 3)], out=folder, k=2), report=False)
    assert set(folder.rglob("*")) == before


def test_inputs_of_a_start_that_failed_are_no_run(tmp_path):
    X, options = torch.randn(3, 1, 3), {"model": nn.Tanh().eval(), "k": 2}
    with pytest.raises(ModelError, match="no layer 'wrong'"):
        survey.run(spec(tmp_path, inputs=X, layers=["wrong"], **options), report=False)
    done = survey.run(spec(tmp_path, inputs=X + 1, layers=["output"], **options), report=False)
    assert done.computed == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 2}, ArgumentError, "batch=2 is for photos"),
        ({"since": "mx"}, ModelError, "no layer 'mx' in Words to start from; did you mean mix"),
        ({"layers": ["drop"]}, ModelError, "no layer 'drop'"),
        ({"inputs": [torch.ones(1)]}, ArgumentError, "give shards= or inputs=, not both"),
    ],
)
def test_mistakes(tmp_path, options, error, message):
    shard = text_shard(tmp_path / "a.tar")
    wanted = {"shards": [shard], "model": words(), "layers": ["output.logits"], **options}
    with pytest.raises(error, match=message):
        survey.run(spec(tmp_path, **wanted), report=False)


def test_photos_from_a_depth(tmp_path, shard):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    model = Model.of(net.eval(), PhotoInput(size=8, resize=8))
    outcome = survey.run(
        spec(tmp_path, shards=[shard], model=model, since="0", layers=["output"], k=3), report=False
    )
    assert outcome.failures == 0
    assert outcome.results.spectra("output").shape == (3, 8)


def test_a_module_that_takes_photos_of_another_size_is_told_how_to_say_so(tmp_path, shard):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    with pytest.raises(ModelError, match=r"say what it takes: .*Model\.of\(module, PhotoInput\("):
        survey.run(spec(tmp_path, shards=[shard], model=net, layers=["output"]), report=False)


@pytest.mark.parametrize("size", [224, 8])
def test_what_reads_no_photo_has_no_preprocessing_in_its_record(tmp_path, size):
    """Runs of older versions, which wrote that of the model, go on."""
    model = Model.of(nn.Tanh().eval(), Inputs("safetensors", torch.zeros(1, 3)))
    model = dataclasses.replace(model, photo_input=PhotoInput(size=size))
    options = {"inputs": torch.randn(3, 1, 3), "model": model, "layers": ["output"], "k": 2}
    survey.run(spec(tmp_path, **options), report=False)
    file = tmp_path / "run" / "run.json"
    assert json.loads(file.read_text())["identity"]["photo_input"] is None
    assert survey.verify(survey.open_store(file.parent)).problems == ()
    assert survey.run(spec(tmp_path, **options), report=False).skipped == 3

    old = tmp_path / "old"
    shutil.copytree(file.parent / "shards", old / "shards")
    record = json.loads(file.read_text())
    record["identity"]["photo_input"] = dataclasses.asdict(PhotoInput(size=size))
    del record["checksum"]
    (old / "run.json").write_text(json.dumps(record))
    wanted = dataclasses.replace(spec(tmp_path, **options), out=old)
    assert survey.run(wanted, report=False).computed == 3
    assert survey.verify(survey.open_store(old)).problems == ()
    assert survey.run(wanted, report=False).skipped == 3
