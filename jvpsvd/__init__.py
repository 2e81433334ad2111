"""Top singular triplets of neural-network Jacobians, matrix-free and certified.

`JacobianOperator` treats a network at a point as a linear operator made of JVPs and VJPs, `svds`
finds its leading singular triplets with a certificate, `depths` and `layer_map` cut a network at
any module. `spectra`, `ntk` and `singular_values` answer common questions in one call.
`jvpsvd.geometry` says what triplets mean for data, `jvpsvd.survey` runs over image collections,
`jvpsvd.errors` holds what is raised.

Names and modules are imported when they are first used, so that the command line can answer before
torch is there.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jvpsvd import (  # noqa: F401
        data,
        errors,
        geometry,
        networks,
        operators,
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

_ROOMS = (
    "data",
    "errors",
    "geometry",
    "networks",
    "operators",
    "report",
    "studies",
    "survey",
    "svd",
)
_ROOM_OF = {
    "SVDResult": "svd",
    "depths": "networks",
    "layer_map": "networks",
    "load": "studies",
    "ntk": "studies",
    "singular_values": "studies",
    "spectra": "studies",
    "spectral_density": "svd",
    "svds": "svd",
}


if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"jvpsvd.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'jvpsvd' has no attribute '{name}'")
        value = getattr(importlib.import_module(f"jvpsvd.{_ROOM_OF.get(name, 'operators')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*__all__, *_ROOMS})
