"""Top singular triplets of neural-network Jacobians, matrix-free and certified.

`JacobianOperator` treats a network at a point as a linear operator made of JVPs and VJPs, `svds`
finds its leading singular triplets with a certificate, `depths` and `layer_map` cut a network at
any module. `spectra`, `ntk` and `singular_values` answer common questions in one call.
`jvpsvd.geometry` says what triplets mean for data, `jvpsvd.survey` runs over image collections,
`jvpsvd.plot` draws, `jvpsvd.errors` holds what is raised.

Names and modules are imported when they are first used, so that the command line can answer before
torch is there.
"""

from typing import TYPE_CHECKING

from jvpsvd.imports import import_at_first_use

if TYPE_CHECKING:
    from jvpsvd import (  # noqa: F401
        data,
        errors,
        geometry,
        networks,
        operators,
        plot,
        report,
        studies,
        survey,
        svd,
    )
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
    from jvpsvd.studies import load, ntk, singular_values, spectra
    from jvpsvd.svd import SVDResult, spectral_density, svds
else:
    import_at_first_use(__name__)

__version__ = "0.2.0"

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
    "load",
    "ntk",
    "restrict",
    "singular_values",
    "spectra",
    "spectral_density",
    "stack",
    "svds",
]
