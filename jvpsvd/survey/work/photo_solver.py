"""A network set up to be asked for its spectra: one primal per photo, many depths."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jvpsvd.data import Sample, decode_photo
from jvpsvd.errors import (
    DerivativeError,
    JvpsvdError,
    NonFiniteError,
    PhotoError,
    ShardError,
    TraceError,
)
from jvpsvd.networks import Model, layer_maps
from jvpsvd.operators import (
    BatchedMap,
    JacobianOperator,
    LinearMap,
    Trace,
    full_precision,
    tell_difference,
    transformed,
)
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.rows import Row, failure, row_of
from jvpsvd.svd import Progress, SVDResult, svds

logger = logging.getLogger(__name__)

Report = Callable[[int, Progress | None], None]
"""Called with the index of the depth at work and how far its solve is."""

Found = tuple[list[Row], list[SVDResult | None]]
"""A row for each sample and depth, and the results behind those that have values."""


@dataclass(frozen=True)
class Decoded:
    """A task with the input of each of its samples, or the error in its place."""

    task: Task
    inputs: tuple[Tensor | Exception, ...]
    checksums: tuple[str | None, ...]
    """Of the photos; None where there is none."""


class PhotoSolver:
    """A model at the depths of a run, its derivatives recorded once and reused at every photo.

    Args:
        model: The network; copied where it is on another device.
        identity: Depths, k, tol, seed.
        device: Where products are taken.
        memory: Budget of one solve, as `svds` takes it.
    """

    def __init__(
        self,
        model: Model,
        identity: Identity,
        *,
        device: str = "cpu",
        memory: int | str | None = None,
    ) -> None:
        self._identity = identity
        self._device = torch.device(device)
        self._memory = memory
        self._photo_input = model.photo_input
        module = _on_device(model.module, self._device)
        example = torch.zeros(model.photo_input.shape, device=self._device)
        self._maps = layer_maps(module, example, identity.layers)
        self._trace: Trace | None = None
        self._may_trace = True
        self._hidden: dict[int, DerivativeError] | None = None
        """Depths whose derivative lacks a part at the first photo; None before that."""

    def decode(self, task: Task, photos: Sequence[bytes | None]) -> Decoded:
        """Return the inputs of a task; what is wrong with a sample stands in its place."""
        pairs = zip(task.samples, photos, strict=True)
        return Decoded(
            task,
            tuple(self._decoded(sample, photo) for sample, photo in pairs),
            tuple(None if photo is None else checksum_bytes(photo) for photo in photos),
        )

    def solve(self, decoded: Decoded, report: Report = lambda depth, progress: None) -> Found:
        """Return the rows of a task, sample by sample, and the results behind them.

        Samples are solved together where there are several, and one by one where that fails. What
        is wrong with one of them becomes rows that say so; nothing is raised for it. What `report`
        raises ends the task.
        """
        try:
            return self._solve_task(decoded, _telling(report))
        except _ReportError as stop:
            raise stop.error from None

    def _solve_task(self, decoded: Decoded, report: Report) -> Found:
        samples, inputs = decoded.task.samples, decoded.inputs
        depths = range(len(self._identity.layers))
        found: dict[tuple[int, int], tuple[Row, SVDResult | None]] = {}
        points = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor)}
        if len(points) > 1:
            found = self._solve_together(samples, points, report)
        for i, (sample, x) in enumerate(zip(samples, inputs, strict=True)):
            left = [depth for depth in depths if (i, depth) not in found]
            if left:
                found |= {(i, d): one for d, one in self._solve_one(sample, x, left, report)}
        order = [(i, *found[i, depth]) for i in range(len(samples)) for depth in depths]
        rows = [replace(row, photo_checksum=decoded.checksums[i]) for i, row, _ in order]
        return rows, [result for _, _, result in order]

    def _solve_one(
        self, sample: Sample, x: Tensor | Exception, depths: Sequence[int], report: Report
    ) -> list[tuple[int, tuple[Row, SVDResult | None]]]:
        try:
            if isinstance(x, Exception):
                raise x
            x = x.to(self._device)
            derivatives = self._derivatives(sample, x)
            hidden = self._depths_hidden(derivatives)
        except Exception as error:  # whatever a photo or the user's network raises
            return [(depth, self._failed(sample, depth, error)) for depth in depths]
        found: list[tuple[int, tuple[Row, SVDResult | None]]] = []
        for depth in depths:
            report(depth, None)
            derivative = hidden.get(depth, derivatives[depth])
            try:
                if isinstance(derivative, Exception):
                    raise derivative
                result = self._solved(derivative, depth, report)
            except Exception as error:
                found.append((depth, self._failed(sample, depth, error)))
            else:
                found.append((depth, self._row(sample, depth, result, 1)))
        return found

    def _solve_together(
        self, samples: Sequence[Sample], points: dict[int, Tensor], report: Report
    ) -> dict[tuple[int, int], tuple[Row, SVDResult | None]]:
        """Return what batched solves find; what they do not is left to be done one by one."""
        found: dict[tuple[int, int], tuple[Row, SVDResult | None]] = {}
        X = torch.stack(list(points.values())).to(self._device)
        try:
            with full_precision():
                trace = self._traced(X[0])
                derivatives = () if trace is None else trace.at_many(X)
            hidden = self._depths_hidden(derivatives) if derivatives else {}
        except Exception as error:
            logger.warning("%s; samples are solved one by one", _first_line(error))
            return found
        for depth, derivative in enumerate(derivatives):
            if depth in hidden:
                continue
            report(depth, None)
            try:
                result = self._solved(derivative, depth, report)
            except Exception as error:
                logger.warning("%s; samples are solved one by one", _first_line(error))
                continue
            for place, i in enumerate(points):
                one = result.of(place)
                found[i, depth] = self._row(samples[i], depth, one, len(points))
        return found

    def _solved(self, derivative: LinearMap | BatchedMap, depth: int, report: Report) -> SVDResult:
        identity = self._identity
        return svds(
            JacobianOperator.from_linear_map(derivative),
            identity.k,
            tol=identity.tol,
            seed=identity.seed,
            memory=self._memory,
            vectors=identity.vectors,
            on_unconverged="ignore",
            progress=lambda progress: report(depth, progress),
        )

    def _row(
        self, sample: Sample, depth: int, result: SVDResult, together: int
    ) -> tuple[Row, SVDResult | None]:
        """Return the row of a result; time and products of a batch are divided evenly."""
        row = row_of(sample, self._identity.layers[depth], result)
        row = replace(
            row,
            products_forward=row.products_forward // together,
            products_reverse=row.products_reverse // together,
            seconds=row.seconds / together,
        )
        return row, result if row.status == "ok" else None

    def _failed(self, sample: Sample, depth: int, error: Exception) -> tuple[Row, None]:
        status, message = _reason(error, sample)
        identity = self._identity
        return failure(sample, identity.layers[depth], identity.k, status, message), None

    def _decoded(self, sample: Sample, photo: bytes | None) -> Tensor | Exception:
        if sample.problem:
            return PhotoError(sample.message)
        if photo is None:
            return ShardError("the shard did not deliver this sample as the manifest lists it")
        try:
            return decode_photo(photo, self._photo_input)
        except (PhotoError, MemoryError) as error:
            return error

    def _traced(self, x: Tensor) -> Trace | None:
        """Return the recording, made at the first point; None where there can be none."""
        if self._trace is None and self._may_trace:
            try:
                self._trace = Trace(self._maps, x)
            except (TraceError, DerivativeError) as error:
                self._may_trace = False
                logger.warning("%s; each depth is differentiated by itself, slower", error)
        return self._trace

    def _derivatives(self, sample: Sample, x: Tensor) -> tuple[LinearMap | JvpsvdError, ...]:
        """Return the derivative to each depth, or why there is none."""
        with full_precision():
            trace = self._traced(x)
            if trace is not None:
                try:
                    return trace.at(x)
                except (TraceError, DerivativeError) as error:
                    logger.warning("%s: %s; using vmap(jvp) and vmap(vjp)", sample.key, error)
            return tuple(self._transformed(depth, x) for depth in range(len(self._identity.layers)))

    def _transformed(self, depth: int, x: Tensor) -> LinearMap | JvpsvdError:
        try:
            return transformed(lambda z: self._maps(z)[depth], x)
        except JvpsvdError as error:  # of this depth; others may be well
            return error

    def _depths_hidden(
        self, derivatives: Sequence[LinearMap | BatchedMap | JvpsvdError]
    ) -> dict[int, DerivativeError]:
        """Return the depths to refuse; hold products against the network at the first photo."""
        if self._hidden is None:
            self._hidden = {}
            for depth, (name, J) in enumerate(zip(self._identity.layers, derivatives, strict=True)):
                if isinstance(J, JvpsvdError):
                    continue
                try:
                    with full_precision():
                        tell_difference(lambda z, i=depth: self._maps(z)[i], J, name=name)  # type: ignore[misc]
                except DerivativeError as error:
                    self._hidden[depth] = error
        return self._hidden


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module if it is on the device, or a copy that is; the module stays where it is."""
    tensors = (*module.parameters(), *module.buffers())
    if all(tensor.device == torch.empty(0, device=device).device for tensor in tensors):
        return module
    return copy.deepcopy(module).to(device)


class _ReportError(BaseException):
    """What the report raised, past all handlers of what the network raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _telling(report: Report) -> Report:
    def tell(depth: int, progress: Progress | None) -> None:
        try:
            report(depth, progress)
        except BaseException as error:
            raise _ReportError(error) from error

    return tell


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


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
