"""Streams of Jacobians: what is alive, what is read, and which point is at fault."""

import gc
import logging
import weakref

import pytest
import torch
from support.batch_problems import DTYPES, matrices
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError, JvpsvdError, ModelError, NonFiniteError
from jvpsvd.operators import Products
from jvpsvd.operators.algebra import restrict, stack
from jvpsvd.operators.streamed_stack import StreamedStack


def problem(dtype, count=4):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 11), nn.Tanh(), nn.Linear(11, 5)).to(dtype)
    return net, torch.randn(count, 9, dtype=dtype)


def stream(a):
    return StreamedStack(lambda i: MatrixOperator(a[i]), len(a))


class Data:
    """Notes every index that is read."""

    def __init__(self, points):
        self.points, self.read = points, []

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        self.read.append(index)
        return self.points[index].clone()


def multiply(J):
    return J @ torch.ones(J.shape[1], 2, dtype=J.dtype)


def multiply_transposed(J):
    return J.T @ torch.ones(J.shape[0], 2, dtype=J.dtype)


def multiply_gram(J):
    return multiply(J.mean_gram())


PRODUCTS = [multiply, multiply_transposed, multiply_gram]


@pytest.mark.parametrize("product", PRODUCTS)
def test_none_is_alive_when_the_next_is_made(product, only_new_objects):
    a, alive, found = matrices(4, 2, 3), weakref.WeakSet(), []

    def at(index):
        gc.collect()
        found.append(len(alive))
        A = MatrixOperator(a[index])
        alive.add(A)
        return A

    J = StreamedStack(at, len(a))
    product(J)
    gc.collect()
    assert found == [0] * 5
    assert not alive


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_point_is_read_once_a_product_and_in_turn(product):
    net, X = problem(torch.float64)
    data = Data(X)
    J = StreamedStack.over(net, data)
    assert set(data.read) == {0}
    data.read.clear()
    product(J)
    assert data.read == [0, 1, 2, 3]


def test_a_vector_counts_once():
    made = []

    def at(index):
        made.append(MatrixOperator(torch.ones(3, 3)))
        return made[-1]

    J = StreamedStack(at, 4)
    multiply(J)
    J.rmatvec(torch.ones(12))
    assert J.products == Products(2, 1)
    gram = J.mean_gram()
    multiply(gram)
    gram.T @ torch.ones(3, 5)
    assert gram.products == Products(2, 5)
    assert [A.products for A in made[1:5]] == [Products(2, 0)] * 4
    assert [A.products for A in made[9:13]] == [Products(2, 2)] * 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 4])
def test_its_triplets_are_those_of_the_dense_stack(dtype, count, dense):
    net, X = problem(dtype, count)
    U, s, Vh = torch.linalg.svd(torch.cat([dense(net, x) for x in X]), full_matrices=False)
    J = StreamedStack.over(net, X)
    stacked, gram = svds(J, 3), svds(J.mean_gram(), 3)
    torch.testing.assert_close(stacked.s, s[:3], rtol=1e-5, atol=0)
    torch.testing.assert_close(gram.s, s[:3] ** 2 / count, rtol=2e-5, atol=0)
    for ours, theirs in ((stacked.U.T, U.T), (stacked.Vh, Vh), (gram.Vh, Vh), (gram.U.T, Vh)):
        overlap = (ours * theirs[:3]).sum(1).abs()
        torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_part_of_other_operators(dtype, dense):
    net, X = problem(dtype)
    J, whole = StreamedStack.over(net, X), torch.cat([dense(net, x) for x in X])
    for A, matrix in (
        (stack([J, J]), torch.cat([whole, whole])),
        (restrict(J, [19, 0], [3, 1]), whole[[19, 0]][:, [3, 1]]),
        (0.5 * J.T @ J, 0.5 * whole.T @ whole),
        (J.mean_gram() + J.T @ J, 1.25 * whole.T @ whole),
    ):
        torch.testing.assert_close(A @ torch.eye(A.shape[1], dtype=dtype), matrix)
        torch.testing.assert_close(A.T @ torch.eye(A.shape[0], dtype=dtype), matrix.T)


def test_points_of_an_image_and_a_chunk(dense):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten()).double()
    X = [torch.randn(1, 2, 5, 5).double() for _ in range(3)]
    before = [x.clone() for x in X]
    J = StreamedStack.over(net, X, chunk=2)
    torch.testing.assert_close(J @ torch.eye(50).double(), torch.cat([dense(net, x) for x in X]))
    assert all(x.equal(y) for x, y in zip(X, before, strict=True))


