"""A step waits for a GPU as seldom as it can: counted on the CPU."""

import pytest
import torch
from support.svd_problems import line, with_values
from support.waits import OnCard

from jvpsvd import MatrixOperator
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization

# For the norms of two products, and for a small matrix in each of two passes over W and over Z.
WAITS = 6


class OnCardOperator(MatrixOperator):
    """A matrix, or a batch, whose products count as those of a GPU."""

    def _matmat(self, V):
        return super()._matmat(V.as_subclass(torch.Tensor)).as_subclass(OnCard)

    def _rmatmat(self, U):
        return super()._rmatmat(U.as_subclass(torch.Tensor)).as_subclass(OnCard)


@pytest.mark.parametrize("count", [None, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_waits_six_times_whatever_the_batch(count, dtype):
    each = [with_values(line(2, 1, 120), 150, 120, seed=i) for i in range(count or 1)]
    matrix = (torch.stack(each) if count else each[0]).to(dtype)
    bases, plain = (
        GolubKahanFactorization(A, block_size=8, seed=0, capacity=120, max_loss=1e-5)
        for A in (OnCardOperator(matrix), MatrixOperator(matrix))
    )
    bases.initialize()
    plain.initialize()
    for _ in range(8):
        OnCard.waits.clear()
        bases.expand()
        plain.expand()
        assert 0 < len(OnCard.waits) <= WAITS, OnCard.waits
        # What is not waited for is not read before it is there, either.
        for name in ("B", "R", "defect", "scale"):
            assert torch.equal(getattr(bases, name), getattr(plain, name)), name
