"""Arrays of NumPy, and of libraries that export by DLPack or to NumPy, where tensors are taken."""

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, StreamedStack, aslinearoperator, svds
from jvpsvd.errors import ArgumentError

DTYPES = {np.float32: torch.float32, np.float64: torch.float64}


class ByDLPack:
    """An array as JAX and CuPy have them: exported by DLPack, and of no other known type."""

    def __init__(self, array):
        self.held = torch.from_numpy(np.array(array))
        self.shape, self.dtype = array.shape, array.dtype

    def __dlpack__(self, **options):
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.held.__dlpack_device__()

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        return ByDLPack(self.held[index].numpy())


class ToNumpy:
    """An array that exports itself to NumPy alone, read-only as those of JAX."""

    def __init__(self, array):
        self.held = np.array(array)
        self.held.flags.writeable = False
        self.shape, self.dtype = array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self.held if dtype is None else self.held.astype(dtype)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        return ToNumpy(self.held[index])


class Unexported(ToNumpy):
    """Exports by DLPack fail, as those of read-only memory do."""

    def __dlpack__(self, **options):
        raise BufferError("readonly")

    def __dlpack_device__(self):
        return (1, 0)


KINDS = {"numpy": lambda a: a, "dlpack": ByDLPack, "array": ToNumpy, "no dlpack": Unexported}


def random(*shape, dtype=np.float64):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [MatrixOperator, aslinearoperator])
def test_a_matrix_of_every_kind_is_an_operator_of_its_dtype(make, kind, dtype):
    for shape in ((3, 4), (2, 3, 4)):
        matrix = random(*shape, dtype=dtype)
        A = make(KINDS[kind](matrix))
        assert A.dtype == DTYPES[dtype]
        torch.testing.assert_close(A.to_dense(), torch.from_numpy(matrix))


def test_svds_takes_an_array_of_another_library():
    matrix = random(6, 4)
    torch.testing.assert_close(svds(ByDLPack(matrix), k=2).s, svds(matrix, k=2).s)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 0)])
def test_a_numpy_array_gives_a_numpy_array(shape, dtype):
    matrix, V = random(3, 4, dtype=dtype), random(*shape, dtype=dtype)
    A = MatrixOperator(matrix)
    for block in (V, np.asfortranarray(V), V[::-1].copy()[::-1]):
        image = A @ block
        assert type(image) is np.ndarray
        assert image.dtype == dtype
        assert image.flags.writeable
        np.testing.assert_allclose(image, matrix @ V, rtol=1e-5)
        np.testing.assert_allclose((2 * A).T @ image, 2 * matrix.T @ (matrix @ V), rtol=1e-4)


@pytest.mark.parametrize("kind", ["dlpack", "array", "no dlpack"])
def test_an_array_of_another_library_gives_a_tensor(kind):
    matrix, V = random(2, 3, 4), random(2, 4, 5)
    image = MatrixOperator(matrix) @ KINDS[kind](V)
    torch.testing.assert_close(image, torch.from_numpy(matrix @ V))


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_of_every_kind(kind):
    net = nn.Linear(4, 3)
    x = random(4, dtype=np.float32)
    J = JacobianOperator(net, KINDS[kind](x))
    torch.testing.assert_close(J.to_dense(), net.weight.detach())
    torch.testing.assert_close(J.point, torch.from_numpy(x))
    X = random(5, 4, dtype=np.float32)
    J = JacobianOperator(net, KINDS[kind](X), batch_dims=1)
    torch.testing.assert_close(J.to_dense(), net.weight.detach().expand(5, 3, 4))
    assert J.as_input(J.T @ np.ones(3, dtype=np.float32)).shape == (5, 4)
    stream = StreamedStack.over(net, KINDS[kind](X))
    torch.testing.assert_close(stream.to_dense(), net.weight.detach().repeat(5, 1))


def test_the_point_is_a_copy():
    x = np.ones(2)
    J = JacobianOperator(torch.square, x)
    x[:] = 0
    torch.testing.assert_close(J.to_dense(), 2 * torch.eye(2, dtype=torch.float64))


class Half(ToNumpy):
    """Says one dtype and exports another, as bfloat16 does where NumPy has none."""

    def __init__(self, array):
        super().__init__(array)
        self.dtype = "bfloat16"


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no\nway")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(4, dtype=np.float64), r"float64 .*the operator torch.float32.*nothing is cast"),
        (ToNumpy(np.ones(4)), r"float64 .*the operator torch.float32.*nothing is cast"),
        (np.ones(4, dtype=int), r"int64 .*the operator torch.float32"),
        (np.ones(4, dtype=complex), r"multiply V.real and V.imag apart"),
        (np.ones(4, dtype=np.longdouble), r"right side has dtype \S+, which torch lacks; convert"),
        (np.array(["a"] * 4), r"right side has dtype <U1, which torch lacks"),
        (np.ma.masked_equal(np.ones(4, dtype=np.float32), 1), r"right side has masked entries"),
        (np.ones(3, dtype=np.float32), r"takes V of shape \(4, b\), got \(3, 1\)$"),
        (
            np.ones((1, 2, 2), dtype=np.float32),
            r"got \(1, 2, 2\); a vector is flat: A @ V.flatten\(\)$",
        ),
        (Half(np.ones(4, dtype=np.float32)), r"of bfloat16, and NumPy has it as float32"),
        (Broken(), r"torch cannot take \(RuntimeError: no way\); give a tensor or a NumPy array"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_in_one_line(array, message):
    A = MatrixOperator(torch.ones(3, 4))
    with pytest.raises(ArgumentError, match=message) as caught:
        A @ array
    assert "\n" not in str(caught.value)


def test_a_number_or_a_vector_is_no_block():
    with pytest.raises(ArgumentError, match=r"got \(\)$"):
        MatrixOperator(torch.ones(3, 1)).matmat(torch.tensor(3.0))
    with pytest.raises(ArgumentError, match=r"got \(4,\)$"):
        MatrixOperator(torch.ones(3, 4)).matmat(torch.ones(4))


@pytest.mark.parametrize(
    "take",
    [MatrixOperator, aslinearoperator, lambda array: JacobianOperator(torch.square, array)],
)
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 2), dtype=int), "real floating"),
        (ByDLPack(np.ones((2, 2), dtype=int)), "real floating"),
        (Broken(), "torch cannot take"),
        (np.ma.masked_equal(np.ones((2, 2)), 1), "masked entries"),
    ],
)
def test_a_matrix_or_point_that_does_not_fit_is_refused_in_one_line(take, array, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        take(array)
    assert "\n" not in str(caught.value)
