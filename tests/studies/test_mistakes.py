"""What a newcomer gets wrong: one line that says what, where and what to do."""

import numpy as np
import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd.errors import ArgumentError, DataError, ModelError, NonFiniteError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


X = torch.zeros(2, 3, 8, 8)

IDS = torch.zeros(2, 4, dtype=torch.long)


class Language(nn.Sequential):
    """A network that takes one sentence or more, by name."""

    def forward(self, ids):
        sentences, length = ids.shape
        return super().forward(ids).reshape(sentences, length, 2)


LANGUAGE = Language(nn.Embedding(9, 3), nn.Linear(3, 2)).eval()
WORDS = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2)).eval()


class Fourier(nn.Module):
    """The Fourier transform of an image."""

    def forward(self, x):
        return torch.fft.rfft2(x)


MISTAKES = {
    "token ids": (
        lambda: jvpsvd.spectra(WORDS, torch.zeros(2, 4, dtype=torch.long), progress=False),
        "token ids have no derivative: name the depth after their embedding with since=, as "
        "since='0'",
    ),
    "images of integers": (
        lambda: jvpsvd.spectra(network(), X.to(torch.uint8), progress=False),
        r"give numbers, such as pixels, as x\.float\(\)",
    ),
    "complex inputs": (
        lambda: jvpsvd.spectra(network(), X.to(torch.complex64), progress=False),
        r"^the input holds a torch\.complex64 tensor; take its real and imaginary parts",
    ),
    "complex inputs in a list": (
        lambda: jvpsvd.spectra(network(), [*X.to(torch.complex64)], progress=False),
        r"^the input holds a torch\.complex64 tensor; take its real and imaginary parts",
    ),
    "a network with complex values": (
        lambda: jvpsvd.spectra(Fourier().eval(), X, progress=False),
        r"let it return torch\.view_as_real\(y\)",
    ),
    "a mistyped depth": (
        lambda: jvpsvd.spectra(network(), X, layers=["9"], progress=False),
        "^(?!.*X was read)",
    ),
    "an index of a depth": (
        lambda: jvpsvd.spectra(network(), X, layers=["1"], k=1, progress=False)[0],
        "^no depth is named 0; give one of '1'$",
    ),
    "no layers": (lambda: jvpsvd.spectra(network(), X, layers=[]), "layers is empty"),
    "a function": (lambda: jvpsvd.spectra(lambda x: 2 * x, X), "give a torch module"),
    "swapped": (lambda: jvpsvd.spectra(X, network()), "give a torch module"),
    "a threshold in words": (
        lambda: jvpsvd.spectra(network(), X, threshold="1"),
        "^threshold='1' must be a finite number",
    ),
    "several thresholds": (
        lambda: jvpsvd.spectra(network(), X, threshold=[1.0, 2.0]),
        "^threshold=",
    ),
    "one image, spectra": (
        lambda: jvpsvd.spectra(network(), X[0], progress=False),
        r"for a single input give X\[None\]",
    ),
    "one image, ntk": (lambda: jvpsvd.ntk(network(), X[0]), r"give X\[None\]"),
    "a batch in each dict, as tokenizers give it": (
        lambda: jvpsvd.spectra(LANGUAGE, [{"ids": IDS[:1]}] * 2, since="0", progress=False),
        r"X was read as a dict of ids: int64 \(1, 4\), .*; items come without the dimension of the "
        r"batch, as \{name: value\[0\]",
    ),
    "a batch in each dict, of a kernel": (
        lambda: jvpsvd.ntk(LANGUAGE, [{"ids": IDS[:1]}] * 2, k=1),
        "items come without the dimension of the batch",
    ),
    "texts of two lengths, from the input": (
        lambda: jvpsvd.spectra(LANGUAGE, [{"ids": IDS[0]}, {"ids": IDS[0, :3]}], progress=False),
        "^inputs are dicts; name the argument to differentiate by with wrt=, .* since=",
    ),
    "token ids of two lengths, from the input": (
        lambda: jvpsvd.spectra(WORDS, [IDS[0], IDS[0, :3]], progress=False),
        "token ids have no derivative",
    ),
    "half precision": (
        lambda: jvpsvd.svds(torch.eye(3).bfloat16(), 1),
        r"JacobianOperator\(f, x, dtype=torch\.float32\)$",
    ),
    "the spectra of all depths, for a dimension": (
        lambda: jvpsvd.geometry.dimensions(
            jvpsvd.spectra(network(), X, layers=["1", "output"], k=2, progress=False)
        ),
        r"^these are spectra of 2 depths; give one, as S\['1'\]$",
    ),
    "a batch in each item": (
        lambda: jvpsvd.spectra(network(), [X[:1], X[1:]], progress=False),
        r"inputs of shape \(1, 3, 8, 8\).*; items come without the dimension of the batch",
    ),
    "a tolerance over 1": (
        lambda: jvpsvd.spectra(network(), X, tol=5, progress=False),
        "^tol=5 must be a number that lies between 0 and 1$",
    ),
    "a seed in words": (
        lambda: jvpsvd.spectra(network(), X, seed="1", progress=False),
        "^seed='1' must be a whole number",
    ),
    "memory in words": (
        lambda: jvpsvd.spectra(network(), X, memory="all", progress=False),
        "^memory='all' is not a size",
    ),
    "another dtype": (
        lambda: jvpsvd.spectra(network(), X.double(), progress=False),
        r"x\.float\(\) or x\.double\(\)",
    ),
    "a module for an operator": (
        lambda: jvpsvd.svds(network(), 2),
        r"JacobianOperator\(model, x\)",
    ),
    "confidence in percent": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.count(1).interval(95),
        "confidence=95",
    ),
    "several thresholds for one": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.count([0.1, 0.2]),
        r"counts\(\[…\]\) takes several",
    ),
    "one threshold for several": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.counts(0.1),
        "thresholds=0.1 must be a list",
    ),
    "a grid in descending order": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.cdf([2.0, 1.0]),
        "grid holds 1 after 2; give numbers in ascending order",
    ),
    "a grid below 0": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.density([-5.0, 1.0]),
        "grid holds -5",
    ),
    "the norm of infinite order": (
        lambda: jvpsvd.svds(torch.eye(3), 1).spectrum.schatten(np.inf),
        r"s\[0\]",
    ),
    "a number for a file": (lambda: jvpsvd.svds(torch.eye(3), 1).save(3), "path=3"),
    "a folder that is not there": (
        lambda: jvpsvd.svds(torch.eye(3), 1).save("/nowhere/at/all"),
        "/nowhere/at/all cannot be written: no such folder",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_is_one_line(name):
    call, words = MISTAKES[name]
    with pytest.raises((ArgumentError, ModelError, DataError), match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_an_input_that_is_not_finite_is_told_once(caplog):
    with pytest.raises(NonFiniteError) as raised:
        jvpsvd.spectra(network(), X * torch.nan, progress=False)
    assert "NaN" in str(raised.value)
    assert "cannot record" not in caplog.text


@pytest.mark.parametrize("start", [0, 4])
def test_the_input_that_is_not_finite_has_one_number(caplog, start):
    points = torch.randn(start + 4, 3, 8, 8)
    points[start + 3] = torch.nan
    bad = f"input {start + 3}"
    advice = rf"^{bad} at output: .*; if others are finite, drop {bad}, or run a survey"
    with pytest.raises(NonFiniteError, match=advice):
        jvpsvd.spectra(network(), points, k=2, batch=4, progress=False)
    assert "input" not in caplog.text


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="a folder"):
        jvpsvd.load(tmp_path)


def test_thresholds_of_other_libraries_are_numbers():
    spectrum = jvpsvd.svds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).spectrum
    for threshold in (torch.tensor(1.5), np.float32(1.5), np.array(1.5), 1.5):
        assert spectrum.count(threshold).value == 2


