"""From the photos of a task to its rows: decoded, differentiated and solved at every depth."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_leaves_with_path

from jvpsvd.data import Sample, decode_input
from jvpsvd.data.inputs import copy_arguments
from jvpsvd.errors import InputError, JvpsvdError, NonFiniteError, PhotoError, ShardError
from jvpsvd.networks import Derivatives, Model, to_device
from jvpsvd.operators import BatchedMap, JacobianOperator, LinearMap
from jvpsvd.operators.function.failures import first_line
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.rows import Row, failure, row_of
from jvpsvd.svd import Progress, SVDResult, svds
from jvpsvd.svd.kernels.random_numbers import derive_seed
from jvpsvd.svd.spectral_density import with_density

logger = logging.getLogger(__name__)

Report = Callable[[int, Progress | None], None]
"""Called with the index of the depth at work and how far its solve is."""

Keep = Callable[["SolvedTask"], Sequence[Row]]
"""Stores the rows of the first depths of a sample; returns them with checksums of their vectors."""

# Seconds of solves after which the depths that are done are kept, so that an end of the process
# costs little more than one depth. Keeping takes some hundredths of a second: a guess.
_KEPT_SECONDS = 1.0

_Cell = tuple[Row, SVDResult | None]
"""The row of a sample at a depth, with the result if it has values."""


@dataclass(frozen=True)
class DecodedTask:
    """A task with the input of each of its samples, or the error in its place."""

    task: Task
    inputs: tuple[Any, ...]
    checksums: tuple[str | None, ...]
    """Checksums of the photos; None where there is no photo."""


@dataclass(frozen=True)
class SolvedTask:
    """A task with its rows, or with those of its first depths while it is at work."""

    task: Task
    rows: list[Row]
    """A row for each sample and depth, sample by sample."""
    results: list[SVDResult | None]
    """The results behind the rows; None for rows without values, and for those stored before."""


class PhotoSolver:
    """A network at the depths of a run, which solves one task after another.

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
        self._model = model
        self._example = copy_arguments(model.example())
        example = to_device(self._example, self._device)
        module = _on_device(model.module, self._device)
        layers = identity.layers
        self._derivatives = Derivatives(module, example, layers, model.since, model.wrt)

    def decode(self, task: Task, photos: Sequence[bytes | None]) -> DecodedTask:
        """Return the inputs of a task; what is wrong with a sample stands in its place."""
        pairs = zip(task.samples, photos, strict=True)
        return DecodedTask(
            task,
            tuple(self._decode_one(sample, photo) for sample, photo in pairs),
            tuple(None if photo is None else checksum_bytes(photo) for photo in photos),
        )

    def solve(
        self,
        decoded: DecodedTask,
        report: Report = lambda depth, progress: None,
        keep: Keep | None = None,
        begun: Sequence[Row] = (),
    ) -> SolvedTask:
        """Return the rows of a task.

        Samples are solved together where there are several, and one by one where that fails. What
        is wrong with one of them becomes rows that say so; nothing is raised for it. What `report`
        or `keep` raises ends the task.

        Args:
            decoded: The task.
            report: Is told what is at work.
            keep: Is given the rows of depths that are done, where a task of one sample takes long.
                None: all rows are returned at the end, with all results.
            begun: Rows of the first depths, of a call before. Those of another photo do not count.
        """
        task, depths = decoded.task, range(len(self._identity.layers))
        report = _passing_errors(report)
        found: dict[tuple[int, int], _Cell] = {}
        photo = decoded.checksums[0]  # None where it is not delivered now
        if photo is None or {row.photo_checksum for row in begun} == {photo}:
            found = {(0, depth): (row, None) for depth, row in enumerate(begun)}
        points = {i: x for i, x in enumerate(decoded.inputs) if isinstance(x, Tensor)}
        try:
            if len(points) > 1:
                found = self._solve_together(task.samples, points, report)
            for i, (sample, x) in enumerate(zip(task.samples, decoded.inputs, strict=True)):
                left = [depth for depth in depths if (i, depth) not in found]
                derivatives = self._differentiate(sample, x) if left else ()
                kept = time.monotonic()
                for depth in left:
                    found[i, depth] = self._solve_one(sample, depth, derivatives[depth], report)
                    if keep is None or len(task.samples) > 1 or depth == depths[-1]:
                        continue
                    if time.monotonic() - kept >= _KEPT_SECONDS:
                        rows = keep(_solved(decoded, found))
                        found = {(0, d): (row, None) for d, row in enumerate(rows)}
                        kept = time.monotonic()
        except _ReportError as stop:
            raise stop.error from None
        return _solved(decoded, found)

    def _differentiate(self, sample: Sample, x: Any) -> Sequence[LinearMap | Exception]:
        """Return the derivative at each depth, or the error in its place."""
        try:
            if isinstance(x, Exception):
                raise x
            if self._model.inputs is not None:
                _refuse_another_kind(x, self._example)
            derivatives = self._derivatives.at(to_device(x, self._device), sample.key)
            self._refuse_another_shape(derivatives)
        except Exception as error:  # whatever a photo or the user's network raises
            return [error] * len(self._identity.layers)
        return derivatives

    def _solve_one(
        self, sample: Sample, depth: int, derivative: LinearMap | Exception, report: Report
    ) -> _Cell:
        if isinstance(derivative, Exception):
            return self._make_failure(sample, depth, derivative)
        report(depth, None)
        try:
            result = self._svds(derivative, depth, report, self._seed(sample))
        except Exception as error:
            return self._make_failure(sample, depth, error)
        return self._make_row(sample, depth, result, 1)

    def _refuse_another_shape(self, derivatives: Sequence[LinearMap | JvpsvdError]) -> None:
        """Check that an input is of the shape of all others, as rows of a depth are compared."""
        shape = self._identity.start_shape
        for J in derivatives:
            if isinstance(J, LinearMap) and shape is not None and tuple(J.point.shape) != shape:
                raise InputError(
                    f"it is differentiated by {tuple(J.point.shape)} numbers, and the example by "
                    f"{shape}; cut or pad all inputs to one length"
                )

    def _solve_together(
        self, samples: Sequence[Sample], points: dict[int, Tensor], report: Report
    ) -> dict[tuple[int, int], _Cell]:
        """Return what batched solves find; what they do not is left to be done one by one."""
        found: dict[tuple[int, int], _Cell] = {}
        X = torch.stack(list(points.values())).to(self._device)
        try:
            derivatives = self._derivatives.at_many(X)
        except Exception as error:
            logger.warning("%s; samples are solved one by one", first_line(error))
            return found
        own = [self._seed(samples[i]) for i in points]
        seeds = own if self._identity.own_starts else self._identity.seed
        for depth, derivative in enumerate(derivatives):
            if isinstance(derivative, JvpsvdError):
                continue
            report(depth, None)
            try:
                result = self._svds(derivative, depth, report, seeds)
            except Exception as error:
                logger.warning("%s; samples are solved one by one", first_line(error))
                continue
            for index, i in enumerate(points):
                one = result.of(index)
                found[i, depth] = self._make_row(samples[i], depth, one, len(points))
        return found

    def _seed(self, sample: Sample) -> int:
        """Return the seed of a sample: that of all its depths, in whatever task it is solved."""
        seed = self._identity.seed
        return derive_seed(seed, sample.shard, sample.key) if self._identity.own_starts else seed

    def _svds(
        self, derivative: LinearMap | BatchedMap, depth: int, report: Report, seed: int | list[int]
    ) -> SVDResult:
        identity, J = self._identity, JacobianOperator.from_linear_map(derivative)
        result = svds(
            J,
            min(identity.k, *J.shape[-2:]),
            tol=identity.tol,
            seed=seed,
            memory=self._memory,
            vectors=identity.has_vector_files,
            on_unconverged="ignore",
            progress=lambda progress: report(depth, progress),
        )
        return with_density(result, J) if identity.density else result

    def _make_row(self, sample: Sample, depth: int, result: SVDResult, together: int) -> _Cell:
        """Return the row of a result; time and products of a batch are divided evenly."""
        row = row_of(sample, self._identity.layers[depth], result)
        row = replace(
            row,
            products_forward=row.products_forward // together,
            products_reverse=row.products_reverse // together,
            seconds=row.seconds / together,
        )
        return row, result if row.status == "ok" else None

    def _make_failure(self, sample: Sample, depth: int, error: Exception) -> _Cell:
        status, message = _reason(error, sample)
        identity = self._identity
        return failure(sample, identity.layers[depth], identity.k, status, message), None

    def _decode_one(self, sample: Sample, photo: bytes | None) -> Any:
        if sample.problem:
            return PhotoError(sample.message)
        if photo is None:
            return ShardError("the shard did not deliver this sample as the manifest lists it")
        try:
            return decode_input(photo, self._model)
        except (InputError, MemoryError) as error:
            return error


