"""Anything, given as any argument of the operators and networks: right, or one line of ours."""

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import (
    JacobianOperator,
    LinearOperator,
    MatrixOperator,
    StreamedStack,
    depths,
    layer_map,
    restrict,
    stack,
    svds,
)
from jvpsvd.errors import ArgumentError, JvpsvdError
from jvpsvd.networks import PhotoInput, layer_maps, load_model, load_weights, weights_sha256
from jvpsvd.operators import (
    Trace,
    as_cupy,
    as_scipy,
    by_transforms,
    check_function,
    check_network,
    columns,
    refuse_scripted,
    refuse_training_mode,
    refuse_weights_without_values,
    restored_attributes,
    tell_difference,
    transformed,
)

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
POINT = torch.linspace(-1, 1, 3)
MATRIX, MATRICES = MatrixOperator(torch.randn(3, 3)), MatrixOperator(torch.randn(2, 3, 3))
SINGLE = JacobianOperator(NET, POINT)
BATCH = JacobianOperator(NET, torch.randn(2, 3), batch_dims=1)
MAPS = Trace(NET, POINT).at_many(torch.randn(2, 3))[0]
SIGNS = ("add", "sub", "mul", "truediv", "matmul", "pow")
STREAM = StreamedStack(lambda index: MATRIX, 2)
TRACE = Trace(NET, POINT)
MAP = TRACE.at(POINT)[0]


class WithoutForward(nn.Module):
    pass


class Returning(LinearOperator):
    """A user's own operator, whose products are what is given."""

    def __init__(self, image, shape=(3, 3), dtype=torch.float32, device="cpu"):
        super().__init__(shape, dtype, device)
        self.image = image

    def _matmat(self, V):
        return self.image

    def _rmatmat(self, U):
        return self.image


def hostile():
    """Made in a test: torch warns of sparse and quantized tensors."""
    return {
        "None": None,
        "int": 5,
        "negative": -1,
        "zero": 0,
        "huge": 10**30,
        "float": 1.5,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "complex number": 1j,
        "bool": True,
        "string": "abc",
        "empty string": "",
        "bytes": b"x",
        "list": [1, 2],
        "empty list": [],
        "empty tuple": (),
        "set": {1},
        "dict": {"a": 1},
        "empty dict": {},
        "nested containers": {"a": [POINT, {"b": (POINT,)}]},
        "slice": slice(None),
        "object": object(),
        "class": int,
        "function": lambda *args: 1,
        "function of nothing": lambda *args: None,
        "module": WithoutForward(),
        "network": NET,
        "operator": MATRIX,
        "dtype": torch.float32,
        "integer dtype": torch.int32,
        "array": np.ones(3),
        "matrix array": np.ones((3, 3), np.float32),
        "object array": np.array([None, 1], dtype=object),
        "no dimension": torch.tensor(1.0),
        "empty tensor": torch.ones(0),
        "three dimensions": torch.ones(2, 3, 3),
        "integers": torch.arange(3),
        "booleans": torch.ones(3, dtype=torch.bool),
        "complex": torch.ones(3, dtype=torch.complex64),
        "half": torch.ones(3).half(),
        "double": torch.ones(3).double(),
        "requires grad": torch.ones(3, requires_grad=True),
        "not finite": torch.tensor([1.0, float("nan"), 2.0]),
        "meta": torch.ones(3, device="meta"),
        "meta matrix": torch.ones(3, 3, device="meta"),
        "sparse": torch.ones(3).to_sparse(),
        "sparse matrix": torch.eye(3).to_sparse(),
        "compressed": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "quantized matrix": torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    }


def keyword(name):
    return lambda value: JacobianOperator(NET, POINT, **{name: value}) @ torch.ones(3)


def of_parameters(name):
    return lambda value: JacobianOperator.wrt_parameters(NET, POINT, **{name: value})


def photo_input(name):
    return lambda value: PhotoInput(**{name: value})


def product(A, name):
    return lambda value: getattr(A, name)(value)