def test_counts_say_what_they_rest_on():
    spectrum = jvpsvd.svds(torch.diag(torch.linspace(3, 0, 300)), 10, method="golub-kahan").spectrum
    assert "known, the last below it" in str(spectrum.count(2.99))
    assert "no singular value is negative" in str(spectrum.count(0))
    assert "sampled" in str(spectrum.count(1.0))


def test_all_pairs_of_a_tangent_kernel_and_arrays_as_points():
    net = nn.Linear(3, 2)
    kernel = jvpsvd.ntk(net, torch.randn(4, 3), k="all")
    assert len(kernel.values) == 8
    s = jvpsvd.singular_values(net, np.zeros(3, dtype=np.float32), k=2)
    torch.testing.assert_close(s, torch.linalg.svdvals(net.weight), rtol=1e-4, atol=1e-5)


def test_a_tangent_kernel_of_two_arguments_takes_dicts():
    torch.manual_seed(0)
    net, x, t = nn.Bilinear(3, 1, 2), torch.randn(2, 3), torch.ones(2, 1)
    with pytest.raises(ModelError, match="; give each input as a dict of all arguments by name"):
        jvpsvd.ntk(net, x)
    inputs = [{"input1": one[None], "input2": t[:1]} for one in x]
    assert len(jvpsvd.ntk(net, inputs, k="all").values) == 4