def _solved(decoded: DecodedTask, found: Mapping[tuple[int, int], _Cell]) -> SolvedTask:
    """Return the rows that were found, sample by sample and depth by depth."""
    checksums, cells = decoded.checksums, sorted(found.items(), key=lambda item: item[0])
    rows = [
        row if row.photo_checksum else replace(row, photo_checksum=checksums[i])
        for (i, _), (row, _) in cells
    ]
    return SolvedTask(decoded.task, rows, [result for _, (_, result) in cells])


class _ReportError(BaseException):
    """What the report raised, past all handlers of what the network raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _passing_errors(report: Report) -> Report:
    """Return the report, whose errors no handler takes for those of the network."""

    def passing(depth: int, progress: Progress | None) -> None:
        try:
            report(depth, progress)
        except BaseException as error:
            raise _ReportError(error) from error

    return passing


def _reason(error: Exception, sample: Sample) -> tuple[str, str]:
    """Return the kind of a failure and the failure in words."""
    if sample.problem:
        return sample.problem, str(error)
    if isinstance(error, PhotoError):
        return "bad-photo", str(error)
    if isinstance(error, InputError):
        return "bad-input", str(error)
    if isinstance(error, ShardError):
        return "undelivered", str(error)
    if isinstance(error, NonFiniteError):
        return "non-finite", str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory", f"{type(error).__name__}: {error}"
    if isinstance(error, JvpsvdError):
        return "refused", str(error)
    return "error", f"{type(error).__name__}: {error}"


def _refuse_another_kind(x: Any, example: Any) -> None:
    """Check that an input has the arguments of the example, in their shapes.

    Raises:
        InputError: If it has not.
    """
    ours, theirs = (dict(tree_leaves_with_path(one)) for one in (x, example))
    for path in dict.fromkeys((*theirs, *ours)):
        name = keystr(path) or "it"
        if path not in ours or path not in theirs:
            whose = "the example" if path in theirs else "this input"
            raise InputError(f"only {whose} has {name}; give every input the same arguments")
        shapes = [tuple(one[path].shape) for one in (ours, theirs) if isinstance(one[path], Tensor)]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            raise InputError(
                f"{name} is {shapes[0]}, and that of the example {shapes[1]}; cut or pad all "
                "inputs to one shape"
            )


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module if it is on the device, or a copy that is; the module stays where it is."""
    tensors = (*module.parameters(), *module.buffers())
    if all(tensor.device == torch.empty(0, device=device).device for tensor in tensors):
        return module
    return copy.deepcopy(module).to(device)
