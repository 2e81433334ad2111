"""Leading singular triplets by a fixed number of passes over a wide random block.

`BlockKrylov` keeps every block and finds the triplets in their span (Musco & Musco, 2015);
`SubspaceIteration` keeps the last block only, for less memory and less accuracy (Halko, Martinsson
& Tropp, 2011). Both suit low accuracy at a cost that is known in advance, and operators whose
products are cheap only in wide blocks. Residuals are measured as in the other methods.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.dense import dense_svd
from jvpsvd.svd.kernels.norms import column_norms, residual_norms
from jvpsvd.svd.kernels.orthogonalize import OrthogonalBlock, orthogonalize_block, random_columns
from jvpsvd.svd.kernels.random_numbers import Generators, seeded_generators
from jvpsvd.svd.krylov.frobenius import estimated_frobenius
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.kept_recurrence import KeptRecurrence
from jvpsvd.svd.krylov.quadrature import AllValues, Recurrences, SpectralSample
from jvpsvd.svd.krylov.ritz import ritz_triplets
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import Direction, check_scale, largest_product_norm
from jvpsvd.svd.progress import predict_seconds_left
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Evidence, Triplets
from jvpsvd.text_table import count_noun


@dataclass(frozen=True)
class BlockKrylov:
    """Hyper-parameters of the block Krylov method.

    Args:
        passes: Number of blocks; each takes a forward and a reverse product of k + oversample
            vectors.
        oversample: Columns of a block beyond k.
    """

    passes: int = 3
    oversample: int = 16

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, from the span of all blocks.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        began, k, n = time.perf_counter(), request.k, A.shape[-1]
        width = min(n, k + self.oversample)
        size = min(n, self.passes * width)
        bases = GolubKahanFactorization(
            A,
            block_size=width,
            seed=request.seed,
            capacity=size,
            max_size=size,
            monitor=monitor,
        )
        bases.initialize()
        fro2, fro2_error = estimated_frobenius(bases.B, 0, n)
        before = 0
        for done in range(1, self.passes):
            share = done / self.passes
            left = predict_seconds_left(began, share)
            go_on = monitor.report(0, k, share=share, seconds_left=left)
            if not go_on or bases.exhausted:
                break
            before = bases.size
            bases.expand()
        if bases.exhausted:
            fro2, fro2_error = (bases.B**2).sum((-2, -1)), torch.zeros_like(fro2)
        outside = torch.linalg.matrix_norm(bases.B[..., before:], 2)
        with monitor.phase("projected problem"):
            ritz = ritz_triplets(bases, k)
        with monitor.phase("vectors"):
            s, residuals, U, V = bases.measure(ritz)
        epsilon = torch.zeros_like(outside) if bases.exhausted else outside
        norms = _Norms(fro2, fro2_error, epsilon)
        taken = _Passes(bases.steps, self.passes, width, bases.exhausted)
        evidence = _evidence(s, residuals, norms, request.tol, taken)
        recurrence = KeptRecurrence(random=True)
        samples = tuple(recurrence.sample(bases, i) for i in range(len(evidence)))
        return Triplets(s, residuals, U, V, evidence, samples)


@dataclass(frozen=True)
class SubspaceIteration:
    """Hyper-parameters of subspace iteration.

    Args:
        passes: Number of forward and reverse products of k + oversample vectors. A last product
            with k vectors measures residuals.
        oversample: Columns of the block beyond k.
    """

    passes: int = 4
    oversample: int = 16

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, from the last block.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        began, k, n = time.perf_counter(), request.k, A.shape[-1]
        width = min(n, k + self.oversample)
        generator = seeded_generators(request.seed)
        nothing = torch.empty(*A.batch, n, 0, dtype=A.dtype, device=A.device)
        V = random_columns(nothing, width, generator)
        squares = torch.zeros(*A.batch, width, dtype=torch.float64)
        first = squares[..., None, :], squares[..., None, :]
        taken = 0
        for done in range(self.passes):
            images = _multiply(A, V, "forward", done, monitor)
            with monitor.phase("orthogonalisation"):
                left_basis = _orthonormal(images, generator)
                right = _orthonormal(
                    _multiply(A, left_basis.Q, "reverse", done, monitor), generator
                )
                if done == 0:
                    squares = n * column_norms(images).cpu() ** 2
                    first = left_basis.R, _outside(right.R, left_basis.R)
                V = right.Q
            taken = done + 1
            share = taken / (self.passes + 1)
            left = predict_seconds_left(began, share)
            if not monitor.report(0, k, share=share, seconds_left=left):
                break
        images = _multiply(A, V, "forward", taken, monitor)
        with monitor.phase("vectors"):
            left_basis = _orthonormal(images, generator)
            X, values, Yh = dense_svd(left_basis.R)
            x, y = (C.to(V) for C in (X[..., :k], Yh[..., :k, :].mT))
            s, U, V = values[..., :k].to(V), left_basis.Q @ x, V @ y
            forward = images @ y
            adjoint = _multiply(A, U, "reverse", taken, monitor)
            residuals = residual_norms(
                s, U, V, lambda part: forward[..., part], lambda part: adjoint[..., part]
            )
        unknown = torch.full_like(squares[..., 0], torch.nan)
        if width == n:
            exact = (column_norms(images).cpu() ** 2).sum(-1)
            norms = _Norms(exact, torch.zeros_like(exact), torch.zeros_like(exact))
        else:
            spread = squares.std(-1) / width**0.5 if width > 1 else unknown + torch.inf
            norms = _Norms(squares.mean(-1), spread, unknown)
        passes = _Passes(taken, self.passes, width, width == n)
        evidence = _evidence(s, residuals, norms, request.tol, passes)
        B, R = (one.reshape(-1, 1, width, width).cpu() for one in first)
        each: list[SpectralSample] = [
            AllValues(torch.linalg.svdvals(B[i, 0]))
            if width == n
            else Recurrences(B[i], R[i], width, 1)
            for i in range(len(B))
        ]
        return Triplets(s, residuals, U, V, evidence, tuple(each))


@dataclass(frozen=True)
class _Passes:
    """How far a method has come."""

    taken: int
    planned: int
    """More than were taken, if the caller stopped the solve."""
    width: int
    """Columns of a block."""
    whole: bool
    """Whether the bases span the whole space."""


@dataclass(frozen=True)
class _Norms:
    """‖A‖²_F, its standard error and ‖A − A V V'‖₂ for each matrix."""

    fro2: Tensor
    fro2_error: Tensor
    epsilon: Tensor


