"""Small A/B timings: pairs of functions that do the same thing, in one process, and their ratio.

    python -m benchmarks small_timings [NAME ...] [--quick] [--rounds N] [-k K]

The two sides of a pair take turns. A line has the median and the range of each side's time, and of
the first's time over the second's, round by round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy.sparse.linalg import svds as scipy_svds
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from benchmarks.measure.timing import Pair, compare, compare_across
from benchmarks.parts import repeated_points
from benchmarks.problems.sparse_matrices import MATRICES
from jvpsvd import JacobianOperator, MatrixOperator, aslinearoperator, ntk, svds
from jvpsvd.data.mnist import small_mnist
from jvpsvd.networks import load_model
from jvpsvd.operators import columns, keep_freed_memory
from jvpsvd.operators.sparse import from_scipy
from jvpsvd.svd.kernels.dense import dense_svd, leading_svd
from jvpsvd.svd.kernels.row_blocked import project, remainder_norms, subtract_projection

VECTORS = 8
"""The width of a block."""


@dataclass(frozen=True)
class Sizes:
    """The size of the problems."""

    quick: bool
    k: int | None


@dataclass(frozen=True)
class Timing:
    """One entry of the table."""

    name: str
    about: str
    pairs: Callable[[Sizes], Iterator[Pair]]
    rounds: int = 3
    switch: Callable[[], object] | None = None
    """What turns the first sides into the second, if it cannot be undone: they take no turns."""


# --- allocator


def _allocator(sizes: Sizes) -> Iterator[Pair]:
    vectors = 8 if sizes.quick else 32
    model = load_model("efficientnet-lite0")
    x = torch.randn(model.photo_input.shape, generator=torch.Generator().manual_seed(0))
    J = JacobianOperator(model.module, x, chunk=8)  # the same before and after
    V, U = (torch.randn(vectors, size).T for size in reversed(J.shape))
    sides: tuple[tuple[str, Callable[[], Tensor], int], ...] = (
        ("JVP", lambda: J.matmat(V), vectors),
        ("VJP", lambda: J.rmatmat(U), vectors),
        # It shows whether the machine itself changed speed in between.
        ("inference", lambda: torch.no_grad()(model.module)(x), 1),
    )
    for name, work, count in sides:
        yield Pair(f"{name} of EfficientNet-Lite0", ("before", work), ("after", work), count)


def _switch_allocator() -> None:
    if not keep_freed_memory():
        print("this C library is not glibc: both sides are the same")


# --- tall bases


def _tall(sizes: Sizes) -> Iterator[Pair]:
    shapes = (
        ((4096, 1100),)
        if sizes.quick
        else ((21952, 100), (21952, 700), (75264, 760), (150528, 300))
    )
    for rows, count in shapes:
        basis, W = torch.randn(count, rows).T, torch.randn(VECTORS, rows).T
        C = basis.T @ W
        near, few = basis[:, : 2 * VECTORS], C[: 2 * VECTORS]
        for name, blas, ours in (
            ("basis' W", partial(torch.mm, basis.T, W), partial(project, basis, W, "AuthenticAMD")),
            (
                "W - basis C",
                partial(torch.addmm, W.T, C.T, basis.T, alpha=-1),
                partial(subtract_projection, W, basis, C, "AuthenticAMD"),
            ),
            (
                "norms of W - B C",
                lambda near=near, few=few, W=W: torch.linalg.vector_norm(W - near @ few, dim=0),
                partial(remainder_norms, W, [(near, few)]),
            ),
        ):
            yield Pair(f"{rows} x {count}  {name}", ("BLAS", blas), ("blocks of rows", ours))
        for few in (2, 4):
            part = W[:, :few]
            yield Pair(
                f"{rows} x {count}  basis' W, {few} vectors",
                ("basis' W", partial(torch.mm, basis.T, part)),
                ("W' basis", lambda basis=basis, part=part: (part.T @ basis).T),
            )


# --- the projected problem


def band_matrix(rows: int) -> Tensor:
    """Return an upper band matrix such as blocks of 8 leave behind, with values of one size."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(rows, rows, dtype=torch.float64, generator=generator)
    band = torch.triu(full) - torch.triu(full, 2 * VECTORS)
    return band / VECTORS + 2 * torch.eye(rows, dtype=torch.float64)


