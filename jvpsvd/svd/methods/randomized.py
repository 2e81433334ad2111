"""Leading singular triplets by a fixed number of passes over a wide random block.

Two shapes of one idea (Halko, Martinsson & Tropp 2011; Musco & Musco 2015). `BlockKrylov` keeps
every block and draws the triplets from their span; `SubspaceIteration` keeps the last one only, for
less memory and less accuracy. Both are for low accuracy at a cost known beforehand, and for
operators whose products are cheap in wide blocks alone. Residuals are measured all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.dense import dense_svd
from jvpsvd.svd.kernels.orthogonalize import Extension, extend, random_columns
from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.frobenius import estimated_frobenius
from jvpsvd.svd.product_checks import Direction, check_scale, longest_product
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Evidence, Triplets, column_lengths, residual_lengths


@dataclass(frozen=True)
class BlockKrylov:
    """Hyper-parameters of the block Krylov method.

    Args:
        passes: Blocks, each a forward and a reverse pass of k + oversample vectors.
        oversample: Columns of a block beyond k.
        seed: Of the starting block.
    """

    passes: int = 3
    oversample: int = 16
    seed: int = 0

    def solve(
        self, A: LinearOperator, k: int, tol: float, report: Callable[[Progress], None]
    ) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, from the span of all blocks.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        began = time.perf_counter()
        n = A.shape[-1]
        width = min(n, k + self.oversample)
        size = min(n, self.passes * width)
        state = Factorization(A, block_size=width, seed=self.seed, capacity=size, most=size)
        state.initialize()
        fro2, fro2_error = estimated_frobenius(state.B, 0, n)
        before = 0
        for done in range(1, self.passes):
            left = (time.perf_counter() - began) * (self.passes - done) / done
            report(Progress(0, k, 1.0 - done / self.passes, A.products, left))
            if not state.exhausted:
                before = state.size
                state.expand()
        if state.exhausted:
            fro2, fro2_error = (state.B**2).sum((-2, -1)), torch.zeros_like(fro2)
        outside = torch.linalg.matrix_norm(state.B[..., before:], 2)
        s, residuals, U, V = state.triplets(state.ritz(k))
        epsilon = torch.zeros_like(outside) if state.exhausted else outside
        norms = _Norms(fro2, fro2_error, epsilon)
        return _with_evidence(s, residuals, U, V, norms, tol, width, self.passes, state.exhausted)


@dataclass(frozen=True)
class SubspaceIteration:
    """Hyper-parameters of subspace iteration.

    Args:
        passes: Forward and reverse passes of k + oversample vectors; a last one of k measures.
        oversample: Columns of the block beyond k.
        seed: Of the starting block.
    """

    passes: int = 4
    oversample: int = 16
    seed: int = 0

    def solve(
        self, A: LinearOperator, k: int, tol: float, report: Callable[[Progress], None]
    ) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, from the last block.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        began = time.perf_counter()
        n = A.shape[-1]
        width = min(n, k + self.oversample)
        generator = torch.Generator().manual_seed(self.seed)
        nothing = torch.empty(*A.batch, n, 0, dtype=A.dtype, device=A.device)
        V = random_columns(nothing, width, generator)
        squares = torch.zeros(*A.batch, width, dtype=torch.float64)
        for done in range(self.passes):
            images = _product(A, V, "forward", done)
            if done == 0:
                squares = n * column_lengths(images).cpu() ** 2
            U = _orthonormal(images, generator).block
            V = _orthonormal(_product(A, U, "reverse", done), generator).block
            after = (time.perf_counter() - began) * (self.passes - done) / (done + 1)
            report(Progress(0, k, 1.0 - (done + 1) / (self.passes + 1), A.products, after))
        images = _product(A, V, "forward", self.passes)
        left = _orthonormal(images, generator)
        X, values, Yh = dense_svd(left.outer)
        x, y = (C.to(V) for C in (X[..., :k], Yh[..., :k, :].mT))
        s, U, V = values[..., :k].to(V), left.block @ x, V @ y
        ahead = images @ y
        back = _product(A, U, "reverse", self.passes)
        residuals = residual_lengths(
            s, U, V, lambda part: ahead[..., part], lambda part: back[..., part]
        )
        unknown = torch.full_like(squares[..., 0], torch.nan)
        if width == n:
            exact = (column_lengths(images).cpu() ** 2).sum(-1)
            norms = _Norms(exact, torch.zeros_like(exact), torch.zeros_like(exact))
        else:
            spread = squares.std(-1) / width**0.5 if width > 1 else unknown + torch.inf
            norms = _Norms(squares.mean(-1), spread, unknown)
        return _with_evidence(s, residuals, U, V, norms, tol, width, self.passes, width == n)


@dataclass(frozen=True)
class _Norms:
    """Of the operator, one of each matrix: ‖A‖²_F, its standard error, ‖A − A V V'‖₂."""

    fro2: Tensor
    fro2_error: Tensor
    epsilon: Tensor


def _product(A: LinearOperator, block: Tensor, direction: Direction, done: int) -> Tensor:
    W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
    check_scale(longest_product(A, W, direction, f"pass {done + 1}"), W)
    return W


def _orthonormal(W: Tensor, generator: torch.Generator) -> Extension:
    """Return an orthonormal basis (N, w) that spans W (N, w), random where W loses rank."""
    floor = torch.finfo(W.dtype).eps * column_lengths(W).amax(-1).cpu()
    return extend(W[..., :0], W, floor=floor, generator=generator)


def _with_evidence(
    s: Tensor,
    residuals: Tensor,
    U: Tensor | None,
    V: Tensor,
    norms: _Norms,
    tol: float,
    width: int,
    passes: int,
    whole: bool,
) -> Triplets:
    """Return triplets with what a random block wider than k says about missing values.

    Every leading vector has a share in such a block, repeated values included; so if all k triplets
    converged, none is missing. If some did not, a leading value may hide among those.
    """
    k = s.shape[-1]
    good = (residuals <= tol * s[..., :1]).reshape(-1, k).cpu()
    leading = good.long().cumprod(-1).sum(-1).tolist()
    missed = (~good).sum(-1).tolist()
    figures = [x.reshape(-1).tolist() for x in (norms.fro2, norms.fro2_error, norms.epsilon)]
    known = []
    for i, (fro2, error, epsilon) in enumerate(zip(*figures, strict=True)):
        if whole:
            evidence = "the bases span the whole space"
        elif missed[i] == 0:
            evidence = f"all converged from a random block of {width} columns, wider than k"
        else:
            evidence = f"none: {missed[i]} triplets did not converge in {passes} passes"
        sure = k if whole else leading[i]
        known.append(Evidence(fro2, error, whole or sure == k, evidence, sure, epsilon))
    return Triplets(s, residuals, U, V, tuple(known))