KEYWORDS = ("args", "kwargs", "batch_dims", "dtype", "chunk", "derivatives", "fold", "check")
ARGUMENTS = {
    **{f"JacobianOperator {name}": keyword(name) for name in (*KEYWORDS, "group", "tf32")},
    "JacobianOperator fn": lambda value: JacobianOperator(value, POINT),
    "JacobianOperator x": lambda value: JacobianOperator(NET, value),
    "JacobianOperator x, any": lambda value: JacobianOperator(lambda x: x, value),
    "JacobianOperator X": lambda value: JacobianOperator(NET, value, batch_dims=1),
    "JacobianOperator f(x)": lambda value: JacobianOperator(lambda x: value, POINT),
    "from_linear_map": JacobianOperator.from_linear_map,
    "from_linear_map chunk": lambda value: JacobianOperator.from_linear_map(MAP, chunk=value),
    "from_linear_map tf32": lambda value: JacobianOperator.from_linear_map(MAP, tf32=value),
    "wrt_parameters model": lambda value: JacobianOperator.wrt_parameters(value, POINT),
    "wrt_parameters x": lambda value: JacobianOperator.wrt_parameters(NET, value),
    **{
        f"wrt_parameters {name}": of_parameters(name)
        for name in ("names", "args", "kwargs", "dtype", "batch_dims", "unknown")
    },
    **{
        f"{type(A).__name__} {A.shape} {name}": product(A, name)
        for A in (MATRIX, MATRICES, SINGLE, BATCH, MATRIX.T, MATRIX + MATRIX)
        for name in ("matmat", "rmatmat", "matvec", "rmatvec", "select", "__matmul__")
    },
    "as_input": SINGLE.as_input,
    "as_output": BATCH.as_output,
    "MatrixOperator": MatrixOperator,
    **{f"A __{sign}__": getattr(MATRIX, f"__{sign}__") for sign in SIGNS},
    **{f"A __r{sign}__": getattr(MATRIX, f"__r{sign}__") for sign in SIGNS},
    "stack": stack,
    "stack part": lambda value: stack([MATRIX, value]),
    "stack dim": lambda value: stack([MATRIX, MATRIX], dim=value),
    "restrict A": lambda value: restrict(value, rows=[0]),
    "restrict rows": lambda value: restrict(MATRIX, rows=value),
    "restrict columns": lambda value: restrict(MATRICES, columns=value),
    "StreamedStack at": lambda value: StreamedStack(value, 2),
    "StreamedStack count": lambda value: StreamedStack(lambda index: MATRIX, value),
    "StreamedStack operator": lambda value: StreamedStack(lambda index: value, 2),
    "StreamedStack index": STREAM.operator,
    "over fn": lambda value: StreamedStack.over(value, POINT[None]),
    "over points": lambda value: StreamedStack.over(NET, value),
    "over chunk": lambda value: StreamedStack.over(NET, POINT[None], chunk=value),
    "Trace fn": lambda value: Trace(value, POINT),
    "Trace example": lambda value: Trace(NET, value),
    "Trace f(x)": lambda value: Trace(lambda x: (x, value), POINT),
    "Trace at": TRACE.at,
    "Trace at_many": TRACE.at_many,
    "transformed fn": lambda value: transformed(value, POINT),
    "transformed x": lambda value: transformed(NET, value),
    "transformed f(x)": lambda value: transformed(lambda x: value, POINT),
    "by_transforms fn": lambda value: by_transforms(value, POINT),
    "by_transforms x": lambda value: by_transforms(NET, value),
    "by_transforms f(x)": lambda value: by_transforms(lambda x: value, POINT),
    "tell_difference fn": lambda value: tell_difference(value, MAP),
    "tell_difference J": lambda value: tell_difference(NET, value),
    "columns": columns,
    "as_scipy": as_scipy,
    "as_cupy": as_cupy,
    "BatchedMap jvp": lambda value: MAPS.jvp(value, chunk=4),
    "BatchedMap vjp": lambda value: MAPS.vjp(value, chunk=4),
    "BatchedMap select": MAPS.select,
    "LinearOperator shape": lambda value: Returning(None, shape=value),
    "LinearOperator dtype": lambda value: Returning(None, dtype=value),
    "LinearOperator device": lambda value: Returning(None, device=value),
    "LinearOperator _matmat": lambda value: Returning(value).matmat(torch.ones(3, 1)),
    "LinearOperator _rmatmat": lambda value: Returning(value).rmatmat(torch.ones(3, 1)),
    "perturbed_by_rounding": SINGLE.perturbed_by_rounding,
    "Products since": MATRIX.products.since,
    "restored_attributes": lambda value: restored_attributes(value).__enter__(),
    "refuse_training_mode": refuse_training_mode,
    "refuse_weights_without_values": refuse_weights_without_values,
    "refuse_scripted": lambda value: refuse_scripted(value, "cut"),
    "check_function": check_function,
    "check_network": check_network,
    "depths model": lambda value: depths(value, POINT),
    "depths x": lambda value: depths(NET, value),
    "layer_map model": lambda value: layer_map(value, POINT, "2"),
    "layer_map x": lambda value: layer_map(NET, value, "2", since="0"),
    "layer_map to": lambda value: layer_map(NET, POINT, value),
    "layer_map since": lambda value: layer_map(NET, POINT, "2", value),
    "layer_map f": layer_map(NET, POINT, "2")[0],
    "layer_map f since": layer_map(NET, POINT, "2", since="0")[0],
    "layer_maps f": layer_maps(NET, POINT, ["1", "2"]),
    "layer_maps to": lambda value: layer_maps(NET, POINT, value),
    "load_model": load_model,
    "load_weights module": lambda value: load_weights(value, "nowhere.pt"),
    "load_weights file": lambda value: load_weights(NET, value),
    "weights_sha256": weights_sha256,
    **{
        f"PhotoInput {name}": photo_input(name)
        for name in ("size", "resize", "scale", "mean", "std", "channels", "interpolation")
    },
}


@pytest.mark.filterwarnings("ignore")  # of torch, on nested and quantized tensors
@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_error_is_one_line_of_ours(name):
    raised, others = 0, {}
    for kind, value in hostile().items():
        try:
            ARGUMENTS[name](value)
        except JvpsvdError as error:
            raised += 1
            if "\n" in str(error):
                others[kind] = f"several lines: {error}"
        except Exception as error:
            others[kind] = f"{type(error).__name__}: {error}"
    assert others == {}
    assert raised > 0


def test_an_operator_of_ones_own_that_was_not_initialised():
    class Bare(LinearOperator):
        def __init__(self):
            pass

        def _matmat(self, V):
            return V

        def _rmatmat(self, U):
            return U

    message = r"^Bare has no shape; its __init__ is to call super\(\)\.__init__\(shape, dtype"
    for use in (lambda: svds(Bare(), 1), lambda: Bare() @ torch.ones(3), lambda: repr(Bare())):
        with pytest.raises(ArgumentError, match=message):
            use()
