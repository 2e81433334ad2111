"""SLEPc's SVD solver (thick-restart Lanczos bidiagonalisation) on a PETSc shell matrix.

On PyPI, petsc and slepc are sources, absent unless someone has built them;
`benchmarks/solvers/requirements/slepc.txt` says how. Debian's python3-slepc4py (3.18) is built for
NumPy 1. PETSc is built for one kind of number, usually float64: blocks are cast to a float32
operator's dtype and back. `tol` with the criterion "relative to the norm" is the residual required
here; unconverged values are not returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.solvers.protocol import Answer, Solver, Target, UnableError
from benchmarks.solvers.scipy_svds import find_largest_value


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import petsc4py

    petsc4py.init([])
    from petsc4py import PETSc
    from slepc4py import SLEPc

    if np.issubdtype(PETSc.ScalarType, np.complexfloating):
        raise UnableError("this PETSc is built for complex numbers")
    A = target.by_hand()
    m, n = A.shape

    class Shell:
        """The operator's products, for PETSc."""

        def mult(self, mat: Any, x: Any, y: Any) -> None:
            """Set y = A x."""
            y.setArray(A.matvec(x.getArray(readonly=True).astype(A.dtype)))

        def multTranspose(self, mat: Any, x: Any, y: Any) -> None:
            """Set y = A' x."""
            y.setArray(A.rmatvec(x.getArray(readonly=True).astype(A.dtype)))

        def norm(self, mat: Any, kind: Any) -> float:
            """Return the s₁ that residuals are measured by; SLEPc asks for a norm in its set-up."""
            return find_largest_value(A)

    matrix = PETSc.Mat().createPython([m, n], Shell(), comm=PETSc.COMM_SELF)
    matrix.setUp()
    solver = SLEPc.SVD().create(comm=PETSc.COMM_SELF)
    solver.setOperator(matrix)
    solver.setType(SLEPc.SVD.Type.TRLANCZOS)
    solver.setDimensions(nsv=k)
    solver.setTolerances(tol=tol, max_it=10_000)
    if hasattr(solver, "setConvergenceTest"):
        solver.setConvergenceTest(SLEPc.SVD.Conv.NORM)
    solver.solve()
    found = min(k, solver.getConverged())
    right, left = matrix.createVecs()
    s, U, V = np.zeros(found), np.zeros((m, found)), np.zeros((n, found))
    for i in range(found):
        s[i] = solver.getSingularTriplet(i, left, right)
        U[:, i], V[:, i] = left.getArray(), right.getArray()
    said = found == k and solver.getConvergedReason() > 0
    parts = (torch.from_numpy(part) for part in (s, U, V))
    return Answer(*parts, said, f"{found} of {k} converged, reason {solver.getConvergedReason()}")


SOLVERS = (
    Solver(
        "slepc",
        solve,
        requires=("petsc4py.PETSc", "slepc4py.SLEPc"),
        distribution="slepc4py",
        environment="slepc",
    ),
)
