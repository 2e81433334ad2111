"""CoLA (cola-ml 0.0.7): eigenpairs of the Gram matrix of the shorter side, by its Lanczos.

The released package has no SVD of an operator that is not square: its `LanczosSVD` multiplies U and
V of two independent runs, with arbitrary signs. `cola.eig` of A A' is what is left; squaring loses
values below √eps · s₁. Its `tol` is for breakdown, so the number of steps sets the accuracy. It
does not report convergence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.solvers.protocol import Answer, Solver, Target
from benchmarks.solvers.steps import choose_lanczos_steps


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import cola
    from cola.linalg.decompositions.decompositions import Lanczos
    from cola.ops import LinearOperator

    A = target.ours()
    tall = A.shape[0] >= A.shape[1]
    inner, outer = (A, A.T) if tall else (A.T, A)
    short = inner.shape[1]

    def gram(block: Tensor) -> Tensor:
        return outer @ (inner @ block.to(A.dtype))

    torch.manual_seed(0)
    operator = cola.SelfAdjoint(LinearOperator(A.dtype, (short, short), matmat=gram))
    start = torch.randn(short, dtype=A.dtype)
    steps = choose_lanczos_steps(k, tol, short)
    algorithm = Lanczos(start_vector=start, max_iters=steps, tol=1e-7)
    squares, vectors = cola.eig(operator, k, "LM", algorithm)
    dense = vectors.to_dense() if hasattr(vectors, "to_dense") else vectors
    squares, dense = squares.real, dense.real
    order = squares.argsort(descending=True)
    s = squares[order].clamp_min(0).sqrt()
    right = dense[:, order]
    left = (inner @ right) / torch.where(s > 0, s, 1.0)
    U, V = (left, right) if tall else (right, left)
    return Answer(s, U, V, True, f"{steps} steps; has no word on convergence")


SOLVERS = (
    Solver(
        "cola",
        solve,
        requires=("cola", "cola.linalg.decompositions.decompositions"),
        distribution="cola-ml",
        environment="cola",
    ),
)
