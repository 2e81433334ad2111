"""spectral_density: estimates of the whole spectrum without a single singular vector."""

from __future__ import annotations

import math
import secrets
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import LARGEST_SEED, proper_fraction, whole_number
from jvpsvd.errors import ArgumentError, ConvergenceWarning
from jvpsvd.operators import LinearOperator, Products, aslinearoperator
from jvpsvd.operators.environment.placement import own_tensors
from jvpsvd.svd.kernels.norms import column_norms
from jvpsvd.svd.kernels.random_numbers import Seeds, draw_normal, seeded_generators
from jvpsvd.svd.krylov.quadrature import Recurrences
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import (
    Direction,
    check_scale,
    check_zero,
    largest_product_norm,
)
from jvpsvd.svd.progress import Show, progress_bar
from jvpsvd.svd.result import SVDResult
from jvpsvd.svd.spectrum import NEAR_ROUNDING, Spectrum
from jvpsvd.svd.whole_spectrum import whole_spectrum

DEFAULT_PROBES, DEFAULT_STEPS = 16, 40
_CONFIDENCE = 1.96  # standard errors of a 95 % interval
# The error is looked at first after so many steps, then after so many times more, at so many
# thresholds: guesses.
_FIRST_CHECK, _CHECK_AFTER, _THRESHOLDS = 5, 1.3, 16


def spectral_density(
    J: Any,
    probes: int | np.integer[Any] = DEFAULT_PROBES,
    steps: int | np.integer[Any] = DEFAULT_STEPS,
    *,
    error: float | None = None,
    seed: int | np.integer[Any] | None = 0,
    progress: bool | Show = False,
) -> Spectrum | list[Spectrum]:
    """Return estimates of all singular values of J, from random vectors and short recurrences.

    Each of the random unit vectors v has a Golub–Kahan recurrence of its own, all in lock step,
    which gives a Gauss rule for the mean of f(σ²) (stochastic Lanczos quadrature: Ubaru, Chen &
    Saad 2017). No basis is kept: the memory is that of a few blocks of `probes` vectors, and the
    loss of orthogonality splits nodes without moving their mass (Greenbaum 1989). `svds` gives the
    same object, `result.spectrum`, with the k leading values known; prefer it where k vectors fit.

    Args:
        J: A `LinearOperator`, or anything `aslinearoperator` takes. A batch has a list of spectra.
        probes: Number of random vectors. They narrow standard errors, as 1/√probes.
        steps: Steps of each recurrence, one JVP and one VJP for each vector. They narrow bounds, as
            1/steps where the spectrum is dense.
        error: Stop as soon as the 95 % interval of the share of values above a threshold reaches
            at most so far to each side, on average over thresholds; `steps` is then the largest
            number of them. In (0, 1).
        seed: Seed of the random vectors; None: another one each time.
        progress: True for a bar on stderr, or a function that takes a `Progress`. If it returns
            False, the recurrences stop there.

    Raises:
        ArgumentError: On an argument out of range, or an error that so few probes cannot reach; if
            products are too large or too small for their dtype.
        NonFiniteError: If a product holds NaN or infinity.

    >>> spectrum = spectral_density(torch.diag(torch.linspace(0, 2, 500)), probes=32)
    >>> low, high = spectrum.count(1.0).interval(0.999)
    >>> low <= 250 <= high
    True
    """
    A = aslinearoperator(J)
    if A.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"spectral_density works in float32 or float64, the operator is {A.dtype}; convert the "
            "matrix by .float() first, or differentiate in float32: JacobianOperator(f, x, "
            "dtype=torch.float32)"
        )
    short = min(A.shape[-2:])
    count = whole_number("probes", probes, 1)
    last = min(whole_number("steps", steps, 1), short)
    seed = secrets.randbits(63) if seed is None else whole_number("seed", seed, 0, LARGEST_SEED)
    if error is not None:
        error = proper_fraction("error", error)
        _check_reach(error, count, short)
    before = A.products
    with torch.no_grad(), own_tensors(), progress_bar(progress, "random vectors") as show:
        monitor = Monitor(show, lambda: A.products.since(before))
        recurrence = _Recurrence(A, count, seed)
        next_check = _FIRST_CHECK
        for step in range(1, last + 1):
            recurrence.advance()
            if error is not None and step >= next_check:
                next_check = math.ceil(_CHECK_AFTER * step)
                if all(mean_half_width(one) <= error for one in recurrence.spectra()):
                    break
            if not monitor.report(count * (step == last), count, share=step / last):
                break
        recurrence.check_zero()
    spectra = recurrence.spectra()
    if error is not None and not monitor.stopped:
        worst = max(mean_half_width(one) for one in spectra)
        if worst > error:
            warnings.warn(
                f"after {last} steps counts are known to ± {worst:.2g} of all values on average, "
                f"not to error={error:g}; raise steps or probes",
                ConvergenceWarning,
                stacklevel=2,
            )
    return spectra if A.batch else spectra[0]


