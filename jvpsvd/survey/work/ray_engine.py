"""Tasks solved by workers of a Ray cluster, each with the network in its memory.

Ray only schedules: what is finished is in the files of the run, written by this process. A task
goes only to a worker that has just answered, so that a worker that dies takes one task with it. A
task whose worker dies is given out again; the third time it runs alone, and if its worker dies then
too, it is a row that says so.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from jvpsvd.errors import EngineError
from jvpsvd.imports import importing
from jvpsvd.machine import (
    granted_cores,
    granted_memory,
    parse_memory,
    threads_of_a_worker,
    waiting_policy,
)
from jvpsvd.networks import Model
from jvpsvd.survey.progress.journal import note
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.plan import RunPlan
from jvpsvd.survey.spec.spec import Spec
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.rows import failure
from jvpsvd.survey.work.feed import TaskPhotos, prefetch, read_tasks
from jvpsvd.survey.work.photo_solver import PhotoSolver, SolvedTask

logger = logging.getLogger(__name__)

DEATHS = 2
"""Workers that a task may take with it before it runs alone."""

_FAILED_STARTS = 3
_TASKS_AHEAD = 4
_WAIT_SECONDS, _QUIET_SECONDS, _ANSWER_SECONDS = 1.0, 60.0, 10.0


class Worker:
    """The process of Ray that solves tasks."""

    def __init__(
        self, model: Model, identity: Identity, device: str, memory: int | None, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self._solver = PhotoSolver(model, identity, device=device, memory=memory)

    def ready(self) -> None:
        """Answer once the network is there."""

    def solve(self, task: Task, photos: list[bytes | None]) -> SolvedTask:
        """Return the task with its rows."""
        return self._solver.solve(self._solver.decode(task, photos))


@dataclass
class _Work:
    """A task with its photos, and how many workers died of it."""

    job: TaskPhotos
    deaths: int = 0


def solve_on_ray(tasks: Sequence[Task], plan: RunPlan, spec: Spec) -> Iterator[SolvedTask]:
    """Yield every task solved, in the order in which they are done.

    The shards are read by this process only; the network is sent to every worker once.

    Args:
        tasks: What to solve.
        plan: The run.
        spec: Address of a running cluster (None: one is started on this machine and ended with the
            run); number of workers (None: one per GPU, or without GPUs one per CPU); memory of one
            solve (None: half of a worker's GPU; without one, half of this machine's or job's,
            divided by the workers); device ("auto" gives every worker a GPU where there are GPUs,
            "cpu" none).

    Raises:
        MissingPackageError: If Ray is not installed, or cannot be imported.
        EngineError: If there is no cluster, or workers do not start.
    """
    ray = _ray()
    started_here = _connect(ray, spec.address, spec.workers)
    try:
        resources = ray.cluster_resources()
        on_gpu = spec.device != "cpu" and resources.get("GPU", 0) >= 1
        if spec.device.startswith("cuda") and not on_gpu:
            raise EngineError(
                f"device {spec.device}: the Ray cluster has no GPU; use --device auto"
            )
        count = spec.workers or int(resources.get("GPU" if on_gpu else "CPU", 1)) or 1
        budget = None if spec.memory is None else parse_memory(spec.memory)
        if budget is None and not on_gpu:
            budget = granted_memory() // (2 * count)
        per_worker = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        environment = {"env_vars": waiting_policy(os.environ)}
        kind = ray.remote(
            max_restarts=0, max_task_retries=0, runtime_env=environment, **per_worker
        )(Worker)
        sent = ray.put(plan.model), ray.put(plan.identity)
        device = "cuda" if on_gpu else "cpu"
        threads = threads_of_a_worker(count) if started_here else 1
        pool = _Pool(ray, lambda: kind.remote(*sent, device, budget, threads), count, plan.identity)
        yield from pool.solve(prefetch(read_tasks(tasks, plan.shards), _TASKS_AHEAD))
    finally:
        if started_here:
            ray.shutdown()


@dataclass
class _Pool:
    """Workers in their states: starting, idle, or busy with one task each."""

    ray: Any
    start: Callable[[], Any]
    count: int
    identity: Identity
    starting: dict[Any, Any] = field(default_factory=dict)
    idle: deque[Any] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, _Work]] = field(default_factory=dict)
    again: deque[_Work] = field(default_factory=deque)
    alone: deque[_Work] = field(default_factory=deque)
    failed_starts: int = 0

    def solve(self, fresh: Iterator[TaskPhotos]) -> Iterator[SolvedTask]:
        """Give out work until all is done; yield what comes back."""
        for _ in range(self.count):
            self._start_one()
        waited = time.monotonic()
        while True:
            while self.idle and (work := self._next(fresh)) is not None:
                worker = self.idle.popleft()
                self.busy[worker.solve.remote(*work.job)] = worker, work
            if self.idle and not self.busy:
                return  # nothing is left
            refs = [*self.busy, *self.starting]
            done, _ = self.ray.wait(refs, num_returns=1, timeout=_WAIT_SECONDS)
            if self.busy or done:
                waited = time.monotonic()
            elif time.monotonic() - waited > _QUIET_SECONDS:
                logger.warning("waiting for a worker: the cluster has no room for one")
                waited = time.monotonic()
            for ref in done:
                if ref in self.starting:
                    self._note_start(ref)
                elif (solved := self._take_answer(ref)) is not None:
                    yield solved

    def _next(self, fresh: Iterator[TaskPhotos]) -> _Work | None:
        """Return what to do now; a task that has taken workers with it comes last, and alone."""
        if self.again:
            return self.again.popleft()
        job = next(fresh, None)
        if job is not None:
            return _Work(job)
        return self.alone.popleft() if self.alone and not self.busy else None

    def _start_one(self) -> None:
        worker = self.start()
        self.starting[worker.ready.remote()] = worker

    def _note_start(self, ref: Any) -> None:
        worker = self.starting.pop(ref)
        try:
            self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            note("worker did not start", reason=_brief(error))
            if self.failed_starts < _FAILED_STARTS:
                self._start_one()
            elif not (self.idle or self.busy or self.starting):
                raise EngineError(
                    f"Ray workers do not start ({_brief(error)}); try --engine local"
                ) from error
        else:
            self.failed_starts = 0
            self.idle.append(worker)

    def _take_answer(self, ref: Any) -> SolvedTask | None:
        """Return what a worker answered; None if it died and its task is to be given out again."""
        worker, work = self.busy.pop(ref)
        task = work.job[0]
        try:
            solved: SolvedTask = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(worker)
            return self._make_failure(task, "error", _brief(error))
        except self.ray.exceptions.RayError as error:
            return self._replace_worker(worker, work, _brief(error))
        self.idle.append(worker)
        return solved

    def _replace_worker(self, worker: Any, work: _Work, reason: str) -> SolvedTask | None:
        task = work.job[0]
        work.deaths += 1
        note("worker died", task=task.id, deaths=work.deaths, reason=reason)
        self.ray.kill(worker)  # it may be out of reach rather than dead
        self._start_one()
        if work.deaths > DEATHS:
            message = f"its worker died {work.deaths} times, the last time alone: {reason}"
            return self._make_failure(task, "worker-died", message)
        logger.warning("a worker died at %s %s; going on", task.shard, task.samples[0].key)
        (self.alone if work.deaths == DEATHS else self.again).append(work)
        return None

    def _make_failure(self, task: Task, status: str, message: str) -> SolvedTask:
        layers, k = self.identity.layers, self.identity.k
        rows = [failure(s, layer, k, status, message) for s in task.samples for layer in layers]
        return SolvedTask(task, rows, [None for _ in rows])


def check_engine(spec: Spec) -> None:
    """Raise what is known to be missing for Ray before anything is computed or written.

    Raises:
        MissingPackageError: If Ray is not installed, or cannot be imported.
        EngineError: If there is no cluster at the address, or no GPU on this machine.
    """
    ray = _ray()
    if spec.address is not None:
        if _connect(ray, spec.address, spec.workers):
            ray.shutdown()
    elif spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"device {spec.device}: this machine has no GPU; use --device auto")


def _ray() -> Any:
    with importing("engine 'ray'", "ray", "ray"):
        import ray
        import ray.exceptions
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> bool:
    """Connect to the cluster at an address, or start one; return whether this call must end it."""
    if ray.is_initialized():
        return False
    _refuse_silence(address)
    before = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address is None:
            cores = workers or granted_cores()
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"no Ray cluster at {address or 'this machine'}: {_brief(error)}"
        ) from error
    except SystemExit as error:  # how Ray answers SIGTERM
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray sets its own
    return True


def _refuse_silence(address: str | None) -> None:
    """Raise where nothing listens: Ray itself goes on trying for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address or "")
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:  # a port that no machine has, too
        raise EngineError(
            f"no Ray cluster at {address} ({error}); start one with 'ray start --head'"
        ) from error


def _brief(error: BaseException) -> str:
    """Return an error in one line: its first, or of a traceback that it quotes the last."""
    lines = re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines() or ["no message"]
    line = lines[-1] if any(line.strip().startswith("File ") for line in lines) else lines[0]
    return f"{type(error).__name__}: {line[:300]}"
