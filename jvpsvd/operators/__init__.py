"""Linear operators: what a matrix is when only its products exist."""

from jvpsvd.operators.admission import (
    check_function,
    check_network,
    refuse_scripted,
    refuse_weights_without_values,
)
from jvpsvd.operators.algebra import restrict, stack
from jvpsvd.operators.allocator import keep_freed_memory
from jvpsvd.operators.base import LinearOperator
from jvpsvd.operators.batch import BatchedMap
from jvpsvd.operators.blocks import Products, columns
from jvpsvd.operators.derivatives import LinearMap, by_transforms
from jvpsvd.operators.eager import eager_execution, uncompiled
from jvpsvd.operators.evaluation import tell_difference, transformed
from jvpsvd.operators.failures import failures_named
from jvpsvd.operators.interop import as_cupy, as_scipy, aslinearoperator
from jvpsvd.operators.jacobian import JacobianOperator
from jvpsvd.operators.matrix import MatrixOperator
from jvpsvd.operators.modes import refuse_training_mode
from jvpsvd.operators.precision import full_precision
from jvpsvd.operators.restoring import restored, restored_attributes
from jvpsvd.operators.stream import StreamedStack
from jvpsvd.operators.trace import Trace

__all__ = [
    "BatchedMap",
    "JacobianOperator",
    "LinearMap",
    "LinearOperator",
    "MatrixOperator",
    "Products",
    "StreamedStack",
    "Trace",
    "as_cupy",
    "as_scipy",
    "aslinearoperator",
    "by_transforms",
    "check_function",
    "check_network",
    "columns",
    "eager_execution",
    "failures_named",
    "full_precision",
    "keep_freed_memory",
    "refuse_scripted",
    "refuse_training_mode",
    "refuse_weights_without_values",
    "restored",
    "restored_attributes",
    "restrict",
    "stack",
    "tell_difference",
    "transformed",
    "uncompiled",
]
