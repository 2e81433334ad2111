"""The result of `svds`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError, DataError
from jvpsvd.operators import LinearOperator, Products
from jvpsvd.operators.blocks import by, device_of
from jvpsvd.operators.linear_map_operator import LinearMapOperator
from jvpsvd.operators.linear_operator import TransposedOperator
from jvpsvd.plot.solved import plot_spectra
from jvpsvd.records import AnswersOtherNames, ComparedByFields
from jvpsvd.svd.certificate import Certificate, restrict_certificates
from jvpsvd.svd.kernels.random_numbers import Seeds
from jvpsvd.svd.krylov.quadrature import NoSample, SpectralSample
from jvpsvd.svd.monitor import Phase
from jvpsvd.svd.other_names import RESULT_NAMES
from jvpsvd.svd.plan import Plan
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.request import Which
from jvpsvd.svd.result_bounds import Bounded
from jvpsvd.svd.result_fields import CLASSES
from jvpsvd.svd.slicing import refuse_length, refuse_membership, triplets_meant
from jvpsvd.svd.spectrum import Spectrum
from jvpsvd.svd.storage import read_record, write_record
from jvpsvd.svd.whole_spectrum import whole_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND = "SVDResult 1"


class SVDArrays(NamedTuple):
    """U, s and Vh as NumPy arrays."""

    U: np.ndarray[Any, np.dtype[Any]] | None
    s: np.ndarray[Any, np.dtype[Any]]
    Vh: np.ndarray[Any, np.dtype[Any]] | None


@dataclass(frozen=True, eq=False, repr=False)
class SVDResult(ComparedByFields, AnswersOtherNames, Bounded):
    """The k leading singular triplets J ≈ U diag(s) Vh, with residuals and certificate.

    ``U, s, Vh = result`` unpacks it as `torch.linalg.svd` does. For a batch every tensor has a
    leading dimension, and `result.of(i)` is the result of matrix i. ``result[:10]`` holds the first
    ten triplets. ``for u, s, v in zip(U.mT, s, Vh)`` walks through triplets.

    Attributes:
        U: (m, k) left vectors; None with vectors=False.
        s: (k,) singular values, descending.
        Vh: (k, n) right vectors as rows; None with vectors=False.
        residuals: (k,) measured max(|J v − s u|, |J' u − s v|), in the units of s.
        converged: (k,) bool: residual ≤ tol · s[0], sound certificate, and no missing value can
            displace it.
        products: Forward and reverse products taken, including those of the certificate; for a
            batch, in all.
        method: The method that ran: "golub-kahan" or "exact"; for method="randomized"
            "block-krylov" or "subspace-iteration", and with energy= or tail= "adaptive-rank".
        seconds: Wall time.
        seconds_by_phase: Wall time of "products", "orthogonalisation", "projected problem",
            "vectors" and "checks" (those of the certificate). Planning, with the products that it
            times, is not among them. On a GPU work that is still running when a phase ends counts
            for the next one.
        history: The `Progress` of every convergence check; for a batch, over all matrices.
        certificates: One certificate for each matrix of a batch; one if there is no batch.
        plan: The plan, whose prediction can be compared with `products` and `seconds`.
        tol: The tolerance of the request.
        shape: (m, n) of the operator; (B, m, n) of a batch.
        seed: Seed of all random numbers, with which the solve can be repeated; those of each matrix
            of a batch if they were given.
        which: "largest" or "smallest" values.
        precision: The name of the lowest dtype that products were computed in, such as "float32",
            where the function casts to it inside; None where that is the dtype of s.
        samples: What the solve left for the whole spectrum, for each matrix of a batch; `spectrum`
            reads it.

    >>> import jvpsvd
    >>> result = jvpsvd.svds(torch.diag(torch.tensor([5.0, 3.0, 1.0])), 2)
    >>> U, s, Vh = result
    >>> torch.allclose(U @ torch.diag(s) @ Vh, torch.diag(torch.tensor([5.0, 3.0, 0.0])))
    True
    >>> print(result)  # doctest: +ELLIPSIS
    2 largest singular triplets of a 3 x 3 operator, float32 on cpu
    s from 5 to 3, 97.1 % of the energy, worst residual ...
    certified: 2 of 2 converged to 1e-05 s1, none missing
    exact: 5 + 2 products in ... s
    """

    U: Tensor | None
    s: Tensor
    Vh: Tensor | None
    residuals: Tensor
    converged: Tensor
    products: Products
    method: str
    seconds: float
    seconds_by_phase: dict[Phase, float]
    history: tuple[Progress, ...]
    certificates: tuple[Certificate, ...]
    plan: Plan
    tol: float
    shape: tuple[int, ...]
    seed: Seeds
    which: Which = "largest"
    samples: tuple[SpectralSample, ...] = ()
    precision: str | None = None

    _other_names = RESULT_NAMES

    def __iter__(self) -> Iterator[Any]:
        """Yield U, s and Vh; with vectors=False the first and the last are None."""
        return iter((self.U, self.s, self.Vh))

    def __len__(self) -> int:
        refuse_length(self.k, None if self.s.ndim == 1 else self.s.shape[0])

    def __bool__(self) -> bool:
        return True

    def __contains__(self, value: object) -> bool:
        refuse_membership()

    def __getitem__(self, key: Any) -> SVDResult:
        """Return the leading triplets, as `result[:10]`; for a batch, as `result[..., :10]`.

        Of the smallest values, and of all, the last ones can be had too: `result[-10:]`. Tensors
        share the memory of this result. Values, residuals, `guaranteed` and `energy_share` are
        those of the part. All else is that of the solve, which nothing divides among triplets:
        products, seconds, history and plan, and what the certificate measured with all triplets
        together (`sound`, `complete`, `orthonormality`, `defined_to`, `epsilon`).

        Raises:
            OperandError: If these are other triplets, or it could mean something else; the message
                says what to write.

        >>> import jvpsvd
        >>> result = jvpsvd.svds(torch.diag(torch.tensor([5.0, 3.0, 1.0])))
        >>> result[:2].s, result[-1:].s
        (tensor([5., 3.]), tensor([1.]))
        >>> result[0]
        Traceback (most recent call last):
        jvpsvd.errors.OperandError: result[0] could mean a triplet or one of U, s and Vh; ...
        """
        part, which = triplets_meant(key, self.k, self.shape, self.which)
        s = self.s[..., part]
        return dataclasses.replace(
            self,
            U=None if self.U is None else self.U[..., part],
            s=s,
            Vh=None if self.Vh is None else self.Vh[..., part, :],
            residuals=self.residuals[..., part],
            converged=self.converged[..., part],
            certificates=restrict_certificates(self.certificates, s, part.start),
            which=which,
        )

    def numpy(self) -> SVDArrays:
        """Return U, s and Vh as NumPy arrays, copied only if they lie on a GPU.

        >>> import jvpsvd
        >>> jvpsvd.svds(torch.eye(2), 1, vectors=False).numpy()
        SVDArrays(U=None, s=array([1.], dtype=float32), Vh=None)
        """
        U, Vh = (None if one is None else one.numpy(force=True) for one in (self.U, self.Vh))
        return SVDArrays(U, self.s.numpy(force=True), Vh)

    def to(self, *targets: torch.device | str | torch.dtype) -> SVDResult:
        """Return the result with its tensors on a device, in a dtype, or both.

        Rounding to another dtype does not change residuals and certificate, which are those of the
        solve.

        Raises:
            ArgumentError: If a target is no device of this machine and no real floating dtype, or
                a dtype that cannot hold the values.

        >>> import jvpsvd
        >>> jvpsvd.svds(torch.eye(2), 1).to(torch.float64).s
        tensor([1.], dtype=torch.float64)
        """
        moved: dict[str, Any] = {k: v for k, v in self._record().items() if isinstance(v, Tensor)}
        for target in targets:
            if isinstance(target, torch.dtype):
                if not target.is_floating_point:
                    raise ArgumentError(f"dtype={target} is not real floating; give torch.float64")
                moved = {k: v.to(target) if v.is_floating_point() else v for k, v in moved.items()}
                _refuse_lost(self.s[..., 0].reshape(-1), target)
            elif isinstance(target, str | torch.device):
                if isinstance(target, str) and isinstance(
                    getattr(torch, target, None), torch.dtype
                ):
                    raise ArgumentError(f"a dtype is no text; give torch.{target}")
                device = device_of(target)
                moved = {k: v.to(device) for k, v in moved.items()}
            else:
                raise ArgumentError(
                    f"cannot bring a result to {shown(target)}; give a device or dtype"
                )
        return dataclasses.replace(self, **moved)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a safetensors file, which `jvpsvd.load` reads.

        It holds U, s, Vh, residuals and converged as tensors. All other fields stand in its
        metadata, each as JSON under its own name. The file is written whole or not at all; a file
        of that name is replaced.

        Raises:
            DataError: If it cannot be written.

        >>> import jvpsvd, tempfile, pathlib
        >>> result = jvpsvd.svds(torch.eye(3), 2)
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "eye.safetensors"
        >>> result.save(file)
        >>> jvpsvd.load(file) == result
        True
        """
        write_record(path, _KIND, self._record())

    def right(self, J: LinearOperator) -> Any:
        """Return the right vectors as inputs of J: something like x with a dimension k in front.

        Where x is a dict or a tuple of tensors, so is the result. For a batch, B comes before k.

        Args:
            J: The `JacobianOperator` that was solved, or its transpose.

        Raises:
            ArgumentError: If J is no such operator or of another shape, or there are no vectors.

        >>> import jvpsvd
        >>> J = jvpsvd.JacobianOperator(lambda x: x.sum(0), torch.ones(2, 3))
        >>> result = jvpsvd.svds(J, 3)
        >>> result.right(J).shape, result.left(J).shape
        (torch.Size([3, 2, 3]), torch.Size([3, 3]))
        """
        return self._give_shape(J, "right")

    def left(self, J: LinearOperator) -> Any:
        """Return the left vectors as values of J: something like f(x) with a dimension k in front.

        See `right`.

        Raises:
            ArgumentError: If J is no such operator or of another shape, or there are no vectors.
        """
        return self._give_shape(J, "left")

    def _give_shape(self, J: LinearOperator, side: Literal["right", "left"]) -> Any:
        transposed = isinstance(J, TransposedOperator)
        jacobian = J.T if isinstance(J, TransposedOperator) else J
        if not isinstance(jacobian, LinearMapOperator):
            raise ArgumentError(f"{side} takes a JacobianOperator or its transpose, not {shown(J)}")
        if J.shape != self.shape:
            raise ArgumentError(
                f"J is {by(J.shape)} and the result of {by(self.shape)}; give what was solved"
            )
        if self.U is None or self.Vh is None:
            raise ArgumentError("this result has no vectors; solve with vectors=True")
        block = self.Vh.mT if side == "right" else self.U
        is_input = (side == "right") != transposed
        return jacobian.as_input(block) if is_input else jacobian.as_output(block)

    def plot(self, ax: Axes | None = None, **line: Any) -> Axes:
        """Draw s by index on a logarithmic axis, with a band of ± residual; return the axes.

        Values that are not certified are crosses. The spectra of a batch lie over each other.

        Args:
            ax: Where to draw, of matplotlib; None: on a new figure.
            line: Colour, label and whatever else `Axes.plot` takes.

        Raises:
            ArgumentError: If matplotlib is missing, or `ax` is no axes of it.

        Example: ``result.plot(label="layer3").legend()``.
        """
        s, residuals, converged = (
            one.reshape(-1, self.k).numpy(force=True)
            for one in (self.s, self.residuals, self.converged)
        )
        return plot_spectra(s, residuals, converged, self._first, ax, line)

    @cached_property
    def spectrum(self) -> Spectrum:
        """All min(m, n) singular values: counts, dimension and density, with errors.

        The k values are known; the random start of the solve has sampled the others, for no
        further product. A start that was given is no random sample.

        Raises:
            ArgumentError: If this is a batch; take `result.of(i).spectrum`.

        >>> import jvpsvd
        >>> spectrum = jvpsvd.svds(torch.diag(torch.tensor([4.0, 2.0, 1.0])), 1).spectrum
        >>> print(spectrum.schatten(1))
        7, between 6.99999 and 7.00001: all 3 values are known
        """
        if self.s.ndim > 1:
            raise ArgumentError("a batch has a spectrum for each matrix; take result.of(i)")
        if not self.certificate.sound:
            sample: SpectralSample = NoSample("the certificate is not sound")
        elif not self.samples:
            sample = NoSample("no sample was kept")
        else:
            sample = self.samples[0]
        leading = int(self.converged.long().cumprod(0).sum()) if self.which == "largest" else 0
        known = slice(0, leading)
        s, residuals = self.s[known], self.residuals[known]
        return whole_spectrum(sample, s, residuals, min(self.shape), self._precision())

    def _record(self) -> dict[str, Any]:
        """Return all fields by name; vectors that are None are left out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        absent = [name for name in ("U", "Vh") if fields[name] is None]
        return {name: value for name, value in fields.items() if name not in absent}

    def of(self, index: int) -> SVDResult:
        """Return the result of one matrix of a batch; products and seconds are the whole batch's.

        Raises:
            ArgumentError: If this is not a batch, or has no such matrix.
        """
        if not isinstance(index, int | np.integer):
            raise ArgumentError(f"index={shown(index)} must be a whole number")
        if self.s.ndim == 1 or not -self.s.shape[0] <= index < self.s.shape[0]:
            size = "no batch" if self.s.ndim == 1 else f"a batch of {self.s.shape[0]}"
            raise ArgumentError(f"cannot take matrix {index} of {size}")
        return dataclasses.replace(
            self,
            U=None if self.U is None else self.U[index],
            s=self.s[index],
            Vh=None if self.Vh is None else self.Vh[index],
            residuals=self.residuals[index],
            converged=self.converged[index],
            certificates=(self.certificates[index],),
            samples=self.samples[index : index + 1] if self.samples else (),
            seed=self.seed if isinstance(self.seed, int) else self.seed[index],
            shape=self.shape[-2:],
        )

    def dimension(self, threshold: float = 1.0) -> int:
        """Return the number of singular values ≥ threshold (Mototake & Ikegami, section 6).

        Of the k values alone: if it equals k, the true count may be larger. `spectrum.count`
        counts all min(m, n) values.

        Raises:
            ArgumentError: If this is a batch; take `result.of(i).dimension()`. If these are the
                smallest values and not all.
        """
        if self.s.ndim > 1:
            raise ArgumentError("a batch has a dimension for each matrix; take result.of(i)")
        if self.which == "smallest" and self.k < min(self.shape):
            raise ArgumentError('larger values are not here; solve with which="largest"')
        if not isinstance(threshold, int | float | np.integer | np.floating):
            raise ArgumentError(f"threshold={shown(threshold)} must be a number")
        return int((self.s >= threshold).sum())


def load(path: str | os.PathLike[str]) -> SVDResult:
    """Return a result that `SVDResult.save` wrote, on the CPU; it equals the one that was saved.

    Raises:
        DataError: If there is no such file, it is damaged, or holds something else.
    """
    record = read_record(path, _KIND, CLASSES)
    try:
        return SVDResult(**{"U": None, "Vh": None, **record})
    except TypeError as error:
        raise DataError(
            f"{path} is of another version of jvpsvd ({error}); read it with that one"
        ) from error


def _refuse_lost(s: Tensor, dtype: torch.dtype) -> None:
    """Refuse a dtype in which values would be infinite, or 0 where they are not."""
    if s.is_meta:  # no numbers
        return
    there = s.to(dtype)
    lost = s[~(there.isfinite() & ((there > 0) | (s == 0)))]
    if len(lost):
        raise ArgumentError(
            f"{dtype} cannot hold singular values of {float(lost[0]):.1e}; keep {s.dtype}"
        )
