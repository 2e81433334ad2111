"""Operators as SciPy's, and other libraries' matrices and operators as ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.base import LinearOperator
from jvpsvd.operators.matrix import MatrixOperator

if TYPE_CHECKING:
    import scipy.sparse.linalg


def as_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator:
    """Return the operator as a ``scipy.sparse.linalg.LinearOperator`` of its true dtype.

    matvec, rmatvec, matmat, rmatmat and the adjoint are all there, so every solver of
    ``scipy.sparse.linalg`` accepts it. Vectors of another dtype are converted on entry; products
    come back in the operator's dtype, which is also the dtype declared. (Declaring float64 over
    float32 products makes ARPACK and PROPACK look for accuracy that is not there.)

    Raises:
        ArgumentError: If the operator is a batch or in bfloat16, neither of which SciPy has.

    >>> import scipy.sparse.linalg as sla
    >>> A = as_scipy(MatrixOperator(torch.diag(torch.tensor([3.0, 2.0, 1.0]))))
    >>> A.dtype, sla.svds(A, k=1, return_singular_vectors=False).round(4)
    (dtype('float32'), array([3.], dtype=float32))
    """
    import scipy.sparse.linalg as sla

    if operator.batch:
        raise ArgumentError(
            f"SciPy has no batches and the operator is one of {operator.batch[0]} matrices; take "
            "one matrix at a time"
        )
    if operator.dtype == torch.bfloat16:
        raise ArgumentError("NumPy has no bfloat16; SciPy needs an operator in float32 or float64")
    dtype = torch.empty(0, dtype=operator.dtype, device="cpu").numpy().dtype

    def to_torch(block: np.ndarray[Any, Any]) -> Tensor:
        if np.iscomplexobj(block):
            raise ArgumentError("the operator is real; multiply real and imaginary part apart")
        array = np.asfortranarray(block, dtype=dtype)
        if not array.flags.writeable:
            array = array.copy(order="F")
        return torch.from_numpy(array).to(operator.device)

    def forward(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (operator @ to_torch(block)).cpu().numpy()

    def reverse(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (operator.T @ to_torch(block)).cpu().numpy()

    return sla.LinearOperator(**_as_arguments(operator, forward, reverse))


def as_cupy(operator: LinearOperator) -> Any:
    """Return the operator as a ``cupyx.scipy.sparse.linalg.LinearOperator`` of its true dtype.

    Blocks pass between CuPy and torch by DLPack, without a copy, and products run on CuPy's current
    stream.

    Raises:
        ArgumentError: If the operator is a batch, in bfloat16, or not on a CUDA GPU; if CuPy or the
            CUDA libraries it loads are missing.

    >>> as_cupy(MatrixOperator(torch.eye(2)))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: as_cupy takes an operator on a CUDA GPU, this one is on cpu; ...
    """
    if operator.device.type != "cuda":
        raise ArgumentError(
            f"as_cupy takes an operator on a CUDA GPU, this one is on {operator.device}; make it "
            "from a model and a point there, or use as_scipy"
        )
    if operator.batch or operator.dtype == torch.bfloat16:
        raise ArgumentError(
            f"CuPy has no operators of shape {operator.shape} in {operator.dtype}; take one matrix "
            "in float32 or float64"
        )
    try:
        cupy: Any = importlib.import_module("cupy")
        csl: Any = importlib.import_module("cupyx.scipy.sparse.linalg")
    except ImportError as error:
        raise ArgumentError(
            "as_cupy needs CuPy and the CUDA libraries it loads, and importing it failed "
            f"({str(error).splitlines()[0]}); pip install 'jvpsvd[cuda]' on a machine with a GPU"
        ) from error
    dtype = torch.empty(0, dtype=operator.dtype, device="cpu").numpy().dtype

    def multiply(product: Callable[[Tensor], Tensor], block: Any) -> Any:
        pointer = cupy.cuda.get_current_stream().ptr
        external: Any = torch.cuda.ExternalStream
        with torch.cuda.stream(external(pointer, operator.device) if pointer else None):
            given: Tensor = torch.utils.dlpack.from_dlpack(cupy.asarray(block, dtype=dtype))
            return cupy.from_dlpack(product(given))

    def forward(block: Any) -> Any:
        return multiply(operator.__matmul__, block)

    def reverse(block: Any) -> Any:
        return multiply(operator.T.__matmul__, block)

    return csl.LinearOperator(**_as_arguments(operator, forward, reverse))


def _as_arguments(
    operator: LinearOperator, forward: Callable[[Any], Any], reverse: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return what SciPy's and CuPy's LinearOperator are made with."""
    return {
        "shape": operator.shape,
        "matvec": lambda v: forward(v.reshape(-1)),
        "rmatvec": lambda u: reverse(u.reshape(-1)),
        "matmat": forward,
        "rmatmat": reverse,
        "dtype": torch.empty(0, dtype=operator.dtype, device="cpu").numpy().dtype,
    }


