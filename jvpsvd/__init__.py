"""Top singular triplets of neural-network Jacobians, matrix-free and certified.

`JacobianOperator` treats a network at a point as a linear operator made of JVPs and VJPs, `svds`
finds its leading singular triplets with a certificate, `depths` and `layer_map` cut a network at
any module. The survey over image collections is in `jvpsvd.survey`, imported on its own.
"""

from jvpsvd.networks import depths, layer_map
from jvpsvd.operators import (
    JacobianOperator,
    LinearOperator,
    MatrixOperator,
    StreamedStack,
    as_cupy,
    as_scipy,
    aslinearoperator,
    restrict,
    stack,
)
from jvpsvd.svd import SVDResult, svds

__version__ = "0.1.0"

__all__ = [
    "JacobianOperator",
    "LinearOperator",
    "MatrixOperator",
    "SVDResult",
    "StreamedStack",
    "__version__",
    "as_cupy",
    "as_scipy",
    "aslinearoperator",
    "depths",
    "layer_map",
    "restrict",
    "stack",
    "svds",
]
