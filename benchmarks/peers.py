"""Our solver beside what a user would do instead: SciPy's ARPACK, and one solve after another."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor, nn

from benchmarks.measuring import ROUNDS, Report, median_seconds, operator, recorded, seconds
from jvpsvd import JacobianOperator, SVDResult, as_scipy, layer_map, svds
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import OUTPUT, load_model

Array = np.ndarray[Any, Any]

BATCH, BATCH_K, BATCH_TOL = 16, 20, 1e-4


class ByHand(sla.LinearOperator):  # type: ignore[misc]
    """The Jacobian as one would write it with torch.func for SciPy, one vector at a time."""

    def __init__(self, depth: str) -> None:
        model = load_model("efficientnet-lite0")
        x = decode_photo(demo_photos()[0].file.read_bytes(), model.photo_input)
        self._f = model.module if depth == OUTPUT else layer_map(model.module, x, to=depth)[0]
        self._x = x
        self._value, self._pull = torch.func.vjp(self._f, x)
        self.calls = 0
        super().__init__(np.float32, (self._value.numel(), x.numel()))

    def _matvec(self, v: Array) -> Array:
        self.calls += 1
        tangent = torch.from_numpy(np.ascontiguousarray(v)).reshape(self._x.shape)
        image: Array = torch.func.jvp(self._f, (self._x,), (tangent,))[1].detach().numpy()
        return image.reshape(-1)

    def _rmatvec(self, u: Array) -> Array:
        self.calls += 1
        cotangent = torch.from_numpy(np.ascontiguousarray(u)).reshape(self._value.shape)
        image: Array = self._pull(cotangent)[0].detach().numpy()
        return image.reshape(-1)


def against_arpack(report: Report, depth: str, k: int, tol: float) -> None:
    """Compare with SciPy's svds on our operator and on one written by hand.

    SciPy asks ARPACK for tol² of each eigenvalue of J'J, which is more than tol · s₁ of residuals,
    so the residuals of both are printed.
    """
    J = operator(recorded(depth, 0)[0])
    report.section(f"ARPACK, {depth}: {J.shape[0]} x {J.shape[1]}, k = {k}, tol = {tol:g}")
    ours: dict[str, SVDResult] = {}
    for method in ("auto", "golub-kahan"):
        found = svds(J, k, tol=tol, method=method, on_unconverged="ignore")
        if found.method in ours:
            continue  # the default chose what was asked for by name
        ours[found.method] = found
        report.of(f"ours, {method} ({found.method})")
        report.figure("wall", found.seconds, f"{found.seconds:.1f} s")
        spent = found.products.total
        report.figure("products / 2k", spent / 2 / k, f"{spent / 2 / k:.2f} ({spent})")
        worst = float(found.residuals.max() / found.s[0])
        report.figure("worst residual / s1", worst, f"{worst:.1e}")
    by_hand = ByHand(depth)
    sides: tuple[tuple[str, sla.LinearOperator, Callable[[], int], float], ...] = (
        ("our operator", as_scipy(J), lambda: J.products.total, 5.0),
        ("torch.func by hand", by_hand, lambda: by_hand.calls, 10.0),
    )
    v0 = np.random.default_rng(0).standard_normal(min(J.shape)).astype(np.float32)
    for name, matrix, count, target in sides:
        before, triplets = count(), []
        wall = seconds(
            lambda matrix=matrix, triplets=triplets: triplets.extend(
                sla.svds(matrix, k=k, tol=tol, solver="arpack", v0=v0)
            )
        )
        spent = count() - before
        U, s, Vh = (torch.from_numpy(np.ascontiguousarray(part)) for part in triplets)
        worst = max(
            float(torch.linalg.vector_norm(J @ Vh.T - U * s, dim=0).max()),
            float(torch.linalg.vector_norm(J.T @ U - Vh.T * s, dim=0).max()),
        ) / float(s.max())
        report.of(f"ARPACK on {name}")
        report.figure("wall", wall, f"{wall:.1f} s")
        report.figure("products / 2k", spent / 2 / k, f"{spent / 2 / k:.2f} ({spent})")
        report.figure("worst residual / s1", worst, f"{worst:.1e}")
        for method, found in ours.items():
            ratio = wall / found.seconds
            report.figure(f"wall / ours, {method}", ratio, f"{ratio:.1f}", at_least=target)
            off = float((s.sort(descending=True)[0] - found.s).abs().max() / found.s[0])
            report.figure(f"values off {method}", off, f"{off:.0e} s1")


def perceptron(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 64)).eval()


def convolutions(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(0),
        nn.Linear(576, 32),
    ).eval()


def batches(report: Report) -> None:
    """Compare one solve of a batch with a loop over its matrices.

    Each round takes a network that neither side has met, after a first one that is not counted:
    what torch imports at first use is no part of either side.
    """
    report.section(
        f"Batch: {BATCH} small Jacobians at once against one after another, k = {BATCH_K}, "
        f"tol = {BATCH_TOL:g}"
    )
    generator = torch.Generator().manual_seed(0)
    for make, shape in ((perceptron, (784,)), (convolutions, (1, 28, 28))):
        X = torch.randn(BATCH, *shape, generator=generator)
        for method in ("auto", "golub-kahan"):
            _batch(report, make, X, method)


def _batch(report: Report, make: Callable[[int], nn.Module], X: Tensor, method: str) -> None:
    def solve(J: JacobianOperator) -> SVDResult:
        return svds(J, BATCH_K, tol=BATCH_TOL, method=method, on_unconverged="ignore")

    def one_by_one(f: nn.Module, alone: list[SVDResult]) -> None:
        alone.extend(solve(JacobianOperator(f, x)) for x in X)

    at_once, in_turn, differences = [], [], []
    for seed in range(ROUNDS + 1):
        f, together, alone = make(seed), [], []
        fast = seconds(
            lambda f=f, to=together: to.append(solve(JacobianOperator(f, X, batch_dims=1)))
        )
        slow = seconds(lambda f=f, to=alone: one_by_one(f, to))
        if seed == 0:
            continue
        at_once.append(fast)
        in_turn.append(slow)
        values = together[0].s
        differences += [float((one.s - s).abs().max() / s[0]) for one, s in zip(alone, values)]
    fast, slow = statistics.median(at_once), statistics.median(in_turn)
    size = "{} x {}".format(*JacobianOperator(f, X[0]).shape)
    report.of(f"{make.__name__} {size}, {method} ({together[0].method})")
    report.figure("at once", fast, f"{1e3 * fast:.0f} ms")
    report.figure("one after another", slow, f"{1e3 * slow:.0f} ms")
    report.figure("ratio, recording included", slow / fast, f"{slow / fast:.1f}", at_least=5.0)

    batch = JacobianOperator(f, X, batch_dims=1)
    singles = [JacobianOperator(f, x) for x in X]
    for J in (batch, *singles):
        J.matvec(torch.zeros(J.shape[-1]))
        J.rmatvec(torch.zeros(J.shape[-2]))
    one = median_seconds(lambda: solve(batch))
    many = median_seconds(lambda: [solve(J) for J in singles])
    report.figure(
        "ratio, recorded before",
        many / one,
        f"{many / one:.1f} ({1e3 * one:.0f}, {1e3 * many:.0f} ms)",
    )
    report.figure("values differ", max(differences), f"{max(differences):.0e} s1")
    report.figure(
        "all converged",
        float(together[0].converged.all() and all(r.converged.all() for r in alone)),
        "yes" if together[0].converged.all() and all(r.converged.all() for r in alone) else "NO",
    )
