import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.problems.catalogue import all_problems, find_problem
from benchmarks.problems.problem import write_by_hand
from benchmarks.problems.spectra import (
    SPECTRA,
    SpectralOperator,
    choose_rank,
    choose_shape,
    find_fast_size,
    hartley,
    spectral,
)

few = settings(max_examples=25, deadline=None)


def dense(A):
    return A @ torch.eye(A.shape[1], dtype=A.dtype)


@few
@given(n=st.integers(1, 40), b=st.integers(1, 4))
def test_hartley_is_symmetric_orthogonal_and_its_own_inverse(n, b):
    x = torch.randn(b, n, dtype=torch.float64)
    matrix = hartley(torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(hartley(hartley(x)), x)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64))


@few
@given(
    m=st.integers(1, 30),
    n=st.integers(1, 30),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_values_are_those_given(m, n, seed, data):
    rank = data.draw(st.integers(1, min(m, n)))
    values = torch.rand(rank, dtype=torch.float64).sort(descending=True).values
    found = torch.linalg.svdvals(dense(SpectralOperator((m, n), values, seed=seed)))
    expected = torch.nn.functional.pad(values, (0, min(m, n) - rank))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@few
@given(m=st.integers(1, 30), n=st.integers(1, 30), b=st.integers(1, 3))
def test_reverse_products_are_those_of_the_transpose(m, n, b):
    A = SpectralOperator((m, n), torch.linspace(2, 1, min(m, n), dtype=torch.float64))
    U = torch.randn(m, b, dtype=torch.float64)
    torch.testing.assert_close(A.rmatmat(U), dense(A).T @ U)


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra_of_problems_are_the_exact_ones(name):
    found = torch.linalg.svdvals(dense(spectral(name, 240, dtype=torch.float64)))
    expected = SPECTRA[name].values(len(found), len(found))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert (expected.diff() <= 0).all()


def test_rank_deficient_problems_have_fewer_values_than_rows():
    values = find_problem("rank-deficient/n=1e3").values(20)
    assert int((values > 0).sum()) == choose_rank(min(choose_shape(1000))) < 20


def test_sizes_are_fast_and_near():
    assert [find_fast_size(n) for n in (1, 7, 17, 1000, 1023)] == [1, 6, 16, 1000, 1000]


def test_problems_are_built_with_the_shape_they_tell():
    for name in ("1/i/n=1e3", "perceptron"):
        assert find_problem(name).build().shape == find_problem(name).shape
    assert {len(one.shape) for one in all_problems().values()} == {2, 3}


def test_every_way_to_the_perceptron_is_one_matrix():
    problem = find_problem("perceptron").build()
    matrix = problem.dense()
    eye = torch.eye(300)
    by_hand = problem.by_hand()
    v, u = torch.randn(matrix.shape[1]), torch.randn(120)
    torch.testing.assert_close(torch.from_numpy(by_hand.matvec(v.numpy())), matrix @ v)
    torch.testing.assert_close(torch.from_numpy(by_hand.rmatvec(u.numpy())), matrix.T @ u)
    torch.testing.assert_close(problem.operator() @ eye, matrix)
    torch.testing.assert_close(torch.from_numpy(by_hand.matmat(eye.numpy())), matrix)
    torch.testing.assert_close(torch.from_numpy(by_hand.rmatmat(torch.eye(120).numpy())), matrix.T)
    torch.testing.assert_close(problem.double().dense().float(), matrix)


def test_a_function_that_looks_at_its_values_is_multiplied_by_hand_too():
    def looking(x):
        return torch.sin(x) if bool(x.sum() > 0) else torch.cos(x)

    x = torch.tensor([1.0, -3.0, 0.5])
    A = write_by_hand(looking, x)
    expected = torch.diag(-torch.sin(x)).numpy()
    np.testing.assert_allclose(A.matmat(np.eye(3, dtype=np.float32)), expected, rtol=1e-6)
    np.testing.assert_allclose(A.rmatmat(np.eye(3, dtype=np.float32)), expected.T, rtol=1e-6)
