"""Spectra by one argument of inputs in dicts, against single solves."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from jvpsvd import JacobianOperator, layer_map, spectra, svds
from jvpsvd.errors import ArgumentError, ModelError

LAYERS = ["mix", "output"]


class Denoiser(nn.Module):
    """A step of a denoiser: a noisy sample, a time, and words that condition it."""

    def __init__(self):
        super().__init__()
        self.noise, self.words = nn.Linear(8, 6), nn.Linear(5, 6)
        self.mix, self.out = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, sample, time, words, keep=None):
        seen = self.noise(sample) + self.words(words)
        if keep is not None:
            seen = seen * keep
        return self.out(self.mix(seen.tanh() * time[:, None]).tanh())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Denoiser().double().eval()


def items(count, shape=()):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "sample": torch.randn(*shape, 8, generator=generator).double(),
            "time": torch.tensor(0.5 + index).double(),
            "words": torch.randn(*shape, 5, generator=generator).double(),
        }
        for index in range(count)
    ]


def together(inputs):
    return {name: torch.stack([one[name] for one in inputs]) for name in inputs[0]}


def compare(S, model, inputs, wrt, seeds=True):
    for layer in S.layers:
        for index, one in enumerate(inputs):
            x = {name: value[None] for name, value in one.items()}
            J = JacobianOperator(*layer_map(model, x, to=layer, wrt=wrt))
            k = min(3, *J.shape)
            expected = torch.linalg.svdvals(J.to_dense())[:k]
            torch.testing.assert_close(S[layer].s[index], expected, rtol=1e-6, atol=1e-8)
            if seeds:
                single = svds(J, k, tol=1e-9, seed=int(S[layer].seeds[index]))
                torch.testing.assert_close(S[layer].s[index], single.s, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("wrt", ["sample", "words", "time"])
def test_values_are_those_of_single_solves(model, wrt):
    inputs = items(4)
    S = spectra(model, together(inputs), LAYERS, k=3, wrt=wrt, tol=1e-9, progress=False)
    assert S["output"].s.shape[0] == 4
    compare(S, model, inputs, wrt)


@pytest.mark.parametrize("kind", ["list", "loader"])
def test_lists_and_loaders_of_dicts(model, kind):
    inputs = items(5)
    X = inputs if kind == "list" else DataLoader(inputs, batch_size=2)
    S = spectra(model, X, LAYERS, k=3, wrt="sample", tol=1e-9, progress=False)
    compare(S, model, inputs, "sample")


def test_what_is_held_fixed_may_differ_between_inputs(model):
    inputs = items(4)
    for index, one in enumerate(inputs):
        one["keep"] = (torch.arange(6) != index).double()
    S = spectra(model, inputs, LAYERS, k=3, wrt="sample", tol=1e-9, progress=False)
    compare(S, model, inputs, "sample")


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(3, 4)

    def forward(self, sample, mask):
        return self.out(sample) * mask.to_dense().double()


def masked_inputs(dtype):
    masks = torch.tensor([[1, 0, 2, 1], [3, 1, 0, 1]]).to(dtype)
    samples = torch.linspace(-1, 1, 6).double().reshape(2, 3)
    pairs = zip(samples, masks, strict=True)
    return masks, [{"sample": x, "mask": mask.to_sparse()} for x, mask in pairs]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_sparse_tensor_is_held_fixed(dtype):
    net = Masked().double().eval()
    masks, X = masked_inputs(dtype)
    S = spectra(net, X, ["output"], k=2, wrt="sample")
    J = masks.double()[:, :, None] * net.out.weight
    torch.testing.assert_close(S["output"].s, torch.linalg.svdvals(J)[:, :2])
    whole = {"sample": torch.stack([x["sample"] for x in X]), "mask": masks.to_sparse()}
    again = spectra(net, whole, ["output"], k=2, wrt="sample")
    assert torch.equal(again["output"].s, S["output"].s)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_a_sparse_tensor_without_a_dimension_of_a_batch_is_one_line():
    _, X = masked_inputs(torch.float64)
    X[1]["mask"] = torch.eye(4).to_sparse_csr()
    with pytest.raises(ArgumentError, match=r"^input 1\['mask'\] is .*sparse_csr, .*sparse_coo"):
        spectra(Masked().double().eval(), X, ["output"], k=2, wrt="sample")


def test_a_dtype_converts_the_argument(model):
    inputs = items(2)
    low = [{name: value.float() for name, value in one.items()} for one in inputs]
    S = spectra(model.float(), low, LAYERS, k=3, wrt="sample", dtype=torch.float32, progress=False)
    assert S["output"].s.dtype == torch.float32


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (
            items(2),
            {"wrt": "samples"},
            "wrt='samples' is no argument of the input; it has 'sample'",
        ),
        (items(2), {"wrt": 0}, "wrt=0 must be the name of an argument of inputs in dicts"),
        (items(2), {"wrt": "sample", "since": "mix"}, "give since= or wrt=: from a depth"),
        (torch.zeros(2, 8).double(), {"wrt": "sample"}, "and input 0 is a tensor; leave it out"),
        (items(2), {}, "inputs are dicts; name the argument to differentiate by with wrt="),
    ],
)
def test_what_cannot_be_taken_is_one_line(model, X, options, message):
    with pytest.raises((ArgumentError, ModelError), match=message) as caught:
        spectra(model, X, LAYERS, k=2, progress=False, **options)
    assert "\n" not in str(caught.value)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 3)

    def forward(self, ids, scale):
        return self.words(ids).flatten(1) * scale


def test_token_ids_have_no_spectra():
    X = {"ids": torch.arange(8).reshape(2, 4), "scale": torch.ones(2, 1)}
    with pytest.raises(ModelError, match=r"wrt='ids' holds no floating tensor.* since="):
        spectra(Words().eval(), X, k=1, wrt="ids", progress=False)
    S = spectra(Words().eval(), X, k=1, wrt="scale", progress=False)
    assert S["output"].s.shape == (2, 1)
