"""Points, functions and blocks that have no Jacobian product, each refused in one line."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator
from jvpsvd.errors import ArgumentError, NonFiniteError


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(3, dtype=torch.int64), "int64"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.ones(3, dtype=torch.bool), "bool"),
        (torch.ones(3, dtype=torch.uint8), r"uint8.*as x\.float\(\); where they are token ids"),
        (torch.ones(3, dtype=torch.long), r"int64.*as x\.float\(\); where they are token ids"),
        (torch.ones(0), r"\(0,\)"),
        (torch.ones(2, 0, 3), r"\(2, 0, 3\)"),
    ],
)
def test_points_that_are_no_real_tensor(x, message):
    with pytest.raises(ArgumentError, match=f"non-empty tensor of a real floating.*{message}"):
        JacobianOperator(lambda z: z, x)


@pytest.mark.parametrize("x", [[1.0, 2.0], 1.0, {}, None, {"ids": torch.tensor([3])}])
def test_points_that_hold_no_real_tensor(x):
    with pytest.raises(ArgumentError, match="x holds no tensor of a floating dtype"):
        JacobianOperator(lambda z: z, x)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: (x, 1.0), "returned a tuple that holds a leaf float"),
        (lambda x: {"ids": x.long()}, "returned a dict that holds a leaf torch.int64"),
        (lambda x: (), "returned an empty tuple"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: x.argmax(), "int64"),
        (lambda x: x > 0, "bool"),
        (lambda x: x[:0], r"\(0,\)"),
        (lambda x: x + 1j, "complex64"),
        (lambda x: x.double(), "float32 to torch.float64"),
        (lambda x: x.half(), "float32 to torch.float16"),
        (lambda x: torch.ones(3, device="meta"), r"cpu to meta.*return y.to\(x.device\)"),
        (lambda x: (x, torch.ones(3, device="meta")), r"cpu and meta; .*y.to\(x.device\)"),
    ],
    ids=[
        "tuple",
        "dict",
        "empty tuple",
        "None",
        "int",
        "bool",
        "empty",
        "complex",
        "wider",
        "narrower",
        "device",
        "two devices",
    ],
)
def test_functions_whose_value_has_no_jacobian(fn, message):
    with pytest.raises(ArgumentError, match=message):
        JacobianOperator(fn, torch.ones(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_is_not_finite(bad, dtype):
    def fn(x):
        return torch.cat([x, torch.full((1,), bad, dtype=dtype)])

    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        JacobianOperator(fn, torch.ones(3, dtype=dtype))


def test_a_point_that_is_not_finite():
    with pytest.raises(NonFiniteError, match="check the input"):
        JacobianOperator(nn.Linear(2, 2), torch.tensor([float("nan"), 1.0]))


def test_a_network_in_another_dtype_than_the_point_is_not_cast():
    with pytest.raises(RuntimeError, match="dtype"):
        JacobianOperator(nn.Linear(3, 2), torch.ones(3, dtype=torch.float64))


OPERATORS = {
    "matrix": MatrixOperator(torch.ones(2, 3)),
    "transposed": MatrixOperator(torch.ones(3, 2)).T,
    "jacobian": JacobianOperator(lambda x: x[:2], torch.ones(3)),
    "scaled": 2 * MatrixOperator(torch.ones(2, 3)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    "block",
    [torch.ones(2, 1), torch.ones(4, 2), torch.ones(3), torch.ones(1, 3, 1), torch.ones(())],
    ids=lambda block: str(tuple(block.shape)),
)
def test_blocks_of_another_shape(name, block):
    A = OPERATORS[name]
    with pytest.raises(ArgumentError, match=r"matmat of an operator of shape 2 x 3 takes V"):
        A.matmat(block)
    with pytest.raises(ArgumentError, match=r"rmatmat of an operator of shape 2 x 3 takes U"):
        A.rmatmat(torch.ones(3, 1))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.complex64])
def test_blocks_of_another_dtype(name, dtype):
    A = OPERATORS[name]
    with pytest.raises(ArgumentError, match=f"V is {dtype}.*nothing is cast silently"):
        A.matmat(torch.ones(3, 1, dtype=dtype))
    with pytest.raises(ArgumentError, match=f"U is {dtype}.*nothing is cast silently"):
        A.rmatmat(torch.ones(2, 1, dtype=dtype))


@pytest.mark.parametrize("name", OPERATORS)
def test_blocks_on_another_device(name):
    with pytest.raises(ArgumentError, match=r"meta.*nothing is cast silently"):
        OPERATORS[name].matmat(torch.ones(3, 1, device="meta"))


def test_every_message_is_one_line():
    calls = [
        lambda: JacobianOperator(lambda z: z, [1.0]),
        lambda: JacobianOperator(lambda z: z.double(), torch.ones(2)),
        lambda: MatrixOperator(torch.ones(2)),
        lambda: MatrixOperator(torch.ones(2, 2)).matmat(torch.ones(3, 3)),
    ]
    for call in calls:
        with pytest.raises(ArgumentError) as caught:
            call()
        assert "\n" not in str(caught.value)
