import pytest
import torch
from support.svd_problems import line, with_values

from jvpsvd import MatrixOperator, svds
from jvpsvd.errors import ArgumentError, NonFiniteError


class Poisoned(MatrixOperator):
    """A matrix whose products in one direction turn bad after some vectors."""

    def __init__(self, matrix, direction, value, after):
        super().__init__(matrix)
        self.direction, self.value, self.after = direction, value, after

    def _spoil(self, block, direction):
        taken = getattr(self.products, direction)
        if direction == self.direction and taken > self.after:
            block = block.clone()
            block[0, -1] = self.value
        return block

    def _matmat(self, V):
        return self._spoil(super()._matmat(V), "forward")

    def _rmatmat(self, U):
        return self._spoil(super()._rmatmat(U), "reverse")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("after", [0, 40])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("shape", [(100, 80), (80, 100)])
@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_the_direction_is_named_as_the_operator_knows_it(method, shape, direction, after, value):
    m, n = shape
    if method == "exact" and direction == ("reverse" if m > n else "forward"):
        after = 0  # it takes two products in this direction, for the certificate
    A = Poisoned(with_values(line(1, 0, 80), m, n), direction, value, after)
    with pytest.raises(NonFiniteError, match=rf"a {direction} product of the {m} x {n} operator"):
        svds(A, 20, method=method)


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_the_block_is_named(method):
    A = Poisoned(with_values(line(1, 0, 200), 200, 200), "forward", float("nan"), 100)
    named = {"golub-kahan": "16 vectors after 96", "exact": "unit vectors 64 to 127"}[method]
    with pytest.raises(NonFiniteError, match=named):
        svds(A, 50, method=method, tol=1e-12, block_size=16 if method == "golub-kahan" else None)


def test_of_a_matrix_the_entries_are_to_be_looked_at():
    matrix = torch.full((6, 5), float("nan"))
    for operator in (matrix, matrix.to_sparse(), matrix.mT.numpy()):
        with pytest.raises(NonFiniteError, match=r"NaN or infinity \(.*\); check its entries$"):
            svds(operator, 2)


def test_an_operator_given_transposed_is_named_as_it_was_made():
    A = Poisoned(with_values(line(1, 0, 20), 30, 20), "reverse", float("nan"), 0)
    for operator in (A, A.T):
        with pytest.raises(NonFiniteError, match="a reverse product of the 30 x 20 operator"):
            svds(operator, 3, method="golub-kahan")


def test_a_float32_overflow_is_not_a_number_to_report():
    with pytest.raises(NonFiniteError):
        svds(torch.full((50, 40), 3e38), 2, method="golub-kahan")


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("shape", [(10, 63), (63, 10)])
@pytest.mark.parametrize("method", ["exact", "golub-kahan", "randomized"])
def test_entries_that_fit_and_singular_values_that_do_not(method, shape, batch, vectors):
    """Each entry and each column is a float32 number; sigma_1 is 4e38, and is not."""
    matrix = torch.full((*batch, *shape), 1.5e37)
    with pytest.raises((ArgumentError, NonFiniteError)) as caught:
        svds(matrix, 5, method=method, vectors=vectors, on_unconverged="ignore")
    assert "\n" not in str(caught.value)