def _multiply(
    A: LinearOperator, block: Tensor, direction: Direction, done: int, monitor: Monitor
) -> Tensor:
    with monitor.phase("products"):
        W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
        check_scale(largest_product_norm(A, W, direction, f"pass {done + 1}"), W)
    return W


def _outside(C: Tensor, B: Tensor) -> Tensor:
    """Return R'R = C'C − B B' as a factor R: A'U = V B' + F R = Q C, with V, F, Q orthonormal."""
    squares, Y = torch.linalg.eigh(C.mT @ C - B @ B.mT)
    R: Tensor = (Y * squares.clamp_min(0).sqrt()[..., None, :]).mT
    return R


def _orthonormal(W: Tensor, generator: Generators) -> OrthogonalBlock:
    """Return an orthonormal basis (N, w) of the span of W (N, w), random where W loses rank."""
    floor = torch.finfo(W.dtype).eps * column_norms(W).amax(-1).cpu()
    return orthogonalize_block(W[..., :0], W, floor=floor, generator=generator)


def _evidence(
    s: Tensor,
    residuals: Tensor,
    norms: _Norms,
    tol: float,
    passes: _Passes,
) -> tuple[Evidence, ...]:
    """Return the evidence for each matrix, from a random block wider than k.

    Every leading vector has a share in such a block, repeated values included, and the passes
    raise it; so if all k triplets converged after them, none is missing. If some did not, a leading
    value may hide among those; before the last pass it may hide anywhere.
    """
    stopped = passes.taken < passes.planned and not passes.whole
    k = s.shape[-1]
    good = (residuals <= tol * s[..., :1]).reshape(-1, k).cpu()
    leading = good.long().cumprod(-1).sum(-1).tolist()
    missed = (~good).sum(-1).tolist()
    figures = [x.reshape(-1).tolist() for x in (norms.fro2, norms.fro2_error, norms.epsilon)]
    found = []
    for i, (fro2, error, epsilon) in enumerate(zip(*figures, strict=True)):
        guaranteed = k if passes.whole else 0 if stopped else leading[i]
        complete = guaranteed == k
        if passes.whole:
            evidence = "the bases span the whole space"
        elif stopped:
            evidence = f"none: stopped after {passes.taken} of {passes.planned} passes"
        elif complete:
            evidence = f"all converged from a random block of {passes.width} columns, wider than k"
        else:
            missing = count_noun(missed[i], "triplet")
            taken = count_noun(passes.taken, "pass", "passes")
            evidence = f"none: {missing} did not converge in {taken}"
        found.append(Evidence(fro2, error, complete, evidence, guaranteed, epsilon))
    return tuple(found)