def test_blocks_given_are_left_alone():
    J = stream(matrices(3, 2, 2))
    for product, rows in ((J.matmat, 2), (J.rmatmat, 6), (J.mean_gram().matmat, 2)):
        block = torch.ones(2, rows, dtype=J.dtype).T
        product(block).fill_(7)
        assert (block == 1).all()


def test_a_later_batch_and_a_later_shape_are_named():
    for odd in (torch.ones(2, 2, 3), torch.ones(3, 2)):
        J = stream([torch.ones(2, 3), torch.ones(2, 3), odd])
        for product in PRODUCTS:
            with pytest.raises(ArgumentError, match=r"operator 2 is .* operator 0 2 x 3"):
                product(J)


@pytest.mark.parametrize("odd", [torch.ones(3), torch.ones(2).double(), torch.ones(1, 2)])
def test_a_point_of_another_kind_is_refused(odd):
    J = StreamedStack.over(torch.sin, [torch.ones(2), torch.ones(2), odd])
    with pytest.raises(JvpsvdError, match=r"recorded for .*float32"):
        multiply(J)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ArgumentError, match=f"count={count} must be a whole number at least 1"):
        StreamedStack(lambda i: MatrixOperator(torch.ones(2, 2)), count)


@pytest.mark.parametrize("points", [[], torch.ones(0, 3), Data([])], ids=["list", "tensor", "data"])
def test_no_point_is_refused(points):
    with pytest.raises(ArgumentError, match="no point"):
        StreamedStack.over(torch.sin, points)


@pytest.mark.parametrize("points", [torch.ones(2, 3).long(), torch.ones(2, 3).bool()], ids=str)
def test_points_that_are_not_floating_are_refused(points):
    with pytest.raises(ArgumentError, match="real floating"):
        StreamedStack.over(lambda x: x * 2, points)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_later_point_that_is_not_finite_is_refused(product, value):
    net, X = problem(torch.float64)
    X[2, 0] = value
    J = StreamedStack.over(lambda x: net(x) + x[:5] ** 2, X)
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        product(J)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_first_point_that_is_not_finite_is_refused_as_such(value):
    X = torch.tensor([[value, 1.0], [1.0, 1.0]])
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        multiply(StreamedStack.over(torch.square, X))


def branch(x):
    return x**2 if x.sum() > 0 else 3 * x


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_products_of_what_cannot_be_recorded(dtype, dense, caplog):
    X = torch.randn(6, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([dense(branch, x) for x in X])
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = StreamedStack.over(branch, X)
        for _ in range(2):
            torch.testing.assert_close(J @ torch.eye(4, dtype=dtype), whole)
            torch.testing.assert_close(J.T @ torch.eye(24, dtype=dtype), whole.T)
            gram = J.mean_gram() @ torch.eye(4, dtype=dtype)
            torch.testing.assert_close(gram, whole.T @ whole / 6)
    assert len(caplog.records) == 1


def test_what_can_be_recorded_leaves_no_line_in_the_log(caplog):
    net, X = problem(torch.float32)
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        multiply(StreamedStack.over(net, X))
    assert not caplog.records


@pytest.mark.parametrize(
    "part", [nn.Dropout(0.5), nn.BatchNorm1d(3)], ids=lambda part: type(part).__name__
)
def test_a_network_in_training_mode_is_refused(part):
    with pytest.raises(ModelError, match="training mode"):
        StreamedStack.over(nn.Sequential(nn.Linear(3, 3), part), torch.ones(2, 4, 3))


def test_a_random_function_is_refused():
    def random(x):
        return nn.functional.dropout(x, 0.5)

    with pytest.raises(JvpsvdError):
        JacobianOperator(random, torch.ones(64))
    with pytest.raises(JvpsvdError):
        multiply(StreamedStack.over(random, torch.ones(2, 64)))


def convolutions():
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Tanh(), nn.Flatten()), (1, 2, 5, 5)


def layers():
    return nn.Sequential(nn.Linear(9, 11), nn.Tanh(), nn.Linear(11, 5)), (9,)


def in_place(net):
    for weight in net.parameters():
        weight.mul_(1.7)


def replaced(net):
    scaled = 1.7 * nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(scaled, net.parameters())


@pytest.mark.parametrize("build", [layers, convolutions])
@pytest.mark.parametrize("change", [in_place, replaced])
def test_weights_changed_later_are_taken_or_noticed_never_mixed(change, build, dense):
    torch.manual_seed(0)
    net, shape = build()
    net, X = net.double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    J = StreamedStack.over(net, X)
    unit = torch.eye(J.shape[1], dtype=torch.float64)
    J @ unit
    with torch.no_grad():
        change(net)
    try:
        found = J @ unit
    except JvpsvdError:
        return
    torch.testing.assert_close(found, torch.cat([dense(net, x) for x in X]))
