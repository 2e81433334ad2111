"""Leading singular triplets by a fixed number of passes over a wide random block.

Two shapes of one idea (Halko, Martinsson & Tropp 2011; Musco & Musco 2015). `BlockKrylov` keeps
every block and draws the triplets from their span; `SubspaceIteration` keeps the last one only, for
less memory and less accuracy. Both are for low accuracy at a cost known beforehand, and for
operators whose products are cheap in wide blocks alone. Residuals are measured all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.dense import dense_svd
from jvpsvd.svd.factorization import Factorization, estimated_frobenius
from jvpsvd.svd.orthonormal import extend, random_columns
from jvpsvd.svd.products import Direction, check_scale, longest_product
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Triplets, column_lengths, residual_lengths


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
        n = A.shape[1]
        width = min(n, k + self.oversample)
        size = min(n, self.passes * width)
        state = Factorization(A, block_size=width, seed=self.seed, capacity=size, most=size)
        state.initialize()
        fro2, fro2_error = estimated_frobenius(state)
        for done in range(1, self.passes):
            report(Progress(0, k, 1.0 - done / self.passes, A.products))
            if not state.exhausted:
                state.expand()
        if state.exhausted:
            fro2, fro2_error = float((column_lengths(state.AV) ** 2).sum()), 0.0
        s, residuals, U, V = state.triplets(state.ritz(k))
        return _with_evidence(
            s, residuals, U, V, fro2, fro2_error, tol, width, self.passes, state.exhausted
        )


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
        n = A.shape[1]
        width = min(n, k + self.oversample)
        generator = torch.Generator().manual_seed(self.seed)
        V = random_columns(torch.empty(n, 0, dtype=A.dtype, device=A.device), width, generator)
        squares = torch.zeros(0, dtype=torch.float64)
        for done in range(self.passes):
            images = _product(A, V, "forward", done)
            if done == 0:
                squares = n * column_lengths(images) ** 2
            U = _orthonormal(images, generator)
            V = _orthonormal(_product(A, U, "reverse", done), generator)
            report(Progress(0, k, 1.0 - (done + 1) / (self.passes + 1), A.products))
        images = _product(A, V, "forward", self.passes)
        left = _orthonormal(images, generator)
        X, values, Yh = dense_svd((left.T @ images).double())
        coefficients = [C.to(dtype=A.dtype, device=A.device) for C in (X[:, :k], Yh[:k].T)]
        s, U, V = values[:k].to(A.dtype), left @ coefficients[0], V @ coefficients[1]
        ahead = images @ coefficients[1]
        back = _product(A, U, "reverse", self.passes)
        residuals = residual_lengths(
            s, U, V, lambda part: ahead[:, part], lambda part: back[:, part]
        )
        spread = float(squares.std()) / width**0.5 if width > 1 else float("inf")
        whole = width == n
        fro2 = float((column_lengths(images) ** 2).sum()) if whole else float(squares.mean())
        return _with_evidence(
            s, residuals, U, V, fro2, 0.0 if whole else spread, tol, width, self.passes, whole
        )


def _product(A: LinearOperator, block: Tensor, direction: Direction, done: int) -> Tensor:
    W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
    check_scale(longest_product(A, W, direction, f"pass {done + 1}"), W)
    return W


def _orthonormal(W: Tensor, generator: torch.Generator) -> Tensor:
    """Return an orthonormal basis (N, w) that spans W (N, w), random where W loses rank."""
    floor = torch.finfo(W.dtype).eps * float(column_lengths(W).max())
    return extend(W[:, :0], W, floor=floor, generator=generator).block


def _with_evidence(
    s: Tensor,
    residuals: Tensor,
    U: Tensor,
    V: Tensor,
    fro2: float,
    fro2_error: float,
    tol: float,
    width: int,
    passes: int,
    whole: bool,
) -> Triplets:
    """Return triplets with what a random block wider than k says about missing values.

    Every leading vector has a share in such a block, repeated values included; so if all k triplets
    converged, none is missing. If some did not, a leading value may hide among those.
    """
    k = s.shape[0]
    good = residuals <= tol * s[0]
    leading = k if bool(good.all()) else int((~good).nonzero()[0])
    if whole:
        evidence = "the bases span the whole space"
    elif leading == k:
        evidence = f"all converged from a random block of {width} columns, wider than k"
    else:
        evidence = f"none: {k - int(good.sum())} triplets did not converge in {passes} passes"
    complete = whole or leading == k
    return Triplets(
        s, residuals, U, V, fro2, fro2_error, complete, evidence, k if whole else leading
    )
