"""Linear operators: matrices of which only the products exist."""

from jvpsvd.operators.algebra import restrict, stack
from jvpsvd.operators.blocks import columns
from jvpsvd.operators.derivatives.batched_map import BatchedMap
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.differentiate import tell_difference, transformed
from jvpsvd.operators.environment.allocator import keep_freed_memory
from jvpsvd.operators.environment.compilation import eager_execution, uncompiled
from jvpsvd.operators.environment.precision import full_precision
from jvpsvd.operators.function.admission import (
    check_function,
    check_network,
    refuse_scripted,
    refuse_weights_without_values,
)
from jvpsvd.operators.function.failures import failures_named
from jvpsvd.operators.function.restoring import restored, restored_attributes
from jvpsvd.operators.function.training_mode import refuse_training_mode
from jvpsvd.operators.interop import as_cupy, as_scipy, aslinearoperator
from jvpsvd.operators.jacobian import JacobianOperator
from jvpsvd.operators.linear_operator import LinearOperator
from jvpsvd.operators.matrix import MatrixOperator
from jvpsvd.operators.products import Products
from jvpsvd.operators.recording.trace import Trace
from jvpsvd.operators.streamed_stack import StreamedStack

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
