"""Inputs of a survey in all the forms that people have them in: each is one row."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from jvpsvd import spectra, survey
from jvpsvd.errors import ArgumentError

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 2])


class Items(Dataset):
    """A dataset whose items say nothing of their end."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index % len(X)][None]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


def run(tmp_path, net, inputs, **options):
    options = {"layers": ["output"], "k": 3, "device": "cpu", **options}
    return survey.run(survey.Spec(inputs=inputs, model=net, out=tmp_path / "run", **options))


FORMS = {
    "loader": lambda: DataLoader(X, batch_size=2),
    "loader of single items": lambda: DataLoader(X, batch_size=1),
    "loader of tuples of one": lambda: DataLoader(TensorDataset(X), batch_size=2),
    "loader of arrays": lambda: DataLoader(
        X, 2, collate_fn=lambda items: torch.stack(items).numpy()
    ),
    "loader without batches": lambda: DataLoader(X[:, None], batch_size=None),
    "array": lambda: X[:, None].numpy(),
    "arrays": lambda: list(X[:, None].numpy()),
    "dataset": lambda: TensorDataset(X[:, None]),
    "dataset without an end": Items,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_input_is_a_row_as_in_spectra(tmp_path, net, form):
    found = run(tmp_path, net, FORMS[form]()).results.spectra("output").s
    expected = spectra(net, X, k=3, progress=False)["output"].s
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        DataLoader(TensorDataset(X, LABELS), batch_size=2),
        TensorDataset(X, LABELS),
        list(zip(X.numpy(), LABELS.numpy(), strict=True)),
    ],
    ids=["loader", "dataset", "arrays"],
)
def test_class_indices_of_torch_and_numpy_are_labels(tmp_path, net, inputs):
    rows = run(tmp_path, net, inputs).results.table().to_pylist()
    assert [row["label"] for row in sorted(rows, key=lambda row: row["key"])] == LABELS.tolist()


@pytest.mark.parametrize(
    "label",
    [torch.tensor([2]), np.array([2]), np.array(2), torch.tensor(2, dtype=torch.uint8)],
    ids=["tensor of one", "array of one", "array", "bytes"],
)
def test_one_whole_number_is_a_class_index_in_any_shape(tmp_path, net, label):
    rows = run(tmp_path, net, [(x[None], label) for x in X]).results.table().to_pylist()
    assert {row["label"] for row in rows} == {2}


@pytest.mark.parametrize(
    "flag",
    [True, np.bool_(True), torch.tensor(True), np.array(True), torch.tensor([True])],
    ids=["Python", "NumPy", "tensor", "array", "tensor of one"],
)
@pytest.mark.parametrize("form", [list, lambda pairs: DataLoader(pairs, batch_size=2)])
def test_true_and_false_are_no_class_indices(tmp_path, net, flag, form):
    pairs = [(x[None] if form is list else x, flag) for x in X]
    with pytest.raises(ArgumentError, match=r"input 0 is a pair with .* no class index"):
        run(tmp_path, net, form(pairs))


def test_batches_of_dicts_are_taken_apart(tmp_path):
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return scale * x

    batches = DataLoader([{"x": x, "scale": torch.ones(1) * i} for i, x in enumerate(X, 1)], 2)
    found = run(tmp_path, Scaled().eval(), batches, wrt="x").results.spectra("output").s
    np.testing.assert_allclose(found, np.arange(1.0, 6.0)[:, None] * np.ones((1, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader([(x, x, 0) for x in X], batch_size=2),
        DataLoader(["a cat", "a dog"], batch_size=2, collate_fn=" ".join),
    ],
)
def test_a_batch_that_cannot_be_taken_apart_is_refused(tmp_path, net, loader):
    with pytest.raises(ArgumentError, match=r"batch of the DataLoader is .*; let it hold"):
        run(tmp_path, net, loader)


class StepsFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 3)

    def forward(self, x):
        return self.gru(x)[0]


GREY = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("module", "items", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)), GREY, "give inputs of shape (1, 8, 8)"),
        (StepsFirst(), GREY[:, :5, :4], "the dimension in front is not its batch"),
        (nn.Conv2d(1, 4, 3), [(x, label) for label, x in enumerate(GREY)], None),
    ],
    ids=["grey", "steps first", "equal numbers"],
)
def test_a_dimension_that_is_not_the_batch_is_refused_as_in_spectra(tmp_path, module, items, said):
    loader, options = DataLoader(items, batch_size=2), {"layers": ["output"], "k": 2}
    if said is None:
        assert run(tmp_path, module.eval(), loader, **options).computed == 3
        return
    with pytest.raises(ArgumentError, match=re.escape(said)):
        run(tmp_path, module.eval(), loader, **options)
    with pytest.raises(ArgumentError, match=re.escape(said)):
        spectra(module.eval(), loader, progress=False, **options)
    assert not (tmp_path / "run" / "run.json").exists()


def test_all_values_of_every_depth(tmp_path, net):
    found = run(tmp_path, net, list(X[:, None]), layers=["0", "output"], k="all").results
    assert found.spectra("0").s.shape == (5, 3)
    assert found.spectra("output").s.shape == (5, 3)


def test_another_word_for_k_is_refused():
    with pytest.raises(ArgumentError, match="k='most' must be a whole number"):
        survey.Spec(k="most")
