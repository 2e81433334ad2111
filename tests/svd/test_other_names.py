"""Arguments that other libraries call otherwise, and what SciPy means by seed=None and tol=0."""

import inspect

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from support.svd_problems import spectrum, with_values

from jvpsvd import svds
from jvpsvd.errors import (
    ArgumentError,
    ConvergenceWarning,
    JvpsvdWarning,
    PrecisionWarning,
    UnknownArgumentError,
)
from jvpsvd.svd.other_names import _ANSWERS

A = torch.eye(6, 9)
NET, X = torch.nn.Linear(3, 2), torch.ones(3)


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("solver", "arpack", "it is method here"),
        ("return_singular_vectors", False, "it is vectors here"),
        ("maxiter", 10, "a solve ends when residuals meet tol"),
        ("v0", np.ones(6), "it is start here"),
        ("rng", 0, "it is seed here"),
        ("random_state", 0, "it is seed here"),
        ("n_components", 3, "it is k here"),
        ("n_iter", 5, 'method="randomized" takes a fixed number of passes'),
        ("compute_uv", False, "it is vectors here"),
        ("niter", 2, 'method="randomized" takes a fixed number of passes'),
        ("driver", "gesvd", "the method chooses it"),
        ("tolerance", 1e-3, "it is tol here"),
        ("verbose", True, "it is progress here"),
        ("K", 3, "did you mean k?"),
        ("vector", True, "did you mean vectors?"),
        ("blocksize", 3, "did you mean block_size?"),
        ("colour", 1, "it takes A, k, which, tol, method"),
    ],
)
def test_a_name_of_another_library_is_answered(name, value, ours):
    for kind in (UnknownArgumentError, ArgumentError, TypeError):
        with pytest.raises(kind) as caught:
            svds(A, 3, **{name: value})
    said = str(caught.value)
    assert said.startswith(f"svds has no argument {name}; {ours}")
    assert "\n" not in said


@pytest.mark.parametrize(
    "call",
    [
        lambda: svds(NET, X, k=3),
        lambda: svds(NET, X, 3),
        lambda: svds(NET, X, 3, tol=1e-3),
        lambda: svds(A, 3, "largest"),
    ],
)
def test_a_model_and_its_point_are_no_operator(call):
    for kind in (UnknownArgumentError, TypeError):
        with pytest.raises(kind) as caught:
            call()
    assert str(caught.value) == (
        "svds takes one operator and k; write svds(JacobianOperator(model, x), k)"
    )


def test_warnings_name_the_line_that_called():
    matrix = torch.diag(torch.linspace(1, 0, 300))
    with pytest.warns(JvpsvdWarning) as caught:
        svds(matrix, 3, tol=1e-8, method="randomized")
    assert [each.category for each in caught] == [PrecisionWarning, ConvergenceWarning]
    assert {each.filename for each in caught} == {__file__}


def test_every_argument_of_scipy_is_ours_or_answered():
    theirs = set(inspect.signature(scipy.sparse.linalg.svds).parameters)
    ours = set(inspect.signature(svds).parameters)
    assert theirs <= ours | set(_ANSWERS)


def test_every_argument_of_other_svds_is_ours_or_answered():
    functions = (torch.svd_lowrank, scipy.linalg.svd, np.linalg.svd)
    theirs = {"driver", "out"}  # of torch.linalg.svd, which has no signature
    theirs |= {name for each in functions for name in inspect.signature(each).parameters} - {"a"}
    assert theirs <= set(inspect.signature(svds).parameters) | set(_ANSWERS)


@pytest.mark.parametrize(("word", "ours"), [("LM", "largest"), ("SM", "smallest")])
def test_scipy_s_words_for_which(word, ours):
    with pytest.raises(ArgumentError, match=f'^which="{word}" is "{ours}" here$'):
        svds(A, 3, which=word)


def test_the_signature_says_what_there_is():
    parameters = inspect.signature(svds).parameters
    assert parameters["which"].default == "largest"
    assert "Never" in str(parameters["other_names"].annotation)


def test_seed_none_is_another_one_each_time_and_is_named():
    matrix = with_values(spectrum("harmonic", 200), 250, 200)
    options = {"method": "golub-kahan", "block_size": 4}
    first, second = (svds(matrix, 5, seed=None, **options) for _ in range(2))
    assert first.seed != second.seed
    assert not torch.equal(first.s, second.s)
    again = svds(matrix, 5, seed=first.seed, **options)
    assert torch.equal(again.s, first.s)
    assert torch.equal(again.U, first.U)


def test_the_seed_that_was_given_is_named():
    assert svds(A, 2).seed == 0
    assert svds(A, 2, seed=np.int64(7)).seed == 7


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), np.int64(0)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1.2e-14)])
def test_tol_zero_is_what_the_dtype_reaches(dtype, tol, zero):
    matrix = with_values(spectrum("harmonic", 60), 70, 60).to(dtype)
    result = svds(matrix, 5, tol=zero)
    assert result.converged.all()
    assert result.tol == pytest.approx(tol, rel=0.1)
