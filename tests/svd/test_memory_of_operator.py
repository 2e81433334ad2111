"""memory= counts what the operator holds besides weights, and the refusal says so."""

import pytest
import scipy.sparse
import torch
from support.svd_problems import planned
from torch import nn

from jvpsvd import (
    JacobianOperator,
    MatrixOperator,
    StreamedStack,
    aslinearoperator,
    restrict,
    stack,
    svds,
)
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Trace
from jvpsvd.svd import ProblemSize, plan
from jvpsvd.svd.memory import memory_of
from jvpsvd.svd.request import check_request

WIDTH, LAYERS = 64, 6
TANH = 4 * WIDTH  # bytes of one activation


def network():
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*layers).requires_grad_(False)


def jacobian(**options):
    return JacobianOperator(network(), torch.ones(WIDTH), derivatives="trace", **options)


def activations(J):
    """What is held but for the copies of few weights."""
    return J.held_bytes - sum(p.nbytes for p in network().parameters())


def test_a_recording_holds_the_activations_of_its_point():
    # The point and each layer's tanh, of which one is the value.
    assert (LAYERS + 1) * TANH <= activations(jacobian()) <= 2 * (LAYERS + 2) * TANH


def test_checkpoints_are_counted_in_their_stead():
    def deep(x):
        for _ in range(100):
            x = torch.sin(x)
        return x

    x = torch.ones(1000)
    whole = JacobianOperator(deep, x, derivatives="trace").held_bytes
    assert JacobianOperator(deep, x, recompute=True, derivatives="trace").held_bytes < whole / 4


def test_a_batch_holds_those_of_every_point():
    points = torch.ones(5, WIDTH)
    batch = JacobianOperator(network(), points, batch_dims=1, derivatives="trace")
    assert activations(batch) == 5 * activations(jacobian())
    assert batch.select([0]).held_bytes < batch.held_bytes


@pytest.mark.parametrize(
    "compose",
    [
        lambda J: J.T,
        lambda J: J.T @ J,
        lambda J: J + 2 * J,
        lambda J: stack([J, J]),
        lambda J: restrict(J, rows=[0, 1]),
        lambda J: StreamedStack(lambda i: J, 3),
        lambda J: StreamedStack(lambda i: J, 3).mean_gram(),
    ],
)
def test_what_parts_share_counts_once(compose):
    J = jacobian()
    assert compose(J).held_bytes == J.held_bytes > 0


def test_another_point_shares_the_weights_and_holds_its_own_activations():
    J = jacobian()
    other = J.at(torch.zeros(WIDTH))
    assert (J - other).held_bytes == J.held_bytes + activations(J)


def test_outputs_of_one_trace_share_what_they_hold():
    both = Trace(lambda x: (x.sin(), x.sin().cos()), torch.ones(WIDTH)).at(torch.ones(WIDTH))
    first, second = map(JacobianOperator.from_linear_map, both)
    assert (first + second).held_bytes == first.held_bytes == second.held_bytes > 0


@pytest.mark.parametrize(
    "A",
    [
        MatrixOperator(torch.eye(3)),
        JacobianOperator(torch.sin, torch.ones(3), derivatives="transforms"),
    ],
)
def test_nothing_is_said_of_what_is_not_known(A):
    assert A.held_bytes == 0


@pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")
def test_copies_of_a_sparse_matrix_by_rows_are_held():
    one = torch.eye(1000, dtype=torch.float64)[:, :600]
    entries, pointers = 600 * (8 + 4), (1001 + 601) * 4
    for sparse in (one.to_sparse(), one.to_sparse_csr(), one.to_sparse_csc()):
        A = MatrixOperator(sparse)
        assert A.held_bytes == (A.T @ A).held_bytes == 2 * entries + pointers
    of_scipy = aslinearoperator(scipy.sparse.csr_array(one.numpy()))
    assert of_scipy.held_bytes == 2 * entries + pointers


def test_a_hybrid_matrix_is_held_as_a_dense_copy():
    hybrid = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), torch.ones(2, 5), (4, 5), check_invariants=True
    )
    assert MatrixOperator(hybrid).held_bytes == 4 * 5 * 4


def test_both_products_of_a_selection_read_the_same_copies():
    (J,) = Trace(torch.sin, torch.zeros(3)).at_many(torch.rand(4, 3))
    part = J.select(torch.tensor([2, 0]))
    addresses = [
        {each.data_ptr() for each in product.inputs}
        for product in (part.jvp_product, part.vjp_product)
    ]
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
def test_a_budget_is_less_by_what_the_operator_holds(method):
    J = jacobian()
    size = ProblemSize.of(J)
    needed = plan(size, check_request(size, 2, method=method)).predicted_bytes
    svds(J, 2, method=method, tol=1e-3, memory=2 * needed + J.held_bytes)
    with pytest.raises(ArgumentError, match=r"beside the 9\d\.\d KiB that the operator holds \(0 "):
        svds(J, 2, method=method, memory=J.held_bytes)


def test_by_default_bases_get_half_of_what_the_operator_leaves():
    held = memory_of() // 2
    size = ProblemSize((10**6, 10**6), torch.float32, held=held)
    with pytest.raises(ArgumentError, match=r"half of what the .* the operator holds leave of the"):
        plan(size, check_request(size, 10**6 // 4))
    whole = planned((10**6, 10**6), 4, 100).max_size
    request = check_request(size, 100)
    assert whole / 3 < plan(size, request).max_size < 2 * whole / 3
