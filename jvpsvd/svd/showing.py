"""What a result looks like: printed, in a list, in a notebook."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from jvpsvd.operators import Products
from jvpsvd.svd.certificate import Certificate
from jvpsvd.svd.html import card, spectrum_figure
from jvpsvd.svd.request import Which
from jvpsvd.text_table import count_noun, fitted_lines

_LINES = 24  # spectra of a batch that a notebook shows


class Shown:
    """A result, as far as it is shown."""

    U: Tensor | None
    s: Tensor
    residuals: Tensor
    converged: Tensor
    products: Products
    method: str
    seconds: float
    certificates: tuple[Certificate, ...]
    tol: float
    shape: tuple[int, ...]
    which: Which
    precision: str | None

    def _precision(self) -> torch.dtype:
        """Return the lowest precision of the products, which is not below that of the values."""
        lowest: torch.dtype = self.s.dtype
        if self.precision is not None:
            named: torch.dtype = getattr(torch, self.precision)
            lowest = max(lowest, named, key=lambda dtype: torch.finfo(dtype).eps)
        return lowest

    @property
    def k(self) -> int:
        """Number of triplets, for each matrix of a batch."""
        return self.s.shape[-1]

    @property
    def below_residual(self) -> Tensor:
        """(k,) bool: values smaller than their own residual.

        No digit of such a value is certain: the true one lies between 0 and s + residual. It may be
        converged all the same, because convergence is relative to s[0].

        >>> import jvpsvd, torch
        >>> rows = torch.linalg.qr(torch.arange(600.0).cos().reshape(300, 2))[0].T
        >>> jvpsvd.svds(torch.tensor([[3.1], [1e-12]]) * rows, 2).below_residual
        tensor([False,  True])
        """
        return self.residuals > self.s

    @property
    def certificate(self) -> Certificate:
        """The certificate; for a batch, the weakest: unsound, incomplete, or least accurate.

        For a batch, its `defined_to` is the largest of all matrices.
        """
        weakest = min(
            self.certificates,
            key=lambda c: (c.sound, c.complete, c.combination_allowed - c.combination_residual),
        )
        defined = [c.defined_to for c in self.certificates if c.defined_to is not None]
        return dataclasses.replace(weakest, defined_to=max(defined, default=None))

    def __str__(self) -> str:
        numbers, defined = self._in_words(), self.certificate.defined_in_words()
        dtype = str(self.s.dtype).removeprefix("torch.")
        lower = "" if self.precision in (None, dtype) else f", products in {self.precision}"
        return fitted_lines(
            f"{self._heading('triplet' if self.U is not None else 'value')}, "
            f"{dtype} on {self.s.device}{lower}\n"
            f"s {numbers['singular values']}, {numbers['energy']} of the energy, "
            f"worst residual {numbers['worst residual']}\n"
            f"{self._mark()}: {numbers['converged']}{'; ' if defined else ''}{defined}\n"
            f"{numbers['method']}"
        )

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        numbers = self._in_words()
        values, done = numbers["singular values"], int(self.converged.sum())
        return (
            f"<SVDResult {size}, k={self.k}: s {values}, {done} of {self.s.numel()} converged, "
            f"{self._mark()}>"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a mark, the numbers, and the spectrum."""
        numbers = self._in_words()
        if defined := self.certificate.defined_in_words():
            numbers["this point"] = defined
        columns = (
            one.reshape(-1, self.k)[:_LINES].tolist()
            for one in (self.s, self.residuals, self.converged)
        )
        spectra = [list(zip(*rows, strict=True)) for rows in zip(*columns, strict=True)]
        rows, certified = list(numbers.items()), bool(self.converged.all())
        return card(
            self._heading("value"),
            self._mark(),
            certified,
            rows,
            spectrum_figure(spectra, self._first),
        )

    @property
    def _first(self) -> int:
        """Index of the first value, counted from 1."""
        return min(self.shape[-2:]) - self.k + 1 if self.which == "smallest" else 1

    def _mark(self) -> str:
        return "certified" if bool(self.converged.all()) else "not certified"

    def _heading(self, what: Literal["triplet", "value"]) -> str:
        *batch, m, n = self.shape
        operator = f"each of {batch[0]} operators, {m} x {n}" if batch else f"a {m} x {n} operator"
        if min(m, n) == 1:
            return f"the only singular {what} of {operator}"
        whole = self.k == min(m, n)
        found = count_noun(self.k, f"singular {what}" if whole else f"{self.which} singular {what}")
        return f"{'all ' if whole else ''}{found} of {operator}"

    def _worst_residual(self) -> str:
        """Return it over s1, as tol is; in the units of s where s1 is not known, or is 0."""
        if self.which == "smallest" or not bool((self.s[..., :1] > 0).all()):
            return f"{float(self.residuals.max()):.1e}"
        return f"{float((self.residuals / self.s[..., :1]).max()):.1e} s1"

    def _in_words(self) -> dict[str, str]:
        """Return the numbers that are shown, by name."""
        total, below = self.s.numel(), int(self.below_residual.sum())
        done, one = int(self.converged.sum()), self.certificate
        lie = "lies below its own" if below == 1 else "lie below theirs"
        noise = f"; {below} of {total} values {lie} (noise)"
        missing = "none missing"
        if not one.sound:
            missing = "NOT SOUND, see result.certificate"
        elif done < total:
            complete = "complete" if one.complete else "not shown complete"
            missing = f"{complete}; see result.certificate"
        return {
            "singular values": f"from {float(self.s.max()):.4g} to {float(self.s.min()):.4g}",
            "energy": one.energy_in_words(),
            "worst residual": f"{self._worst_residual()}{noise if below else ''}",
            "converged": f"{done} of {total} converged to {self.tol:.0e} s1, {missing}",
            "method": f"{self.method}: {self.products.forward} + {self.products.reverse} products "
            f"in {self.seconds:.1f} s",
        }
