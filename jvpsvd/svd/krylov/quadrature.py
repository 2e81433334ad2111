"""What the random start of a solve says about all singular values.

The columns of the starting block of Golub–Kahan are uniformly random unit vectors v, so v' f(A'A) v
has the mean of f(σ²) over all n singular values as its expectation. With A V = U B and B = X S Y',
the rows of Y that belong to v give the Gauss rule Σ y_j² f(s_j²) for v' f(A'A) v (block stochastic
Lanczos quadrature). A' U = V B' + F R adds what the Gauss–Radau rules need, which have a node at a
prescribed point.

Sources: Golub & Meurant, Matrices, Moments and Quadrature (2010); Ubaru, Chen & Saad (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jvpsvd.svd.kernels.dense import dense_svd

# `GaussRule.below` integrates along a line in the complex plane by the trapezoidal rule in the
# logarithm of the height. With this step its error is below `QUADRATURE_ERROR` of the mass, as
# tests/svd/krylov/test_quadrature.py holds; heights outside of the range enter by their limits. The
# lowest height is the first number times x = τ², or the second times the distance of the nearest
# node from x, if that is less: limits are those of points far from all nodes.
_STEP, _LOWEST, _OF_GAP, _HIGHEST = 0.6, 1e-5, 0.01, 1e3
QUADRATURE_ERROR = 1e-6
# Thresholds that are evaluated at once. It bounds temporary tensors: a guess.
_AT_ONCE = 8
# A threshold is kept this far from a node, relative to it: the rules have limits there.
_NEAR = 1e-7
# Thresholds below and above these multiples of the largest node stand for them: their squares, and
# squares of these, must neither underflow nor overflow.
_LEAST, _MOST = 1e-15, 1e15


@dataclass(frozen=True)
class AllValues:
    """All n singular values of the operator."""

    values: Tensor
    """(n,) descending, float64."""


@dataclass(frozen=True)
class Recurrences:
    """C factorisations A V = U B, A' U = V B' + F R, each from a random orthonormal block."""

    B: Tensor
    """(C, s, s) float64."""
    R: Tensor
    """(C, w, s) float64."""
    width: int
    """Columns b of a starting block."""
    steps: int
    """Blocks by which each was expanded."""


@dataclass(frozen=True)
class NoSample:
    """A solve that says nothing of values beyond its own."""

    reason: str


SpectralSample = AllValues | Recurrences | NoSample


@dataclass(frozen=True)
class GaussRule:
    """The Gauss rules of `Recurrences`, in the basis of Ritz vectors; the nodes are s²."""

    nodes: Tensor
    """(C, s) Ritz values, descending, float64."""
    starts: Tensor
    """(C, b, s) coordinates of the starting vectors along the right Ritz vectors."""
    couplings: Tensor
    """(C, w, s) coordinates of A' u − s v along F, of each Ritz pair."""

    @property
    def weights(self) -> Tensor:
        """(C, s) weights of the nodes, summed over the starting vectors of a block."""
        weights: Tensor = (self.starts**2).sum(-2)
        return weights

    @property
    def estimates(self) -> Tensor:
        """(C, s) norms of A' u − s v."""
        norms: Tensor = torch.linalg.vector_norm(self.couplings, dim=-2)
        return norms

    def without_leading(self, count: int) -> GaussRule:
        """Return the rule for the complement of the leading Ritz vectors, which have converged."""
        keep = slice(count, None)
        return replace(
            self,
            nodes=self.nodes[:, keep],
            starts=self.starts[..., keep],
            couplings=self.couplings[..., keep],
        )

    def with_node_at_zero(self) -> tuple[Tensor, Tensor]:
        """Return the nodes and weights (C, s + w) of the Gauss–Radau rule with w nodes at 0.

        Its nodes are the squared singular values of [B R'], because U'A A'U = [B R'] [B R']'.
        """
        count, size = self.nodes.shape
        extended = torch.cat([torch.diag_embed(self.nodes), self.couplings.mT], dim=-1)
        _, s, Yh = torch.linalg.svd(extended)
        nodes = torch.cat([s, s.new_zeros(count, extended.shape[-1] - size)], dim=-1)
        return nodes, ((self.starts @ Yh[..., :size].mT) ** 2).sum(-2)

    def largest_mass_at(self, threshold: float) -> float:
        """Return the largest mass at τ of measures with the moments of the sample, summed over C.

        It is 1 / Σ q_j(τ²)², q_j the orthonormal polynomials of the moments. Above all nodes it
        decreases in τ.
        """
        scale = float(self.nodes.max())
        x = min(max(threshold / scale, _LEAST), _MOST) ** 2
        gap = (self.nodes / scale) ** 2 - x
        gap = torch.where(gap.abs() < _NEAR * x, _NEAR * x, gap)
        coupling = self.couplings * self.nodes[:, None] / scale**2
        return float(_mass_at(self.starts, coupling / gap[..., None, :]).sum())

    def below(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds (t,) of the sampled mass of values below thresholds τ (t,), summed over C.

        All measures with the moments of the sample have at least `low` below τ and at most `high`
        up to τ. This is the Chebyshev–Markov–Stieltjes inequality: the measure with a node of the
        largest mass Λ at τ² attains both, and high − low is the trace of Λ. (For blocks it holds
        for the trace, not for single columns.) The mean of the two comes from an integral along the
        line x + iy, x = τ²: for that measure, ∫ Re tr m(x + iy) dy over y > 0 is π/2 times the mass
        above x less the mass below, where m is the resolvent's block of the starting vectors.
        """
        parts = [self._below(part) for part in torch.split(thresholds, _AT_ONCE)]
        low, high = (torch.cat(bound) for bound in zip(*parts, strict=True))
        return low, high

    def _below(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        scale = float(self.nodes.max())
        if scale == 0:
            whole = self.weights.sum()
            below = torch.where(thresholds > 0, whole, 0.0)
            return below, below
        # Dimensions: blocks C, thresholds t, heights y, then rows and nodes.
        x = (thresholds / scale).clamp(_LEAST, _MOST) ** 2
        x, nodes = x[:, None], (self.nodes / scale)[:, None] ** 2
        starts = self.starts[:, None]
        coupling = (self.couplings * self.nodes[:, None] / scale**2)[:, None]
        gap = nodes - x
        gap = torch.where(gap.abs() < _NEAR * x, _NEAR * x, gap)
        near = coupling / gap[..., None, :]  # g (Θ − x)⁻¹
        identity = torch.eye(coupling.shape[-2], dtype=gap.dtype)
        mass = _mass_at(starts, near)

        nearest = gap.abs().amin(-1).amin(0)
        first = torch.log(torch.minimum(_LOWEST * x[:, 0], _OF_GAP * nearest))
        last = math.log(_HIGHEST) + torch.log(x[:, 0].clamp_min(1))
        heights = math.ceil(float((last - first).max()) / _STEP) + 1
        y = torch.exp(first[:, None] + _STEP * torch.arange(heights))[..., None]  # (t, y, 1)
        wide, dual = gap[..., None, :], coupling[:, 0]
        squares = wide**2 + y**2
        # Real and imaginary part of (Θ − x − iy)⁻¹, of shape (2, C, t, y, nodes).
        resolvent = torch.stack([wide / squares, (y / squares).expand_as(squares)])
        Z = _sum_over_nodes(self.starts, dual, resolvent)
        inner = _sum_over_nodes(dual, dual, resolvent / wide) + identity
        through = (Z * torch.linalg.solve(inner, Z.mT).mT).sum((-2, -1)) / (-1j * y[..., 0])
        weights = self.weights[:, None, None]
        values = y[..., 0] * ((weights * resolvent[0]).sum(-1) + through.real)
        # Beyond the first and the last height, values are geometric in the number of steps.
        tails = (values[..., 0] + values[..., -1]) / math.expm1(_STEP)
        difference = (2 / math.pi) * _STEP * (values.sum(-1) + tails)
        total, error = self.weights.sum(), QUADRATURE_ERROR * self.weights.sum()
        middle, half = (total - difference.sum(0)) / 2, mass.sum(0) / 2 + error
        return middle - half, middle + half


def _mass_at(starts: Tensor, near: Tensor) -> Tensor:
    """Return the trace of the mass at x, of g (Θ − x)⁻¹ with g the couplings."""
    Z = starts @ near.mT
    identity = torch.eye(near.shape[-2], dtype=near.dtype)
    mass: Tensor = (Z * torch.linalg.solve(near @ near.mT + identity, Z.mT).mT).sum((-2, -1))
    return mass


def _sum_over_nodes(left: Tensor, right: Tensor, factors: Tensor) -> Tensor:
    """Return Σ_j left[a, j] right[b, j] factors[t, y, j], as complex (C, t, y, a, b).

    As a product of matrices: terms of the sum, a large tensor, are not formed.

    Args:
        left: (C, a, nodes).
        right: (C, b, nodes).
        factors: (2, C, t, y, nodes) real and imaginary parts.
    """
    pairs = (left[:, :, None] * right[:, None]).flatten(1, 2)
    real, imaginary = factors.flatten(2, 3) @ pairs.mT
    shape = (*factors.shape[1:4], left.shape[1], right.shape[1])
    return torch.complex(real, imaginary).reshape(shape)


def gauss_rule(sample: Recurrences) -> GaussRule:
    """Return the Gauss rules of recurrences.

    >>> B, R = torch.tensor([[[2.0]]], dtype=torch.float64), torch.zeros(1, 0, 1)
    >>> gauss_rule(Recurrences(B, R, 1, 1)).weights
    tensor([[1.]], dtype=torch.float64)
    """
    X, s, Yh = dense_svd(sample.B)
    return GaussRule(s, Yh[..., : sample.width].mT, sample.R @ X)
