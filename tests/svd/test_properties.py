import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.svd_problems import TOL, assert_truthful, with_values

from jvpsvd import svds

QUICK = settings(max_examples=150, deadline=None, derandomize=True)
LEVELS = (0.0, 1e-8, 1e-4, 0.3, 0.5, 0.999, 1.0, 1.0 + 1e-7, 2.0, 1e3)


@st.composite
def problems(draw):
    m, n = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    p = min(m, n)
    level = st.one_of(st.sampled_from(LEVELS), st.floats(1e-100, 1))  # times 1e-18 at least
    few = draw(st.lists(level, min_size=1, max_size=5))
    s = draw(st.lists(st.sampled_from(few), min_size=p, max_size=p))
    s = torch.tensor(s, dtype=torch.float64).sort(descending=True)[0]
    scale = draw(st.sampled_from([1e-18, 1.0, 1e18]))
    k = draw(st.integers(1, p))
    return scale * with_values(s, m, n, draw(st.integers(0, 9))), k


dtypes = st.sampled_from([torch.float32, torch.float64])
methods = st.sampled_from(["golub-kahan", "exact", "auto"])


@QUICK
@given(problems(), dtypes, methods, st.integers(1, 50), st.integers(0, 99))
def test_no_converged_value_is_wrong(problem, dtype, method, block_size, seed):
    matrix, k = problem
    matrix = matrix.to(dtype)
    result = svds(matrix, k, tol=TOL[dtype], method=method, block_size=block_size, seed=seed)
    assert_truthful(result, torch.linalg.svdvals(matrix.double()), matrix.shape)
    assert result.converged.all()


@QUICK
@given(problems(), dtypes, methods)
def test_transposing_swaps_the_vectors(problem, dtype, method):
    matrix, k = problem
    matrix = matrix.to(dtype)
    one = svds(matrix, k, tol=TOL[dtype], method=method)
    other = svds(matrix.T, k, tol=TOL[dtype], method=method)
    assert (one.s - other.s).abs().max() <= 3 * TOL[dtype] * one.s[0]
    assert one.U.shape == other.Vh.T.shape
    assert one.Vh.shape == other.U.T.shape


@QUICK
@given(problems(), methods)
def test_the_triplets_are_the_best_approximation(problem, method):
    """Eckart–Young: the remainder has the next value as its norm."""
    matrix, k = problem
    result = svds(matrix, k, tol=1e-9, method=method)
    rest = torch.linalg.matrix_norm(matrix - (result.U * result.s) @ result.Vh, 2)
    truth = torch.linalg.svdvals(matrix)
    following = truth[k] if k < len(truth) else 0.0
    assert abs(rest - following) <= 1e-8 * truth[0]