def aslinearoperator(A: Any) -> LinearOperator:
    """Return A as a `LinearOperator`.

    Args:
        A: A `LinearOperator` (returned as it is), a torch tensor, a NumPy array, a SciPy sparse
            matrix or array, or any object with `shape`, `dtype`, `matmat` and `rmatmat` on NumPy
            blocks, such as SciPy's own LinearOperator. A tensor or array of shape (B, m, n) gives
            a batch of B matrices.

    Raises:
        ArgumentError: If A is none of these, or its dtype is not real floating point.

    >>> import scipy.sparse
    >>> aslinearoperator(scipy.sparse.eye_array(3, format="csr")) @ torch.ones(3).double()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    if isinstance(A, LinearOperator):
        return A
    if isinstance(A, Tensor):
        return MatrixOperator(A)
    if isinstance(A, np.ndarray):
        return MatrixOperator(_from_numpy(A))
    if all(hasattr(A, name) for name in ("shape", "dtype", "matmat", "rmatmat")):
        return _ForeignOperator(A, forward=A.matmat, reverse=A.rmatmat)
    if all(hasattr(A, name) for name in ("shape", "dtype", "tocsr")):
        return _ForeignOperator(A, forward=lambda V: A @ V, reverse=lambda U: A.T @ U)
    raise ArgumentError(
        f"cannot make a linear operator of {type(A).__name__}; give a torch tensor, a NumPy array, "
        "a SciPy sparse matrix or a SciPy LinearOperator"
    )


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """Return the array as a tensor, copied only where torch cannot share its memory."""
    if array.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
        raise ArgumentError(f"the array has dtype {array.dtype}; convert it to float32 or float64")
    shares = array.flags.writeable and array.dtype.isnative
    if shares and all(stride >= 0 for stride in array.strides):
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


class _ForeignOperator(LinearOperator):
    """An operator whose products are computed by another library on NumPy blocks."""

    def __init__(self, foreign: Any, forward: Any, reverse: Any) -> None:
        probe = np.empty(0, dtype=foreign.dtype)
        if probe.dtype not in (np.float16, np.float32, np.float64):
            raise ArgumentError(
                f"{type(foreign).__name__} has dtype {probe.dtype}; convert it to float32 or "
                "float64 first"
            )
        if len(foreign.shape) != 2:
            raise ArgumentError(
                f"{type(foreign).__name__} has shape {foreign.shape}; an operator has two sides"
            )
        super().__init__(foreign.shape, torch.from_numpy(probe).dtype)
        self._forward_product = forward
        self._reverse_product = reverse

    def _matmat(self, V: Tensor) -> Tensor:
        return self._to_tensor(self._forward_product(V.numpy()), self.shape[0], V.shape[1])

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._to_tensor(self._reverse_product(U.numpy()), self.shape[1], U.shape[1])

    def _to_tensor(self, block: Any, rows: int, width: int) -> Tensor:
        # A copy: the block may be the argument itself (an identity) or the library's own buffer.
        array = np.array(block, order="F")
        if array.shape != (rows, width) or np.iscomplexobj(array):
            raise ArgumentError(
                f"a product of the foreign operator is {array.dtype} {array.shape}, not real "
                f"({rows}, {width}); check its matmat and rmatmat"
            )
        return torch.from_numpy(array).to(self.dtype)
