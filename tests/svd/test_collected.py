import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.svd.krylov.finished import Collected
from jvpsvd.svd.triplets import Evidence, Triplets

M, N, K = 7, 5, 3


def part(places, left=True):
    """Triplets whose numbers tell the place that they belong to."""
    one = torch.tensor(places, dtype=torch.float64)
    s = one[:, None].expand(-1, K) + torch.arange(K) / 10
    U = one[:, None, None] + torch.arange(M)[None, :, None] / 100 + torch.zeros(K)
    V = one[:, None, None] - torch.arange(N)[None, :, None] / 100 + torch.zeros(K)
    known = tuple(Evidence(float(i), 0.5, i % 2 == 0, f"of {i}", i, 0.1 * i) for i in places)
    return Triplets(s.clone(), s + 100, U if left else None, V, known)


def batch(count):
    return MatrixOperator(torch.ones(count, M, N, dtype=torch.float64))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    "order",
    [[[0, 1, 2, 3, 4]], [[4], [3], [2], [1], [0]], [[1, 4], [0], [2, 3]], [[2], [0, 1, 3, 4]]],
)
def test_every_matrix_is_put_in_its_place(order, left):
    found = Collected(batch(5), K)
    for done, places in enumerate(order):
        assert found.count == sum(map(len, order[:done]))
        found.add(places, part(places, left))
    assert found.count == 5
    triplets, expected = found.triplets(), part(list(range(5)), left)
    for name in ("s", "residuals", "U", "V"):
        got, wanted = getattr(triplets, name), getattr(expected, name)
        assert got is None if wanted is None else torch.equal(got, wanted)
    assert triplets.known == expected.known


def test_columns_stay_contiguous():
    found = Collected(batch(3), K)
    for place in (1, 0, 2):
        found.add([place], part([place]))
    for side in (found.triplets().U, found.triplets().V):
        assert side.stride(-2) == 1


def test_later_parts_do_not_change_earlier_ones():
    first = part([1])
    found = Collected(batch(2), K)
    found.add([1], first)
    found.add([0], part([0]))
    assert torch.equal(first.s, part([1]).s)
    assert torch.equal(found.triplets().s[1], first.s[0])


def test_a_single_operator_is_handed_through():
    found = Collected(MatrixOperator(torch.ones(M, N, dtype=torch.float64)), K)
    whole = part([0])
    single = Triplets(whole.s[0], whole.residuals[0], whole.U[0], whole.V[0], whole.known)
    found.add([0], single)
    assert found.triplets().s is single.s
    assert found.triplets().known == single.known


def test_nothing_collected_is_nothing_to_hand_over():
    with pytest.raises(TypeError, match="nothing was collected"):
        Collected(batch(2), K).triplets()
