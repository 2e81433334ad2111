"""The log says which gradients are not defined: of clusters, of cut ones, and at 0."""

import logging

import pytest
import torch

from jvpsvd import singular_values


def told(values, k, caplog, dtype=torch.float64):
    n = len(values)
    A = torch.diag(torch.as_tensor(values, dtype=dtype))
    with caplog.at_level(logging.WARNING):
        singular_values(lambda x: A @ x, torch.ones(n, dtype=dtype), k)
    return [record.getMessage() for record in caplog.records if record.name.endswith("clusters")]


OF_SUM = "of each other; only the gradient of their sum is defined"
CUT = "which k={} leaves out; "
LARGER = "with a larger k that of the sum over the cluster is"
CASES = {
    "σ₁ is repeated, k=1": ([1, 1, 1, 1], 1, ["singular value 0 lies", CUT.format(1), LARGER]),
    "two of four copies": (
        [1, 1, 1, 1],
        2,
        ["singular values 0 and 1 lie", CUT.format(2), "nor is that of their sum", LARGER],
    ),
    "all four copies": ([1, 1, 1, 1], 4, ["singular values 0 to 3 lie", OF_SUM]),
    "both of two copies": ([2, 2, 1, 1], 2, ["singular values 0 and 1 lie", OF_SUM]),
    "a zero": ([3, 2, 1, 0], 4, ["singular value 3 is 0", "no derivative"]),
    "zeros": ([3, 2, 0, 0], 3, ["singular value 2 is 0", "no derivative"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_defined(name, caplog):
    values, k, words = CASES[name]
    (line,) = told(values, k, caplog)
    for each in words:
        assert each in line


def test_each_cluster_has_a_line(caplog):
    first, second = told([2, 2, 1, 1], 3, caplog)
    assert "singular values 0 and 1 lie" in first
    assert OF_SUM in first
    assert "singular value 2 lies" in second
    assert CUT.format(3) in second


@pytest.mark.parametrize("k", [1, 2, 3])
def test_separate_values_and_a_zero_left_out_say_nothing(k, caplog):
    assert told([3, 2, 1, 0], k, caplog) == []


@pytest.mark.parametrize(("copies", "k", "words"), [(2, 1, CUT.format(1)), (2, 2, OF_SUM)])
def test_the_next_value_is_known_where_not_all_are_computed(copies, k, words, caplog):
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(700, 700))[0]
    A = Q * torch.cat([torch.ones(copies), torch.linspace(0.9, 0.1, 700 - copies)])
    with caplog.at_level(logging.WARNING):
        singular_values(lambda x: A @ x, torch.ones(700), k)
    assert words in caplog.text


def test_a_flat_spectrum_says_nothing(caplog):
    torch.manual_seed(0)
    A = torch.linalg.qr(torch.randn(700, 700))[0] * torch.linspace(1, 0.1, 700)
    with caplog.at_level(logging.WARNING):
        singular_values(lambda x: A @ x, torch.ones(700))
    assert "lie" not in caplog.text


def test_of_a_batch_the_point_is_named(caplog):
    X = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]])
    with caplog.at_level(logging.WARNING):
        singular_values(torch.square, X, 3, batch_dims=1)
    assert "at point 1: singular values 1 and 2 lie" in caplog.text
