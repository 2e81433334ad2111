"""curvlinops' Jacobian (by parameters; the input is made one) through its `to_scipy`, into ARPACK.

`JacobianLinearOperator` is ∂f/∂θ for the parameters of a module; the point becomes the only
parameter of a module that ignores its data, which gives ∂f/∂x with curvlinops' own products. It
has Jacobians only, no other operators. Its products are counted where SciPy calls them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.solvers.metering import meter_scipy
from benchmarks.solvers.protocol import Answer, Solver, Target
from benchmarks.solvers.scipy_svds import solve_by_svds


class AtPoint(nn.Module):
    """f(point) for any input, so that the derivative of f by its only parameter is ∂f/∂x."""

    def __init__(self, function: object, point: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(point.detach().clone())
        self._function = [function]  # in a list, so that a module's own parameters stay out

    def forward(self, _: Tensor) -> Tensor:
        """Return (1, m)."""
        return self._function[0](self.point).reshape(1, -1)  # type: ignore[operator]


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    from curvlinops import JacobianLinearOperator

    function, point = target.function()

    def make() -> object:
        model = AtPoint(function, point)
        nothing = torch.zeros(1, 1)
        J = JacobianLinearOperator(
            model, [model.point], [(nothing, nothing)], check_deterministic=False
        )
        return J.to_scipy(dtype=torch.empty(0, dtype=point.dtype).numpy().dtype)

    return solve_by_svds(meter_scipy(target.set_up(make), target.meter), k, tol, "arpack")


SOLVERS = (
    Solver(
        "curvlinops-arpack",
        solve,
        requires=("curvlinops",),
        distribution="curvlinops-for-pytorch",
        environment="curvlinops",
    ),
)
