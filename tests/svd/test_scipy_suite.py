"""SciPy's own tests of its svds, for what applies to real matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla

from jvpsvd import svds

suite = pytest.importorskip(
    "scipy.sparse.linalg._eigen.tests.test_svds", reason="this SciPy ships without its tests"
)


def as_scipy_does(A, k=6, *, which="LM", return_singular_vectors=True, rng=0, method, **others):
    """jvpsvd.svds behind SciPy's signature: float64, values ascending, best accuracy.

    A starting vector and an iteration limit (`v0`, `maxiter`, in `others`) steer SciPy's solvers
    and not the answer; `solver` names one of SciPy's.
    """
    others.pop("random_state", None)  # the name of rng before SciPy 1.15
    assert set(others) <= {"solver", "v0", "maxiter", "tol"}
    if which == "SM" and method != "exact":
        pytest.skip("the smallest values need the exact method")
    operator = sla.aslinearoperator(A)
    if np.issubdtype(operator.dtype, np.complexfloating):
        pytest.skip("jvpsvd works on real operators")
    if not isinstance(A, sla.LinearOperator):
        A = A.astype(float) if scipy.sparse.issparse(A) else np.asarray(A, dtype=float)
    elif not np.issubdtype(operator.dtype, np.floating):
        A = sla.aslinearoperator(operator @ np.eye(operator.shape[1]))
    seed = int(rng.integers(1 << 30)) if isinstance(rng, np.random.Generator) else rng
    ours = {"LM": "largest", "SM": "smallest"}[which]
    result = svds(A, k, which=ours, tol=1e-12, method=method, seed=seed)
    U, s, Vh = (part.flip(0).numpy() for part in (result.U.T, result.s, result.Vh))
    if return_singular_vectors is False:
        return s
    return (
        None if return_singular_vectors == "vh" else U.T,
        s,
        None if return_singular_vectors == "u" else Vh,
    )


@pytest.fixture(params=["golub-kahan", "exact"], autouse=True)
def _through_the_shim(request, monkeypatch):
    def shim(*arguments, **options):
        return as_scipy_does(*arguments, method=request.param, **options)

    monkeypatch.setattr(suite, "svds", shim)


# Its names for their tests differ by version.
TAKEN = (
    "test_svds_int_A",
    "test_svds_parameter_k_which",
    "test_svd_return_singular_vectors",
    "test_svd_simple",
    "test_svd_LM_ones_matrix",
    "test_zero_matrix",
    "test_svd_rng_2",
)


class TestSciPysOwn:
    solver = None


for _name in TAKEN:
    if hasattr(suite.SVDSCommonTests, _name):
        setattr(TestSciPysOwn, _name, getattr(suite.SVDSCommonTests, _name))


def test_the_shim_would_let_a_wrong_value_fail(monkeypatch):
    monkeypatch.setattr(
        suite, "svds", lambda *a, **o: [2 * x for x in as_scipy_does(*a, method="exact", **o)]
    )
    with pytest.raises(AssertionError):
        suite.SVDSCommonTests.test_svds_parameter_k_which(TestSciPysOwn(), 3, "LM")
