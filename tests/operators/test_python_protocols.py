"""What Python, NumPy and pickle ask of an operator: an answer, or one line that says what to do."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, svds
from jvpsvd.errors import ArgumentError, OperandError
from jvpsvd.operators import LinearMap, MatrixOperator, as_scipy, stack

POINT = torch.linspace(-1, 1, 3).double()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double().eval()


OPERATORS = {
    "Jacobian": lambda: JacobianOperator(network(), POINT),
    "recorded": lambda: JacobianOperator(network(), POINT, derivatives="trace"),
    "transforms": lambda: JacobianOperator(network(), POINT, derivatives="transforms"),
    "batch": lambda: JacobianOperator(network(), torch.stack([POINT, -POINT]), batch_dims=1),
    "matrix": lambda: MatrixOperator(torch.eye(2, 3).double()),
    "transpose": lambda: JacobianOperator(network(), POINT).T,
    "sum": lambda: JacobianOperator(network(), POINT) + MatrixOperator(torch.ones(2, 3).double()),
    "streamed": lambda: StreamedStack.over(network(), POINT[None]),
}
ENTRIES = r"no entries to index or go through; write .*A\.to_dense\(\).* restrict\(A, rows="
ASKED = {
    "an index": (lambda A: A[0], ENTRIES),
    "two indices": (lambda A: A[0, 1], ENTRIES),
    "a slice": (lambda A: A[:2], ENTRIES),
    "a name": (lambda A: A["s"], ENTRIES),
    "a loop": (list, ENTRIES),
    "unpacking": (lambda A: (lambda *rows: rows)(*A), ENTRIES),
    "sum": (sum, ENTRIES),
    "an entry set": (lambda A: operator.setitem(A, 0, 1.0), "cannot be set; add an operator"),
    "an entry deleted": (lambda A: operator.delitem(A, 0), "write restrict"),
    "len": (len, r"no len\(\): A\.shape is \(m, n\)"),
    "in": (lambda A: 1.0 in A, r"whether 1\.0 is in it; ask A\.to_dense\(\)"),
    "float": (float, r"is no number; write jvpsvd\.svds\(A, 1\)\.s\.item\(\)"),
    "int": (int, "is no number"),
    "complex": (complex, "is no number"),
    "math.sqrt": (math.sqrt, "is no number"),
    "abs": (abs, r"no abs\(\); write A\.to_dense\(\)\.abs\(\)"),
    "//": (lambda A: A // 2, r"no '//' and no '%' \(2\); write A / c"),
    "%": (lambda A: A % 2, "no '%'"),
    "divmod": (lambda A: divmod(A, 2), "no '//' and no '%'"),
    "divmod of a number": (lambda A: divmod(2, A), "cannot be divided by an operator"),
    "round": (round, r"write A\.to_dense\(\)\.round\(decimals=0\)"),
    "math.trunc": (math.trunc, "is no number"),
    "<": (lambda A: A < 1, r"compare norms, jvpsvd\.svds\(A, 1\)\.s"),
    ">=": (lambda A: A >= A, "compare norms"),
    "np.abs": (np.abs, "is no array"),
    "np.sum": (np.sum, "is no array"),
    "np.add with an array": (lambda A: np.add(np.ones((2, 3)), A), "cannot be added"),
    "an array divided": (lambda A: np.ones(3) / A, "cannot be divided by an operator"),
    "an array @": (lambda A: np.ones(2) @ A, r"write A\.T @ v"),
    "np.asarray": (np.asarray, r"is no array; write A\.to_dense\(\)\.numpy\(\).*as_scipy\(A\)"),
    "np.dot": (lambda A: np.dot(A, np.ones(3)), "is no array"),
    "np.linalg.svd": (np.linalg.svd, "is no array"),
    "torch.tensor": (torch.tensor, r"A\.to_dense\(\) a tensor"),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_has_not_is_one_line_with_what_to_write(name, asked):
    if name == "streamed" and asked in ("len", "torch.tensor"):
        pytest.skip("its length is the number of points")
    ask, message = ASKED[asked]
    with pytest.raises(OperandError, match=message) as caught:
        ask(OPERATORS[name]())
    assert "\n" not in str(caught.value)


def test_a_matrix_of_a_batch_is_asked_for_by_select():
    with pytest.raises(OperandError, match=r"A\.select\(\[i\]\) for a matrix of the batch"):
        OPERATORS["batch"]()[0]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_true_and_the_same_with_a_plus(name):
    A = OPERATORS[name]()
    assert A
    assert +A is A
    assert A in [A]


def test_a_single_operator_is_no_list_to_stack():
    with pytest.raises(ArgumentError, match="stack takes a list of operators"):
        stack(OPERATORS["matrix"]())


def test_scipy_takes_an_operator_as_before():
    A = OPERATORS["Jacobian"]()
    found = sla.svds(as_scipy(A), k=1, return_singular_vectors=False)
    np.testing.assert_allclose(found, svds(A, 1).s.numpy())
    assert sla.aslinearoperator(as_scipy(A)).shape == (2, 3)


@pytest.mark.parametrize(
    "name", ["Jacobian", "recorded", "transforms", "batch", "transpose", "sum"]
)
@pytest.mark.parametrize("save", [pickle.dumps, lambda A: torch.save(A, "unused")])
def test_a_jacobian_is_not_pickled(name, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperandError, match=r"cannot be pickled, .* make it anew there") as caught:
        save(OPERATORS[name]())
    assert "\n" not in str(caught.value)


def doubled(block):
    return 2 * block


def test_a_map_of_functions_of_a_module_is_pickled():
    A = JacobianOperator.from_linear_map(LinearMap(POINT, 2 * POINT, doubled, doubled))
    again = pickle.loads(pickle.dumps(A))  # noqa: S301
    assert torch.equal(again.to_dense(), A.to_dense())
    assert torch.equal(svds(again, 2).s, svds(A, 2).s)


def test_a_map_of_a_function_without_a_name_is_not_pickled():
    A = JacobianOperator.from_linear_map(LinearMap(POINT, POINT, doubled, lambda u: u))
    with pytest.raises(OperandError, match="cannot be pickled"):
        pickle.dumps(A)


def test_a_matrix_is_pickled():
    A = OPERATORS["matrix"]()
    assert torch.equal(pickle.loads(pickle.dumps(A)).to_dense(), A.to_dense())  # noqa: S301


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", OPERATORS)
def test_copies_have_the_same_products(name, copied):
    A = OPERATORS[name]()
    again = copied(A)
    assert type(again) is type(A)
    assert torch.equal(again.to_dense(), A.to_dense())
    assert torch.equal(svds(again, 1).s, svds(A, 1).s)


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_a_deep_copy_goes_on_with_the_weights_of_its_time(derivatives):
    net = network()
    J = JacobianOperator(net, POINT, derivatives=derivatives)
    deep, before = copy.deepcopy(J), J.at(2 * POINT).to_dense()
    with torch.no_grad():
        net[0].weight.mul_(2)
    torch.testing.assert_close(deep.at(2 * POINT).to_dense(), before)
    expected = JacobianOperator(net, 2 * POINT).to_dense()
    torch.testing.assert_close(J.at(2 * POINT).to_dense(), expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_kept_in_arrays_of_objects(name):
    A = OPERATORS[name]()
    held = np.array([A, A], dtype=object)
    assert held.shape == (2,)
    assert held[0] is A


def test_products_by_the_names_of_numpy_are_those_by_signs():
    A = OPERATORS["Jacobian"]()
    v, V = np.ones(3), torch.eye(3).double()
    np.testing.assert_array_equal(np.matmul(A, v), A @ v)
    for scaled in (np.multiply(A, 2.0), np.multiply(2.0, A), np.float64(2.0) * A):
        torch.testing.assert_close(scaled @ V, 2.0 * (A @ V), rtol=0, atol=0)
