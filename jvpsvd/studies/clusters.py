"""Singular values that have no gradient of their own: repeated ones, and those at 0."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from jvpsvd.svd import SVDResult
from jvpsvd.svd.krylov.quadrature import AllValues, Recurrences, SpectralSample

logger = logging.getLogger(__name__)

# Neighbours that differ by less than their residuals, or by less than this share of s₁, count as a
# cluster: their vectors, and with them their gradients, may be any mixture.
_CLUSTERED = 1e-6


def tell_clusters(result: SVDResult) -> None:
    """Log which values have no gradient of their own; of a batch those of the first such point.

    >>> from jvpsvd import svds
    >>> tell_clusters(svds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2))
    """
    k = result.s.shape[-1]
    s, residuals = result.s.detach().reshape(-1, k), result.residuals.detach().reshape(-1, k)
    samples = result.samples or (None,) * len(s)
    for index, (values, errors, sample) in enumerate(zip(s, residuals, samples, strict=True)):
        lines = list(describe_clusters(values, errors, _next_value(sample, k)))
        for line in lines:
            logger.warning("%s%s", f"at point {index}: " if result.s.ndim > 1 else "", line)
        if lines:
            return


def describe_clusters(s: Tensor, residuals: Tensor, below: float | None) -> Iterator[str]:
    """Yield what to say of each cluster of values, and of values at 0.

    Args:
        s: (k,) values, descending.
        residuals: (k,) their residuals.
        below: The next value, or a bound from below of it; None if there is none.

    >>> s, exact = torch.tensor([2.0, 1.0, 1.0, 1.0]), torch.zeros(4)
    >>> print(*describe_clusters(s, exact, below=0.5))
    singular values 1 to 3 lie within 2e-06 of each other; only the gradient of their sum is defined
    >>> print(*describe_clusters(s[:2], exact[:2], below=1.0))  # doctest: +ELLIPSIS
    singular value 1 lies within 2e-06 of the next one, which k=2 leaves out; its gradient is not...
    """
    k, least = len(s), _CLUSTERED * float(s[0])
    values, errors = s.tolist(), residuals.tolist()
    positive = sum(value > error for value, error in zip(values, errors, strict=True))
    if positive == k and below is not None:
        values, errors = [*values, below], [*errors, errors[-1]]
    else:
        values = values[:positive]
    reaches = [max(a + b, least) for a, b in pairwise(errors)]
    last = [i for i, (a, b) in enumerate(pairwise(values)) if a - b > reaches[i]]
    for first, end in pairwise([-1, *last, len(values) - 1]):
        if end - first > 1:
            yield _describe(first + 1, end, max(reaches[first + 1 : end]), k)
    if positive < k:
        yield (
            f"{_name(positive, k - 1, 'is', 'are')} 0 to within the residual; a singular value has "
            "no derivative there"
        )


def _describe(first: int, last: int, reach: float, k: int) -> str:
    """Return what to say of a cluster; index k is that of the value below the k ones."""
    if last < k:
        return (
            f"{_name(first, last)} lie within {reach:.0e} of each other; only the gradient of "
            "their sum is defined"
        )
    if first == k - 1:
        return (
            f"singular value {first} lies within {reach:.0e} of the next one, which k={k} leaves "
            "out; its gradient is not defined; with a larger k that of the sum over the cluster is"
        )
    return (
        f"{_name(first, k - 1)} lie within {reach:.0e} of each other and of the next one, which "
        f"k={k} leaves out; no gradient of theirs is defined, nor is that of their sum; with a "
        "larger k that of the sum over the cluster is"
    )


def _name(first: int, last: int, one: str = "", several: str = "") -> str:
    """Return values and a verb in words: singular values 1 to 3 are."""
    if first == last:
        return f"singular value {first} {one}".rstrip()
    between = "and" if last == first + 1 else "to"
    return f"singular values {first} {between} {last} {several}".rstrip()


def _next_value(sample: SpectralSample | None, k: int) -> float | None:
    """Return the value after the k leading ones, as far as the solve saw it; None for nothing.

    A Ritz value is never above the true one.
    """
    if isinstance(sample, AllValues):
        return float(sample.values[k]) if len(sample.values) > k else None
    if isinstance(sample, Recurrences):
        ritz = torch.linalg.svdvals(sample.B[0])
        return float(ritz[k]) if len(ritz) > k else None
    return None
