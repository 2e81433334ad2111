"""A network set up to be asked for its spectra: one primal per photo, many depths."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from jvpsvd.data import Sample, decode_photo
from jvpsvd.errors import JvpsvdError, NonFiniteError, PhotoError, ShardError, TraceError
from jvpsvd.networks import Model, layer_maps
from jvpsvd.operators import JacobianOperator, LinearMap, Trace, by_transforms, full_precision
from jvpsvd.survey.rows import Row, failure, row_of
from jvpsvd.survey.spec import Spec
from jvpsvd.svd import Progress, SVDResult, svds

logger = logging.getLogger(__name__)

Report = Callable[[int, Progress | None], None]
"""Called with the index of the depth at work and how far its solve is."""


class Instrument:
    """A model at the depths of a spec, its derivatives recorded once and reused at every photo.

    Args:
        model: The network; moved to the device.
        spec: Depths, k, tol, seed.
        device: Where products are taken.
        memory: Budget of one solve, as `svds` takes it.
    """

    def __init__(
        self, model: Model, spec: Spec, *, device: str = "cpu", memory: int | str | None = None
    ) -> None:
        self._spec = spec
        self._device = torch.device(device)
        self._memory = memory
        self._photo_input = model.photo_input
        module = model.module.to(self._device)
        example = torch.zeros(model.photo_input.shape, device=self._device)
        self._maps = layer_maps(module, example, spec.layers)
        self._trace: Trace | None = None
        self._may_trace = True

    def observe(
        self, sample: Sample, photo: bytes | None, report: Report = lambda depth, look: None
    ) -> tuple[list[Row], list[SVDResult | None]]:
        """Return one row per depth, and the results behind those that have values.

        What is wrong with a sample becomes rows that say so; nothing is raised for it.
        """
        spec = self._spec
        try:
            derivatives = self._derivatives(sample, photo)
        except Exception as error:  # whatever a photo or the user's network raises
            status, message = _reason(error, sample)
            return [failure(sample, layer, spec.k, status, message) for layer in spec.layers], []
        rows: list[Row] = []
        results: list[SVDResult | None] = []
        for depth, (layer, derivative) in enumerate(zip(spec.layers, derivatives, strict=True)):
            report(depth, None)
            try:
                result = svds(
                    JacobianOperator.from_linear_map(derivative),
                    spec.k,
                    tol=spec.tol,
                    seed=spec.seed,
                    memory=self._memory,
                    vectors=spec.vectors,
                    on_unconverged="ignore",
                    progress=lambda look, depth=depth: report(depth, look),  # type: ignore[misc]
                )
            except Exception as error:
                status, message = _reason(error, sample)
                rows.append(failure(sample, layer, spec.k, status, message))
                results.append(None)
            else:
                rows.append(row_of(sample, layer, result))
                results.append(result if rows[-1].status == "ok" else None)
        return rows, results

    def _derivatives(self, sample: Sample, photo: bytes | None) -> tuple[LinearMap, ...]:
        if sample.problem:
            raise PhotoError(sample.message)
        if photo is None:
            raise ShardError("the shard did not deliver this sample as the manifest lists it")
        x = decode_photo(photo, self._photo_input).to(self._device)
        if self._may_trace:
            try:
                with full_precision():
                    if self._trace is None:
                        self._trace = Trace(self._maps, x)
                    return self._trace.at(x)
            except TraceError as error:
                if self._trace is None:
                    self._may_trace = False
                    logger.warning("%s; using vmap(jvp) and vmap(vjp) instead", error)
                else:
                    logger.warning("%s: %s; using vmap(jvp) and vmap(vjp)", sample.key, error)
        return tuple(
            by_transforms(lambda z, i=i: self._maps(z)[i], x)  # type: ignore[misc]
            for i in range(len(self._spec.layers))
        )


def _reason(error: Exception, sample: Sample) -> tuple[str, str]:
    """Return the kind of a failure and the failure in words."""
    if sample.problem:
        return sample.problem, str(error)
    if isinstance(error, PhotoError):
        return "bad-photo", str(error)
    if isinstance(error, ShardError):
        return "undelivered", str(error)
    if isinstance(error, NonFiniteError):
        return "non-finite", str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory", f"{type(error).__name__}: {error}"
    if isinstance(error, JvpsvdError):
        return "refused", str(error)
    return "error", f"{type(error).__name__}: {error}"