def with_density(result: SVDResult, A: LinearOperator) -> SVDResult:
    """Return a result whose `spectrum` rests on single random vectors instead of its own start.

    Few known values need few steps, which leave wide bounds; see `spectral_density` for the
    numbers of vectors and steps. Products and seconds of both are added.

    Args:
        result: What `svds` found for A.
        A: The operator, or the batch.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
    """
    began, before = time.perf_counter(), A.products
    with torch.no_grad(), own_tensors():
        recurrence = _Recurrence(A, DEFAULT_PROBES, result.seed)
        for _ in range(min(DEFAULT_STEPS, *A.shape[-2:])):
            recurrence.advance()
    taken, had = A.products.since(before), result.products
    return replace(
        result,
        samples=recurrence.samples(),
        products=Products(had.forward + taken.forward, had.reverse + taken.reverse),
        seconds=result.seconds + time.perf_counter() - began,
    )


def mean_half_width(spectrum: Spectrum) -> float:
    """Return how far 95 % intervals of the share above a threshold reach, averaged over thresholds.

    Thresholds lie as densely as the values do.
    """
    rest = spectrum.rest
    if rest is None:
        return 0.0
    nodes, order = rest.rule.nodes.reshape(-1).sort()
    shares = rest.rule.weights.reshape(-1)[order].cumsum(0) / rest.mass
    wanted = (torch.arange(_THRESHOLDS) + 0.5).double() / _THRESHOLDS
    at = nodes[torch.searchsorted(shares, wanted).clamp_max(len(nodes) - 1)]
    least = max(NEAR_ROUNDING * spectrum.rounding, math.ulp(0.0))
    counts = spectrum.counts(np.unique(at.clamp_min(least).numpy()))
    half = (counts.high - counts.low) / 2 + _CONFIDENCE * counts.standard_error
    return float(half.mean() / spectrum.size)


def _check_reach(error: float, probes: int, size: int) -> None:
    """Refuse an error below the sampling's.

    A share x has the standard error √(2 x (1 − x) / ((size + 2) probes)), and the mean of
    √(x (1 − x)) over shares is π / 8.
    """
    sampling = _CONFIDENCE * math.pi / 8 * math.sqrt(2 / ((size + 2) * probes))
    if sampling > error:
        needed = math.ceil(probes * (sampling / error) ** 2)
        raise ArgumentError(
            f"error={error:g} is below what {probes} random vectors reach; give probes={needed}"
        )


class _Recurrence:
    """Golub–Kahan recurrences of single vectors, in lock step and without bases.

    A v_j = α_j u_j + β_{j-1} u_{j-1} and A' u_j = α_j v_j + β_j v_{j+1}.
    """

    def __init__(self, A: LinearOperator, probes: int, seed: Seeds) -> None:
        generator = seeded_generators(seed)
        A = A.T if A.shape[-2] < A.shape[-1] else A
        n = A.shape[-1]
        # Matrices of a batch that share a generator have vectors of their own, too.
        shape = (*A.batch, probes, n) if isinstance(seed, int) else (probes, n)
        v = draw_normal(generator, *shape, dtype=A.dtype).to(A.device)
        self._A, self._probes, self._generator = A, probes, generator
        self._v, _ = _normalize(v.mT)
        self._u: Tensor | None = None
        self._diagonal: list[Tensor] = []
        self._above: list[Tensor] = []
        self._scale = torch.zeros(A.batch, dtype=torch.float64)

    def advance(self) -> None:
        """Take one step: a forward and a reverse product of all vectors."""
        W = self._multiply(self._v, "forward")
        if self._u is not None:
            W = W - self._u * _as_row(self._above[-1], W)
        self._u, alpha = _normalize(W)
        Z = self._multiply(self._u, "reverse") - self._v * _as_row(alpha, W)
        self._v, beta = _normalize(Z)
        self._diagonal.append(alpha)
        self._above.append(beta)

    def check_zero(self) -> None:
        """Refuse matrices whose products are 0 because they are too small for the dtype."""
        check_zero(self._A, self._scale, self._generator)

    def samples(self) -> tuple[Recurrences, ...]:
        """Return the recurrences of each matrix, so far."""
        alpha, beta = (torch.stack(one, dim=-1).cpu() for one in (self._diagonal, self._above))
        alpha, beta = (one.reshape(-1, self._probes, one.shape[-1]) for one in (alpha, beta))
        found = []
        for diagonal, above in zip(alpha, beta, strict=True):
            B = torch.diag_embed(diagonal) + torch.diag_embed(above[:, :-1], offset=1)
            R = torch.zeros_like(B[:, :1])
            R[:, 0, -1] = above[:, -1]
            found.append(Recurrences(B, R, 1, diagonal.shape[-1]))
        return tuple(found)

    def spectra(self) -> list[Spectrum]:
        """Return the spectrum of each matrix, of which no value is known by itself."""
        nothing = torch.empty(0, dtype=torch.float64)
        size, precision = self._A.shape[-1], self._A.precision
        return [whole_spectrum(one, nothing, nothing, size, precision) for one in self.samples()]

    def _multiply(self, block: Tensor, direction: Direction) -> Tensor:
        A, step = self._A, len(self._diagonal) + 1
        W = A.matmat(block) if direction == "forward" else A.rmatmat(block)
        norm = largest_product_norm(A, W, direction, f"step {step}")
        self._scale = torch.maximum(self._scale, norm)
        check_scale(self._scale, W)
        return W


def _normalize(block: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns divided by their norms, and these; columns of norm 0 stay."""
    norms = column_norms(block)
    return block / _as_row(torch.where(norms > 0, norms, 1.0), block), norms


def _as_row(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like)[..., None, :]
