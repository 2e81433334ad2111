"""The solvers that are compared, ours among them: an adapter each, behind one protocol.

Peers that are packages of their own may live in virtual environments of their own:

    python -m venv PEERS/primme
    PEERS/primme/bin/pip install -r benchmarks/peers/requirements/primme.txt
    JVPSVD_PEERS=PEERS python -m benchmarks peers

An environment under $JVPSVD_PEERS with the name of a file of requirements is used for that peer; it
needs torch and SciPy as well (a .pth file that names another environment's site-packages will do).
Without it, the peer is looked for in the running one (`pip install 'jvpsvd[peers]'`). A peer that
cannot be imported is reported as absent, never as a result.
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
from benchmarks.solvers.protocol import BY_HAND, OURS, Answer, Peer, Target, UnableError

PEERS: dict[str, Peer] = {
    peer.name: peer
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
    for peer in module.PEERS
}

__all__ = ["BY_HAND", "OURS", "PEERS", "Answer", "Peer", "Target", "UnableError"]
