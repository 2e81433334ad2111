import numpy as np
import pytest
import torch

from jvpsvd import svds
from jvpsvd.errors import ArgumentError

A = torch.eye(6, 9)


@pytest.mark.parametrize("k", [0, -1, 7, 9, 2.0, "3", "All", True])
def test_k(k):
    with pytest.raises(ArgumentError, match=r"^k=.* a whole number from 1 to min\(6, 9\) = 6$"):
        svds(A, k)


@pytest.mark.parametrize(
    "tol", [False, -1e-5, 1, 2.0, float("nan"), float("inf"), "1e-5", None, True, 1j, np.True_]
)
def test_tol(tol):
    with pytest.raises(ArgumentError, match=r"^tol=.* must be a number that lies between 0 and 1$"):
        svds(A, 2, tol=tol)


@pytest.mark.parametrize("method", ["arpack", "", None, "Exact"])
def test_method(method):
    with pytest.raises(
        ArgumentError, match="use one of 'auto', 'golub-kahan', 'randomized', 'exact'"
    ):
        svds(A, 2, method=method)


@pytest.mark.parametrize("block_size", [0, -3, 2.5, "16", True, np.float32(4), np.True_])
def test_block_size(block_size):
    with pytest.raises(ArgumentError, match=r"^block_size=.* whole number at least 1$"):
        svds(A, 2, block_size=block_size)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, 1.0, "0", True, np.int64(-1)])
def test_seed(seed):
    with pytest.raises(ArgumentError, match=r"^seed=.* a whole number from 0 to \d+$"):
        svds(A, 2, seed=seed)


@pytest.mark.parametrize("method", ["golub-kahan", "randomized", "exact"])
def test_the_largest_seed(method):
    assert svds(A, 2, seed=2**63 - 1, method=method).converged.all()


@pytest.mark.parametrize("memory", [0, -1, "4 XB", "lots", True, ""])
def test_memory(memory):
    with pytest.raises(ArgumentError, match="is not a size"):
        svds(A, 2, memory=memory)


def test_too_little_memory_is_refused_before_any_product():
    with pytest.raises(ArgumentError, match=r"needs .* MiB .* lower k or raise memory"):
        svds(torch.ones(1000, 1000), 100, memory="1MiB")


@pytest.mark.parametrize("choice", ["error", None, True, "WARN"])
def test_on_unconverged(choice):
    with pytest.raises(ArgumentError, match='use "warn", "raise" or "ignore"'):
        svds(A, 2, on_unconverged=choice)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "exact"}, 'method="exact"'),
        ({"method": "randomized"}, 'method="randomized"'),
        ({"method": "randomized", "energy": 0.5}, 'method="randomized"'),
        ({"which": "smallest"}, 'which="smallest"'),
        ({"which": "smallest", "method": "exact"}, 'which="smallest"'),
    ],
)
def test_a_start_that_the_method_does_not_use(options, said):
    other = "" if "which" in said else ', or ask for method="golub-kahan"'
    message = f"^start= is of no use to {said}, which begins anew; leave it out{other}$"
    with pytest.raises(ArgumentError, match=message):
        svds(A, 2, start=torch.ones(6, 1), **options)
    assert svds(A, 2, start=torch.ones(6, 1)).method == "exact"  # the plan's choice, as documented


@pytest.mark.parametrize("options", [{}, {"energy": 0.5}, {"tail": 0.5}])
def test_a_block_size_that_the_method_does_not_use(options):
    with pytest.raises(ArgumentError, match=r'^block_size= is of no use to method="randomized", '):
        svds(A, 2, method="randomized", block_size=3, **options)


@pytest.mark.parametrize("vectors", ["no", "vh", 1, None])
def test_vectors(vectors):
    with pytest.raises(ArgumentError, match=r"^vectors=.* must be True or False$"):
        svds(A, 2, vectors=vectors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes(dtype):
    with pytest.raises(ArgumentError, match="float32 or float64"):
        svds(A.to(dtype), 2)


@pytest.mark.parametrize("matrix", [A.long(), A.cfloat(), [[1.0]], "matrix", torch.ones(3)])
def test_what_is_no_real_matrix(matrix):
    with pytest.raises(ArgumentError):
        svds(matrix, 1)


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_numbers(whole):
    res = svds(torch.eye(4), whole(2), block_size=whole(3), seed=whole(1), method="golub-kahan")
    assert res.s.shape == (2,)
    assert res.plan.block_size == 3
    assert type(res.plan.block_size) is int


@pytest.mark.parametrize("real", [np.float16, np.float32, np.float64])
def test_a_tolerance_of_numpy_is_a_number(real):
    res = svds(torch.eye(4), 2, tol=real(1e-3))
    assert res.converged.all()
    assert type(res.tol) is float


def test_a_solve_under_autocast_is_told_to_leave_it():
    """Autocast would take its inner products in bfloat16."""
    torch.manual_seed(0)
    A = torch.randn(2000, 1500)
    with (
        torch.autocast("cpu"),
        pytest.raises(ArgumentError, match=r"outside of torch\.autocast; fn may use it inside"),
    ):
        svds(A, 2, method="golub-kahan", block_size=2)