def _projected(sizes: Sizes) -> Iterator[Pair]:
    k = sizes.k or (50 if sizes.quick else 500)
    loss = 1e-2 * torch.finfo(torch.float32).eps
    for rows in (300,) if sizes.quick else (1000, 2000, 2800):
        B = band_matrix(rows)
        gap = (dense_svd(B)[1][:k] - leading_svd(B, k, loss)[1]).abs().max()
        print(f"{k} of {rows} triplets: values differ by {float(gap):.0e}")
        yield Pair(
            f"{rows} rows",
            ("all of it", partial(dense_svd, B)),
            ("the leading part", partial(leading_svd, B, k, loss)),
        )


# --- batches


def _batches(sizes: Sizes) -> Iterator[Pair]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 500), nn.Sigmoid()).eval().requires_grad_(False)
    digits = small_mnist().images[: 2 if sizes.quick else 32]
    J = JacobianOperator(net, digits, batch_dims=1)
    matrices = J.rmatmat(torch.eye(500)).mT.contiguous()
    found = svds(J, 500, method="exact", vectors=False)
    error = (found.s - torch.linalg.svdvals(matrices.double())).abs().max() / found.s.max()
    print(
        f"{len(digits)} Jacobians of 500 x 784; from float64 svdvals they differ by {error:.1e} s1"
    )
    stored = aslinearoperator(matrices)
    for k in (sizes.k,) if sizes.k else (500, 100):
        for vectors in (False, True):
            for what, A in (("network", J), ("matrices", stored)):
                yield Pair(
                    f"k = {k}, {'vectors' if vectors else 'values'}, {what}",
                    ("svdvals", partial(torch.linalg.svdvals, matrices)),
                    ("svds", partial(svds, A, k, method="exact", vectors=vectors)),
                    len(digits),
                )


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 64)).eval()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(0, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(0),
        nn.Linear(576, 32),
    ).eval()


def _together(sizes: Sizes) -> Iterator[Pair]:
    k = sizes.k or (5 if sizes.quick else 20)
    points = torch.randn(4 if sizes.quick else 16, 784, generator=torch.Generator().manual_seed(0))
    for make in (perceptron, convolutions):
        f = make()
        batch = JacobianOperator(f, points, batch_dims=1)
        singles = [JacobianOperator(f, x) for x in points]
        for method in ("auto", "golub-kahan"):
            solve = partial(svds, k=k, tol=1e-4, method=method)

            def record_alone(f: nn.Module = f, solve: Callable[..., Any] = solve) -> list[Any]:
                return [solve(JacobianOperator(f, x)) for x in points]

            def record_batch(f: nn.Module = f, solve: Callable[..., Any] = solve) -> Any:
                return solve(JacobianOperator(f, points, batch_dims=1))

            def solve_alone(
                singles: list[JacobianOperator] = singles, solve: Callable[..., Any] = solve
            ) -> list[Any]:
                return [solve(J) for J in singles]

            alone, batched = solve_alone(), solve(batch)
            off = max(float((one.s - batched.s[i]).abs().max()) for i, one in enumerate(alone))
            name = f"{make.__name__}, {batched.method}"
            print(f"{name}, k = {k}: values differ by {off:.0e}")
            yield Pair(
                f"{name}, recorded anew", ("alone", record_alone), ("in a batch", record_batch)
            )
            yield Pair(name, ("alone", solve_alone), ("in a batch", partial(solve, batch)))


# --- the tangent kernel


def _tangent_kernel(sizes: Sizes) -> Iterator[Pair]:
    """By hand: the Jacobian of every sample, their kernel, all its eigenpairs."""
    k = sizes.k or 20
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1152, 10),
    ).eval()
    theta = {name: one.detach() for name, one in net.named_parameters()}

    def of_one(theta: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, theta, (x[None],))[0]

    for inputs in (4,) if sizes.quick else (32, 128):
        X = torch.randn(inputs, 3, 32, 32, generator=torch.Generator().manual_seed(1))

        def jacobian(X: Tensor = X) -> Tensor:
            rows = vmap(jacrev(of_one), in_dims=(None, 0))(theta, X)
            return torch.cat([part.flatten(2) for part in rows.values()], dim=2).flatten(0, 1)

        def pairs_of_kernel(jacobian: Callable[[], Tensor] = jacobian) -> Tensor:
            J = jacobian()
            return torch.linalg.eigh(J @ J.T)[0].flip(0)

        def values_of_jacobian(jacobian: Callable[[], Tensor] = jacobian) -> Tensor:
            return torch.linalg.svdvals(jacobian()) ** 2

        ours = ntk(net, X, k)
        off = float((ours.values - values_of_jacobian()[:k]).abs().max() / ours.values[0])
        print(f"{inputs} inputs, 10 outputs: {ours}; values differ by {off:.0e} of the largest")
        for name, theirs in (("eigh of J J'", pairs_of_kernel), ("svdvals", values_of_jacobian)):
            yield Pair(
                f"{inputs} inputs",
                (f"vmap(jacrev), {name}", theirs),
                ("ntk", partial(ntk, net, X, k)),
            )
        for width in (4, 16, 32):
            if width <= inputs:
                yield Pair(
                    f"{inputs} inputs, ntk by blocks",
                    ("of 8", partial(ntk, net, X, k, block=8)),
                    (f"of {width}", partial(ntk, net, X, k, block=width)),
                )


