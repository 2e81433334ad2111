"""Give operators to SciPy and CuPy, and take matrices and operators of other libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, refuse_masked
from jvpsvd.operators.foreign import ForeignOperator
from jvpsvd.operators.linear_operator import LinearOperator
from jvpsvd.operators.matrix import MatrixOperator
from jvpsvd.operators.sparse import from_scipy

if TYPE_CHECKING:
    import scipy.sparse.linalg


def as_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator:
    """Return the operator as a ``scipy.sparse.linalg.LinearOperator`` of its true dtype.

    matvec, rmatvec, matmat, rmatmat and the adjoint are all there, so every solver of
    ``scipy.sparse.linalg`` accepts it. Vectors of another dtype are converted on entry; products
    come back in the operator's dtype, which is also the dtype declared. (Declaring float64 over
    float32 products makes ARPACK and PROPACK seek accuracy that is not there.) Masked entries are
    refused by `matvec` and `matmat`; SciPy's ``@`` itself drops the mask before that.

    Raises:
        ArgumentError: If the operator is a batch or in bfloat16, neither of which SciPy has.

    >>> import scipy.sparse.linalg as sla
    >>> A = as_scipy(MatrixOperator(torch.diag(torch.tensor([3.0, 2.0, 1.0]))))
    >>> A.dtype, sla.svds(A, k=1, return_singular_vectors=False).round(4)
    (dtype('float32'), array([3.], dtype=float32))
    """
    import scipy.sparse.linalg as sla

    _check_operator("as_scipy", operator)
    if operator.batch:
        raise ArgumentError(
            f"SciPy has no batches and the operator is one of {operator.batch[0]} matrices; take "
            "one matrix at a time"
        )
    if operator.dtype == torch.bfloat16:
        raise ArgumentError("NumPy has no bfloat16; SciPy needs an operator in float32 or float64")
    dtype = torch.empty(0, dtype=operator.dtype, device="cpu").numpy().dtype

    def to_torch(block: np.ndarray[Any, Any]) -> Tensor:
        refuse_masked("the right side", block)
        if np.iscomplexobj(block):
            raise ArgumentError("the operator is real; multiply real and imaginary part apart")
        array = np.asfortranarray(block, dtype=dtype)
        if not array.flags.writeable:
            array = array.copy(order="F")
        return torch.from_numpy(array).to(operator.device)

    def matmat(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (operator @ to_torch(block)).cpu().numpy()

    def rmatmat(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (operator.T @ to_torch(block)).cpu().numpy()

    return sla.LinearOperator(**_as_arguments(operator, matmat, rmatmat))


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
    _check_operator("as_cupy", operator)
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

    def matmat(block: Any) -> Any:
        return multiply(operator.__matmul__, block)

    def rmatmat(block: Any) -> Any:
        return multiply(operator.T.__matmul__, block)

    return csl.LinearOperator(**_as_arguments(operator, matmat, rmatmat))


def _check_operator(name: str, operator: object) -> None:
    if not isinstance(operator, LinearOperator):
        raise ArgumentError(
            f"{name} takes an operator, not {shown(operator)}; see aslinearoperator for matrices"
        )


def _as_arguments(
    operator: LinearOperator, matmat: Callable[[Any], Any], rmatmat: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return the arguments with which SciPy's or CuPy's LinearOperator is made."""
    return {
        "shape": operator.shape,
        "matvec": lambda v: matmat(v.reshape(-1)),
        "rmatvec": lambda u: rmatmat(u.reshape(-1)),
        "matmat": matmat,
        "rmatmat": rmatmat,
        "dtype": torch.empty(0, dtype=operator.dtype, device="cpu").numpy().dtype,
    }


def aslinearoperator(A: Any) -> LinearOperator:
    """Return A as a `LinearOperator`.

    Args:
        A: A `LinearOperator` (returned as it is), a torch tensor, a NumPy array, an array that
            exports itself by ``__dlpack__`` or ``__array__`` (JAX, CuPy), a SciPy sparse matrix or
            array, or any object with `shape`, `dtype` and products of NumPy arrays, `matvec` and
            `rmatvec` or `matmat` and `rmatmat`, such as SciPy's own LinearOperator. A tensor or
            array of shape (B, m, n) gives a batch of B matrices.

    Products of such an object with two vectors are compared with those of a block, once and
    uncounted; where they differ vectors are multiplied one by one.

    Raises:
        ArgumentError: If A is none of these, its dtype is not real floating point, an array is
            masked, or a product of an object fails.
        AdjointError: If the products of an object are not of one matrix and its transpose.

    >>> import scipy.sparse
    >>> aslinearoperator(scipy.sparse.eye_array(3, format="csr")) @ torch.ones(3).double()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    if isinstance(A, LinearOperator):
        return A
    if isinstance(A, Tensor | np.ndarray):
        return MatrixOperator(A)
    named = all(hasattr(A, name) for name in ("shape", "dtype"))
    if named and (hasattr(A, "matmat") or hasattr(A, "matvec")):
        return ForeignOperator(A)
    if named and hasattr(A, "tocsr"):
        return MatrixOperator(from_scipy(A))
    if is_array(A):
        return MatrixOperator(A)
    raise ArgumentError(
        f"cannot make a linear operator of {type(A).__name__}; give JacobianOperator(model, x), a "
        "torch tensor, a NumPy array, a SciPy sparse matrix or a SciPy LinearOperator"
    )
