from dataclasses import replace

import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.svd.krylov.finished import FinishedTriplets
from jvpsvd.svd.krylov.quadrature import NoSample
from jvpsvd.svd.triplets import Evidence, Triplets

M, N, K = 7, 5, 3


def part(matrices, left=True):
    """Triplets whose numbers are the index of their matrix."""
    one = torch.tensor(matrices, dtype=torch.float64)
    s = one[:, None].expand(-1, K) + torch.arange(K) / 10
    U = one[:, None, None] + torch.arange(M)[None, :, None] / 100 + torch.zeros(K)
    V = one[:, None, None] - torch.arange(N)[None, :, None] / 100 + torch.zeros(K)
    evidence = tuple(Evidence(float(i), 0.5, i % 2 == 0, f"of {i}", i, 0.1 * i) for i in matrices)
    samples = tuple(NoSample(f"of {i}") for i in matrices)
    return Triplets(s.clone(), s + 100, U if left else None, V, evidence, samples)


def batch(count):
    return MatrixOperator(torch.ones(count, M, N, dtype=torch.float64))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    "order",
    [[[0, 1, 2, 3, 4]], [[4], [3], [2], [1], [0]], [[1, 4], [0], [2, 3]], [[2], [0, 1, 3, 4]]],
)
def test_every_matrix_is_put_at_its_index(order, left):
    found = FinishedTriplets(batch(5), K)
    for done, matrices in enumerate(order):
        assert found.count == sum(map(len, order[:done]))
        found.add(matrices, part(matrices, left))
    assert found.count == 5
    triplets, expected = found.triplets(), part(list(range(5)), left)
    for name in ("s", "residuals", "U", "V"):
        got, wanted = getattr(triplets, name), getattr(expected, name)
        assert got is None if wanted is None else torch.equal(got, wanted)
    assert triplets.evidence == expected.evidence


def test_columns_stay_contiguous():
    found = FinishedTriplets(batch(3), K)
    for matrix in (1, 0, 2):
        found.add([matrix], part([matrix]))
    for side in (found.triplets().U, found.triplets().V):
        assert side.stride(-2) == 1


def test_later_parts_do_not_change_earlier_ones():
    first = part([1])
    found = FinishedTriplets(batch(2), K)
    found.add([1], first)
    found.add([0], part([0]))
    assert torch.equal(first.s, part([1]).s)
    assert torch.equal(found.triplets().s[1], first.s[0])


def test_one_operator_is_the_whole():
    found = FinishedTriplets(MatrixOperator(torch.ones(M, N, dtype=torch.float64)), K)
    whole = part([0])
    single = replace(whole, s=whole.s[0], residuals=whole.residuals[0], U=whole.U[0], V=whole.V[0])
    found.add([0], single)
    assert found.triplets().s is single.s
    assert found.triplets().evidence == single.evidence


def test_before_the_first_matrix_there_is_nothing():
    with pytest.raises(TypeError, match="no matrix has finished"):
        FinishedTriplets(batch(2), K).triplets()
