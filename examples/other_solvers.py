"""Somebody else's solver on our operator: `as_scipy` in LSQR for Gauss-Newton, and in ARPACK.

You learn: how to give an operator to SciPy, and to compare solvers by residuals taken anew.

    python examples/other_solvers.py --quick        seconds
    python examples/other_solvers.py                half a minute on one core

First half: a small network is fitted to a function by Gauss-Newton steps. Each step solves the
damped least squares min |J p + r|² + λ² |p|² by scipy.sparse.linalg.lsqr, which knows J = ∂r/∂θ by
products alone; control: Adam with as many products. Second half: the same J in float32, its leading
triplets by scipy's svds, by its eigsh of J'J and by `jvpsvd.svds`. All residuals |J v − σ u| and
|J'u − σ v| are taken anew in float64; only the last brings a certificate of its own to compare.
Control: the dense J in float64.

Found: for the same products Gauss-Newton fits three times closer than Adam. The values of all three
solvers are right to 4e-7 σ1, but squaring costs eigsh the vectors: residuals reach 1e-2 σ1.
"""

import copy

import numpy as np
import scipy.sparse.linalg as sla
import torch
from example_figures import COLOURS, DASHES, arguments, empty_figure, save
from torch import nn

import jvpsvd


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    return net.double().eval()


def problem(count):
    """Points of the square, and the values there of a function that is to be fitted."""
    x = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    return x, (torch.sin(4 * x[:, :1]) * torch.cos(3 * x[:, 1:]))


def gauss_newton(net, x, y, steps):
    """Levenberg-Marquardt with LSQR inside; (products so far, root mean square error)."""
    course, products, damping = [], 0, 1.0
    loss = (net(x) - y).square().mean().sqrt().item()
    for _ in range(steps):
        course.append((products, loss))
        J = jvpsvd.JacobianOperator.wrt_parameters(net, x)
        r = (net(x) - y).detach()[:, 0]
        p = sla.lsqr(jvpsvd.as_scipy(J), -r.numpy(), damp=damping, atol=1e-3, btol=1e-3)[0]
        tried = copy.deepcopy(net)
        with torch.no_grad():
            for name, change in J.as_input(torch.tensor(p)).items():
                tried.get_parameter(name).add_(change)
        products += J.products.forward + J.products.reverse
        new = (tried(x) - y).square().mean().sqrt().item()
        if new < loss:
            net, loss, damping = tried, new, damping * 0.7
        else:
            damping *= 2
    return [*course, (products, loss)], net


def adam(net, x, y, products):
    """The same network by Adam: a step costs one forward and one reverse product."""
    optimizer, course = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for step in range(products // 2 + 1):
        loss = (net(x) - y).square().mean()
        course.append((2 * step, loss.sqrt().item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return course


def solve(net, x, k):
    """The k leading triplets (U, s, V) of J in float32 by three solvers."""
    single = copy.deepcopy(net).float()
    found = {}
    for name in ("scipy svds (ARPACK)", "scipy eigsh of J'J", "jvpsvd.svds"):
        J = jvpsvd.JacobianOperator.wrt_parameters(single, x.float())
        A, start = jvpsvd.as_scipy(J), np.random.default_rng(0).standard_normal(max(J.shape))
        if name.endswith("(ARPACK)"):
            U, s, Vh = sla.svds(A, k=k, v0=start[: min(J.shape)].astype("f"))
            U, s, V = U[:, ::-1], s[::-1], Vh[::-1].T
        elif name.endswith("J'J"):
            squares, V = sla.eigsh(
                jvpsvd.as_scipy(J.T @ J), k=k, v0=start[: J.shape[1]].astype("f")
            )
            s, V = np.sqrt(np.maximum(squares[::-1], 1e-30)), V[:, ::-1]
            U = (A @ V) / s
        else:
            ours = jvpsvd.svds(J, k=k, method="golub-kahan", on_unconverged="ignore")
            U, s, V = ours.U.numpy(), ours.s.numpy(), ours.Vh.T.numpy()
        found[name] = U.astype(float), s.astype(float), V.astype(float)
        print(f"{name}: {J.products.forward} + {J.products.reverse} products with J {J.shape}")
    return found, ours


def measure(net, x, found):
    """Residuals by the dense J in float64 and errors of the values, over σ1; and all σ of it."""
    J = jvpsvd.JacobianOperator.wrt_parameters(net, x)
    dense = (J @ torch.eye(J.shape[1], dtype=torch.float64)).numpy()
    truth, measured = np.linalg.svd(dense, compute_uv=False), []
    for name, (U, s, V) in found.items():
        forward, adjoint = dense @ V - U * s, dense.T @ U - V * s
        residual = np.maximum(*(np.linalg.norm(each, axis=0) for each in (forward, adjoint)))
        measured.append((name, residual / truth[0], np.abs(s - truth[: len(s)]) / truth[0]))
    return measured, truth


def draw(courses, measured, truth, ours, out):
    """Fit against products; residuals of three solvers with our certificate."""
    figure = empty_figure(7.4, 3.6)
    left, right = figure.subplots(1, 2)
    for position, (name, course) in enumerate(courses.items()):
        left.plot(*np.transpose(course), color=COLOURS[position], ls=DASHES[position], label=name)
    left.set(yscale="log", xlabel="products with J and J'", ylabel="error of the fit (rms)")
    left.legend(fontsize=7.5)
    for position, (name, residual, _) in enumerate(measured):
        marks = {"marker": "ovs"[position], "ms": 3.5, "ls": "none", "mfc": "none"}
        right.plot(range(1, len(residual) + 1), residual, c=COLOURS[position], **marks, label=name)
    index = range(1, len(ours.s) + 1)
    right.plot(index, ours.residuals / ours.s[0], c=COLOURS[2], lw=1, label="our certificate")
    right.plot(index, truth[: len(ours.s)] / truth[0], c="0.6", lw=1, label="σᵢ / σ1, dense")
    right.set(yscale="log", xlabel="index i", ylabel="residual / σ1, float64 (σᵢ in grey)")
    right.legend(fontsize=7)
    save(figure, out, "other-solvers")


def main():
    _, given = arguments(__doc__, quick="fewer steps and values")
    count, steps, k = (200, 20, 20) if given.quick else (200, 60, 100)
    x, y = problem(count)
    course, fitted = gauss_newton(network(), x, y, steps)
    courses = {"Gauss-Newton by LSQR": course, "Adam": adam(network(), x, y, course[-1][0])}
    for name, points in courses.items():
        print(f"{name}: error {points[0][1]:.4g} → {points[-1][1]:.4g}, {points[-1][0]} products")
    found, ours = solve(fitted, x, k)
    measured, truth = measure(fitted, x, found)
    for name, residual, error in measured:
        print(
            f"{name}: residuals up to {residual.max():.1e} σ1, values off by {error.max():.1e} σ1"
        )
    print(ours)
    draw(courses, measured, truth, ours, given.out)


if __name__ == "__main__":
    main()
