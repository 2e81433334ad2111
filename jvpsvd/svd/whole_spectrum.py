"""The whole spectrum of an operator, from what a solve or random vectors left."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.svd.estimate import known_in_words
from jvpsvd.svd.krylov.quadrature import AllValues, NoSample, SpectralSample
from jvpsvd.svd.sampled_values import known_and_sampled
from jvpsvd.svd.spectrum import Spectrum
from jvpsvd.text_table import count_noun

# Ritz values are off by this many eps of the dtype, times σ₁: a guess.
_ROUNDING = 8.0


def whole_spectrum(
    sample: SpectralSample, known: Tensor, errors: Tensor, size: int, precision: torch.dtype
) -> Spectrum:
    """Return the spectrum from what a solve left.

    Args:
        sample: All values, or the recurrence of a random start.
        known: (j,) leading values, none missing among them.
        errors: (j,) their residuals.
        size: Number of all values.
        precision: Lowest one that the products are computed in.
    """
    known, errors = known.double().cpu(), errors.double().cpu()
    top = float(known[0]) if len(known) else 0.0
    eps = _ROUNDING * torch.finfo(precision).eps
    if isinstance(sample, AllValues):
        values = sample.values.double().cpu().clone()
        off = torch.full_like(values, eps * float(values[0]))
        values[: len(known)], off[: len(known)] = known, errors
        values = values.sort(descending=True).values
        basis = known_in_words(size, size)
        return Spectrum(size, values, off, size, None, eps * float(values[0]), basis)
    basis = known_in_words(len(known), size)
    if isinstance(sample, NoSample) or len(known) == size:
        if isinstance(sample, NoSample) and len(known) < size:
            basis += f"; the rest is unknown: {sample.reason}"
        return Spectrum(size, known, errors, len(known), None, eps * top, basis)
    split = known_and_sampled(sample, known, errors, size, eps * top)
    known, errors, above, rest = split.known, split.errors, split.above, split.rest
    if rest is None:
        basis = f"{known_in_words(len(known), size)}; no random vector sampled the others"
        return Spectrum(size, known, errors, len(known), None, eps * top, basis)
    rounding = eps * max(top, float(rest.rule.nodes.max()))
    known_there, steps = count_noun(above, "value"), count_noun(sample.steps, "step")
    vectors = count_noun(rest.columns, "random vector")
    basis = f"{known_there} known, {rest.size} sampled by {vectors} in {steps}"
    return Spectrum(size, known, errors, above, rest, rounding, basis)
