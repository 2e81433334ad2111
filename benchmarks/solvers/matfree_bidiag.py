"""matfree (0.6, JAX): Golub–Kahan bidiagonalisation with full reorthogonalisation.

matfree takes JAX functions and derives the transposed product itself, so torch's products come in
through `jax.pure_callback` behind a custom VJP, with the copies that this costs. It evaluates
the product again for every transposed one. It takes a number of steps and no tolerance, and k
triplets are cut from a larger basis. It does not report convergence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.solvers.protocol import Answer, Solver, Target
from benchmarks.solvers.steps import choose_lanczos_steps


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import jax
    from matfree import decomp, eig

    A = target.by_hand()
    m, n = A.shape
    jax.config.update("jax_enable_x64", A.dtype == np.float64)
    forward_like, reverse_like = (jax.ShapeDtypeStruct((size,), A.dtype) for size in (m, n))

    def forward(v: Any) -> Any:
        return jax.pure_callback(lambda x: A.matvec(np.asarray(x)), forward_like, v)

    def reverse(u: Any) -> Any:
        return jax.pure_callback(lambda x: A.rmatvec(np.asarray(x)), reverse_like, u)

    product = jax.custom_vjp(forward)
    product.defvjp(lambda v: (forward(v), None), lambda _, u: (reverse(u),))
    steps = choose_lanczos_steps(k, tol, min(m, n))
    start = jax.random.normal(jax.random.PRNGKey(0), (n,), A.dtype)
    Ut, s, Vt = eig.svd_partial(decomp.bidiag(steps))(product, start)
    parts = (torch.from_numpy(np.array(part)) for part in (s[:k], Ut[:k].T, Vt[:k].T))
    return Answer(*parts, True, f"{steps} steps; has no word on convergence")


SOLVERS = (
    Solver(
        "matfree",
        solve,
        requires=("matfree.eig", "matfree.decomp", "jax"),
        distribution="matfree",
        environment="matfree",
    ),
)
