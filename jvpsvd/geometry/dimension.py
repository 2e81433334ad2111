"""The dimension of a spectrum: how many directions a Jacobian passes on.

Mototake & Ikegami (section 6) count singular values ≥ 1. Other estimators answer other questions
about the same spectrum s₁ ≥ … ≥ s_k. With the energy shares p = s²/Σs²:

    stable rank 1/p₁  ≤  participation ratio 1/Σp²  ≤  entropy exp(−Σ p log p)  ≤  rank

(Rényi entropies of order ∞, 2, 1 and 0). The first three weight directions by energy: if d values
differ by a factor of ten, they give less than d. The largest gap uses no weights, but needs a gap.
Only the count depends on the units of input and output: it grows if J is multiplied by 2.

If a solver computes only k values, the first three are lower bounds, because the renormalised top k
are more concentrated than the whole spectrum. With ‖J‖²_F (`fro2`) the bounds are tighter. A count
is exact if it is below k. A gap beyond k is not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import (
    dense_tensor,
    positive_number,
    proper_fraction,
    shown,
    whole_number,
)
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry.results import Array, Spectra, all_results, values_of
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import power_of_two
from jvpsvd.svd.result import SVDResult
from jvpsvd.text_table import count_noun

# An estimated ‖J‖²_F must be at least this share of the energy of the given values.
LEAST_ENERGY = 0.5
# torch has few operations for narrower numbers.
_LEAST_BITS = 16


def count_above(s: Spectra, threshold: float = 1.0) -> Tensor:
    """Return the number of values ≥ threshold of each spectrum: the paper's dimension.

    The count assumes that J stretches tangent directions and shrinks normal ones, so input and
    output must have comparable units: c·J has another count than J. A spectrum of zeros has the
    count 0. If all k values count, the result is a lower bound.

    Source: Mototake & Ikegami, section 6.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`.
        threshold: A positive number.

    Raises:
        ArgumentError: If s is no spectrum or the threshold is not positive and finite.

    >>> count_above([[3.0, 1.0, 0.5], [0.2, 0.1, 0.0]])
    tensor([2, 0])
    """
    return (_values(s) >= positive_number("threshold", threshold)).sum(-1)


@dataclass(frozen=True, eq=False)
class Gap(ComparedByFields):
    """The largest gap of each spectrum."""

    dimension: Tensor
    """() or (photos,) d of the largest s_d / s_{d+1}; the smallest d if several are equal, 0 if all
    are 1."""
    ratio: Tensor
    """s_d / s_{d+1} ≥ 1: how clear the gap is. Near 1 the dimension means nothing."""


def largest_gap(
    s: Spectra, *, window: tuple[int, int] | None = None, floor: float | None = None
) -> Gap:
    """Return the d with the largest log s_d − log s_{d+1}, for each spectrum.

    This assumes that the values of tangent directions lie close together and far above the rest.
    Scaling changes nothing. A decaying spectrum without a clear gap has a largest one too, often at
    d = 1 or in its tail, so check the ratio.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`; k ≥ 2.
        window: Smallest and largest d to choose from; None: 1 and k − 1, because k values show no
            gap at d ≥ k.
        floor: Values below floor · s₁ are set to it, so that ratios of rounding errors are no gaps,
            and a gap down to 0 has the ratio s_d / (floor · s₁). None: the tolerance of a result of
            `svds`, else eps of the dtype. Give the relative accuracy of the values.

    Raises:
        ArgumentError: If s is no spectrum, is zero or has one value; or on a bad window or floor.

    >>> gap = largest_gap([9.0, 8.0, 0.4, 0.3])
    >>> int(gap.dimension), round(float(gap.ratio))
    (2, 20)
    """
    relative = _relative(s)
    k = relative.shape[-1]
    if k < 2:
        raise ArgumentError("one singular value has no gap; compute two or more")
    if window is not None and (not isinstance(window, tuple | list) or len(window) != 2):
        raise ArgumentError(f"window={window!r} must be (smallest, largest) d")
    low, high = window if window is not None else (1, k - 1)
    low = whole_number("window[0]", low, 1, k - 1, "k - 1")
    high = whole_number("window[1]", high, low, k - 1, "k - 1")
    logs = relative.clamp_min(_floor(s, floor)).log()
    drops = (logs[..., :-1] - logs[..., 1:])[..., low - 1 : high]
    largest, index = drops.max(dim=-1)
    return Gap(torch.where(largest > 0, index + low, 0), largest.exp())


def participation_ratio(s: Spectra, *, fro2: float | Array | None = None) -> Tensor:
    """Return (Σs²)² / Σs⁴ of each spectrum, float64: d for d equal values and zeros.

    This assumes that directions matter by their energy, so a few large values hide many small ones.
    Scaling changes nothing. From the top k alone it is a lower bound of the whole spectrum's. If
    the rest has the energy r = 1 − Σ_k p, no value of it exceeds p_k, and 1 / (Σ_k p² + r p_k) is a
    better lower bound.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`.
        fro2: ‖J‖²_F, one number or one for each photo; None: the values are all there are.

    Raises:
        ArgumentError: If s is no spectrum or is zero; if fro2 does not belong to it.

    >>> participation_ratio([2.0, 2.0, 2.0, 0.0]), participation_ratio([2.0, 2.0], fro2=16)
    (tensor(3., dtype=torch.float64), tensor(4., dtype=torch.float64))
    """
    p, rest = _shares(s, fro2)
    return 1 / ((p**2).sum(-1) + rest * p[..., -1])


def entropy_dimension(s: Spectra, *, fro2: float | Array | None = None) -> Tensor:
    """Return exp(−Σ p log p), p = s²/Σs², of each spectrum, float64: d for d equal values.

    It is also called the effective rank. It assumes what the participation ratio assumes, and gives
    small values more weight. Scaling changes nothing. From the top k alone it is a lower bound of
    the whole spectrum's. If the rest has the energy r = 1 − Σ_k p, no value of it exceeds p_k, and
    exp(−Σ_k p log p − r log p_k) is a better lower bound.

    The effective rank of O. Roy and M. Vetterli (EUSIPCO 2007), with p ∝ s, is another number, and
    at least as large.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`.
        fro2: ‖J‖²_F, one number or one for each photo; None: the values are all there are.

    Raises:
        ArgumentError: If s is no spectrum or is zero; if fro2 does not belong to it.

    >>> round(float(entropy_dimension([5.0, 5.0, 0.0])), 6)
    2.0
    """
    p, rest = _shares(s, fro2)
    return (-torch.xlogy(p, p).sum(-1) - torch.xlogy(rest, p[..., -1])).exp()


def stable_rank(s: Spectra, *, fro2: float | Array | None = None) -> Tensor:
    """Return ‖J‖²_F / ‖J‖₂² = Σs² / s₁² of each spectrum, float64.

    It assumes nothing, and says little about a spectrum with one value far above the others.
    Scaling changes nothing. From the top k alone it is a lower bound; with fro2 it is that of the
    whole spectrum.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`.
        fro2: ‖J‖²_F, one number or one for each photo; None: the values are all there are.

    Raises:
        ArgumentError: If s is no spectrum or is zero; if fro2 does not belong to it.

    >>> stable_rank([2.0, 1.0, 1.0]), stable_rank([2.0, 1.0], fro2=8)
    (tensor(1.5000, dtype=torch.float64), tensor(2., dtype=torch.float64))
    """
    p, _ = _shares(s, fro2)
    return 1 / p[..., 0]


@dataclass(frozen=True, eq=False)
class Dimensions(ComparedByFields):
    """All estimates for each spectrum: () tensors for one, (photos,) for several."""

    count: Tensor
    """Number of values ≥ threshold."""
    count_cut: Tensor
    """bool: all k values count, so there may be more beyond k."""
    gap: Tensor
    """d of the largest gap; 0 if there is none."""
    gap_ratio: Tensor
    """s_d / s_{d+1} at that d."""
    participation: Tensor
    """(Σs²)² / Σs⁴."""
    entropy: Tensor
    """exp of the entropy of s²/Σs²."""
    stable_rank: Tensor
    """Σs² / s₁²."""
    energy: Tensor | None
    """Σ_k s² / ‖J‖²_F, at most 1; None without fro2. Below 1, participation and entropy are lower
    bounds."""


def dimensions(
    s: Spectra,
    *,
    threshold: float = 1.0,
    window: tuple[int, int] | None = None,
    floor: float | None = None,
    fro2: float | Array | None = None,
) -> Dimensions:
    """Return every estimate of the dimension; see the functions above for what each assumes.

    Args:
        s: Descending values (k,) or (photos, k), or a result of `svds`; k ≥ 2.
        threshold: See `count_above`.
        window: See `largest_gap`.
        floor: See `largest_gap`.
        fro2: ‖J‖²_F, one number or one for each photo; None: the values are all there are.

    Raises:
        ArgumentError: If one of the functions above raises it.

    >>> found = dimensions([[3.0, 3.0, 0.001], [2.0, 2.0, 2.0]])
    >>> found.count, found.count_cut, found.gap
    (tensor([2, 3]), tensor([False,  True]), tensor([2, 0]))
    """
    count = count_above(s, threshold)
    gap = largest_gap(s, window=window, floor=floor)
    energy = None if fro2 is None else (1 - _shares(s, fro2)[1]).clamp(0, 1)
    return Dimensions(
        count=count,
        count_cut=count == _values(s).shape[-1],
        gap=gap.dimension,
        gap_ratio=gap.ratio,
        participation=participation_ratio(s, fro2=fro2),
        entropy=entropy_dimension(s, fro2=fro2),
        stable_rank=stable_rank(s, fro2=fro2),
        energy=energy,
    )


def real_tensor(name: str, values: Any) -> Tensor:
    """Return an array or tensor as a finite real floating tensor; whole numbers become float64.

    Raises:
        ArgumentError: If it is not made of real numbers, is sparse, is empty, or holds NaN or
            infinity.

    >>> real_tensor("s", [2, 1])
    tensor([2., 1.], dtype=torch.float64)
    """
    is_tensor = isinstance(values, Tensor)
    tensor = dense_tensor(name, values).detach() if is_tensor else _from_array(name, values)
    if tensor.is_meta:
        raise ArgumentError(f"{name} is on the meta device, which holds no numbers; load it first")
    narrow = tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < _LEAST_BITS
    if tensor.is_complex() or tensor.dtype == torch.bool or narrow:
        raise ArgumentError(f"{name} has dtype {tensor.dtype}; give real numbers")
    if tensor.numel() == 0:
        raise ArgumentError(f"{name} is empty, of shape {tuple(tensor.shape)}; give numbers")
    tensor = tensor if tensor.is_floating_point() else tensor.double()
    finite = tensor.isfinite()
    if not finite.all():
        where = _index(~finite) if tensor.ndim else ""
        value = float(tensor[~finite][0])
        raise ArgumentError(f"{name}{where} is {value}; give finite numbers only")
    return tensor


def symmetric_matrix(name: str, matrix: Any, of: str, least: int = 1) -> Tensor:
    """Return a matrix over pairs as a float64 tensor on the CPU.

    Args:
        name: What the message calls it.
        matrix: An array or a tensor.
        of: What there is a row for each of, in the plural.
        least: Fewest rows.

    Raises:
        ArgumentError: If it is not square, too small or not symmetric, or where `real_tensor` does.

    >>> symmetric_matrix("distances", [[0, 2], [3, 0]], "classes")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: distances is not symmetric; give one value for each pair of classes
    """
    values = real_tensor(name, matrix).double().cpu()
    square = values.ndim == 2 and values.shape[0] == values.shape[1]
    if not square or len(values) < least:
        some = f"{least} or more {of}" if least > 1 else of
        raise ArgumentError(f"{name} has shape {tuple(values.shape)}; give (P, P) over {some}")
    relative = values / power_of_two(values)
    if float((relative - relative.mT).abs().max()) > 1e-6 * float(relative.abs().max()):
        raise ArgumentError(f"{name} is not symmetric; give one value for each pair of {of}")
    return values


def _values(s: Spectra) -> Tensor:
    """Return s as float64, after checking that it is one descending spectrum or several."""
    values = real_tensor("s", values_of(s)).double()
    if values.ndim not in (1, 2):
        raise ArgumentError(
            f"s has shape {tuple(values.shape)}; give one spectrum (k,) or several (photos, k)"
        )
    if (values < 0).any():
        index = _index(values < 0)
        raise ArgumentError(f"s{index} is negative; singular values are not")
    rising = values[..., 1:] > values[..., :-1]
    if rising.any():
        index = _index(rising)
        raise ArgumentError(f"s rises after s{index}; give singular values in descending order")
    return values


def _relative(s: Spectra) -> Tensor:
    """Return s / s₁, so that no power of it leaves the range of float64."""
    values = _values(s)
    if (values[..., 0] == 0).any():
        where = f" of photo {int((values[..., 0] == 0).nonzero()[0])}" if values.ndim == 2 else ""
        raise ArgumentError(f"all singular values{where} are 0; leave out what has no dimension")
    return values / values[..., :1]


def _shares(s: Spectra, fro2: float | Array | None) -> tuple[Tensor, Tensor]:
    """Return the shares p of ‖J‖²_F and the share of the rest, 0 if s_k = 0."""
    squares = _relative(s) ** 2
    held = squares.sum(-1)
    total = held
    if fro2 is not None:
        given = real_tensor("fro2", fro2).double().to(held.device)
        if given.ndim and given.shape != held.shape:
            raise ArgumentError(
                f"fro2 has shape {tuple(given.shape)}; give one number, or one for each photo"
            )
        top = _values(s)[..., 0]
        whole = given / top / top
        if whole.isinf().any():
            raise ArgumentError(
                "fro2 is far above the sum of s**2; give the squared Frobenius norm of the matrix"
            )
        if (whole < LEAST_ENERGY * held).any():
            raise ArgumentError(
                "fro2 is far below the sum of s**2; give the squared Frobenius norm of the matrix"
            )
        # An estimate of ‖J‖²_F may be too small. After a value of 0, all others are 0.
        total = torch.where(squares[..., -1] > 0, torch.maximum(whole, held), held)
    return squares / total[..., None], (total - held) / total


def _floor(s: Spectra, floor: float | None) -> float:
    if floor is None:
        if isinstance(s, SVDResult):
            return s.tol
        if all_results(s):
            return max(float(one.tol) for one in s)
        return float(torch.finfo(real_tensor("s", s).dtype).eps)
    return proper_fraction("floor", floor)


def _index(wrong: Tensor) -> str:
    return f"[{', '.join(str(int(i)) for i in wrong.nonzero()[0])}]"


def _from_array(name: str, values: Any) -> Tensor:
    if np.ma.is_masked(values):
        raise ArgumentError(f"{name} has masked entries; fill them, or leave them out")
    if all_results(values):
        raise ArgumentError(f"{name} is {count_noun(len(values), 'result')}; give one of them")
    try:
        # A copy, because torch refuses negative strides and warns of read-only memory.
        array = np.array(values, order="C")
        if array.dtype == object:  # torch would list its dtypes
            raise ArgumentError(f"{name} is {shown(values)}; give numbers, as a tensor or an array")
        return torch.from_numpy(array)
    except ArgumentError:
        raise
    # torch raises RuntimeError for a list of tensors with gradients.
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} is no array of real numbers: {error}") from None
