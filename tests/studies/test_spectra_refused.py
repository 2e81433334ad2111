"""What spectra cannot be of: unknown depths, inputs that do not fit, k that is no number."""

import numpy as np
import pytest
import torch
from support.spectra_problems import LAYERS, inputs, network
from torch import nn

from jvpsvd import spectra
from jvpsvd.errors import ArgumentError, ModelError, NonFiniteError


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


@pytest.mark.parametrize("k", ["every", 0, 1.5, None])
def test_k_is_a_number_or_all(k):
    with pytest.raises(ArgumentError, match="k="):
        spectra(network(), inputs(), k=k, progress=False)


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