# --- sparse matrices

_SPARSE_TOL = 1e-6


def _sparse(sizes: Sizes) -> Iterator[Pair]:
    """ARPACK on A A' or A' A, which SciPy takes for sparse matrices, and ours, to one residual.

    Before them, a product with A' by torch's transpose of a CSR tensor, and by its own rows; and
    products with few vectors by torch, and as we take them.
    """
    A = MatrixOperator(from_scipy(MATRICES["uniform"](20 if sizes.quick else 1)))
    U = torch.randn(4, A.shape[0], dtype=A.dtype).T
    yield Pair(
        "A'U, uniform {} x {}".format(*A.shape),
        ("torch's transpose", lambda: A.matrix.t() @ U),
        ("by rows", partial(A.rmatmat, U)),
    )
    for count in (2, 3, 4):
        V = torch.randn(count, A.shape[1], dtype=A.dtype).T
        yield Pair(
            "A V, uniform {} x {}, {} vectors".format(*A.shape, count),
            ("by torch, laid out by columns", lambda V=V: columns(A.matrix @ V)),
            ("ours", partial(A.matmat, V)),
        )
    for name, build in MATRICES.items():
        matrix = build(20 if sizes.quick else 1)
        for k in (sizes.k,) if sizes.k else (3,) if sizes.quick else (6, 50):
            yield Pair(
                f"{name} {matrix.shape[0]} x {matrix.shape[1]}, k={k}",
                ("ARPACK", partial(scipy_svds, matrix, k, tol=_SPARSE_TOL, rng=0)),
                ("svds", partial(svds, matrix, k, tol=_SPARSE_TOL)),
            )


TIMINGS: dict[str, Timing] = {
    timing.name: timing
    for timing in (
        Timing(
            "allocator",
            "products before and after keep_freed_memory",
            _allocator,
            switch=_switch_allocator,
        ),
        Timing(
            "batches",
            "all values of many small Jacobians: svdvals of their matrices, and svds, which has to "
            "find these first and certifies",
            _batches,
            rounds=5,
        ),
        Timing("together", "16 small Jacobians, one after another and in a batch", _together),
        Timing(
            "projected",
            "the projected problem: all of a band matrix, and the leading part",
            _projected,
        ),
        Timing(
            "repeated_points",
            "a network's Jacobians at many points, anew, by J.at and as a batch, beside torch.func",
            lambda sizes: repeated_points.pairs(sizes.quick, sizes.k),
            rounds=3,
        ),
        Timing(
            "sparse",
            "the leading triplets of ten sparse matrices, by SciPy's ARPACK and by svds",
            _sparse,
        ),
        Timing(
            "tall",
            "a tall basis against a few vectors, by BLAS and by blocks of rows",
            _tall,
            rounds=5,
        ),
        Timing(
            "tangent_kernel",
            "20 eigenpairs of a convolutional network's tangent kernel",
            _tangent_kernel,
            rounds=7,
        ),
    )
}


def measure(timing: Timing, sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Time the pairs of one entry; print and return what was found."""
    threads = torch.get_num_threads()
    print(f"{timing.name}: {timing.about}; {rounds} rounds, {threads} threads", flush=True)
    if timing.switch is None:
        found = (compare(pair, rounds) for pair in timing.pairs(sizes))
    else:
        found = iter(compare_across(list(timing.pairs(sizes)), rounds, timing.switch))
    rows = []
    for comparison in found:
        print(comparison, flush=True)
        rows.append(comparison.to_json())
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks small_timings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{one.name:14} {one.about}" for one in TIMINGS.values()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them if none")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("-k", type=int, help="triplets, where there is a choice")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in TIMINGS]
    if unknown:
        parser.error(f"no timing {', '.join(unknown)}; there are {', '.join(TIMINGS)}")
    report = {}
    for name in options.names or list(TIMINGS):
        timing = TIMINGS[name]
        rounds = options.rounds or (1 if options.quick else timing.rounds)
        report[name] = measure(timing, Sizes(options.quick, options.k), rounds)
    return report
