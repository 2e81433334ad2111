"""The solvers that are compared, ours and its peers: one adapter each, with one protocol.

A peer may be installed in a virtual environment of its own:

    python -m venv PEERS/primme
    PEERS/primme/bin/pip install -r benchmarks/solvers/requirements/primme.txt
    JVPSVD_PEERS=PEERS python -m benchmarks peers

An environment under $JVPSVD_PEERS with the name of a requirements file is used for that peer; it
needs torch and SciPy as well (a .pth file that names another environment's site-packages will do).
Otherwise the running environment is used (`pip install 'jvpsvd[peers]'`). A peer that cannot be
imported is reported as absent, never as a result.
"""

from __future__ import annotations

from benchmarks.solvers import (
    cola_lanczos,
    cupyx_svds,
    curvlinops_scipy,
    matfree_bidiag,
    ours,
    primme_svds,
    scipy_svds,
    sklearn_randomized,
    slepc_svd,
    torch_dense,
)
from benchmarks.solvers.protocol import BY_HAND, OURS, Answer, Solver, Target, UnableError

SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for module in (
        ours,
        scipy_svds,
        sklearn_randomized,
        torch_dense,
        primme_svds,
        slepc_svd,
        cola_lanczos,
        curvlinops_scipy,
        matfree_bidiag,
        cupyx_svds,
    )
    for solver in module.SOLVERS
}

__all__ = ["BY_HAND", "OURS", "SOLVERS", "Answer", "Solver", "Target", "UnableError"]
