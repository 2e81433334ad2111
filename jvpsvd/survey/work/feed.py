"""Photos read shard by shard, a bounded number of tasks before they are solved."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from queue import Full, Queue
from typing import Generic, TypeVar

from jvpsvd.data import Shard, read_photos
from jvpsvd.survey.spec.tasks import Task

T = TypeVar("T")

TaskPhotos = tuple[Task, list[bytes | None]]
"""A task with the photo of each of its samples, None for those that were not delivered."""

_POLL_SECONDS = 0.1


def read_tasks(tasks: Sequence[Task], shards: Iterable[Shard]) -> Iterator[TaskPhotos]:
    """Yield every task with its photos, shard by shard; each shard is read once."""
    shard_of = {shard.name: shard for shard in shards}
    for name, group in groupby(tasks, key=lambda task: task.shard):
        of_shard = list(group)
        task_of = {sample.key: task for task in of_shard for sample in task.samples}
        readable = [s for task in of_shard for s in task.samples if not s.problem]
        photos: dict[str, bytes | None] = {}
        unread = {task.id: sum(not s.problem for s in task.samples) for task in of_shard}
        for task in of_shard:
            if not unread[task.id]:
                yield task, [None for _ in task.samples]
        for sample, photo in read_photos(shard_of[name], readable):
            photos[sample.key] = photo
            task = task_of[sample.key]
            unread[task.id] -= 1
            if not unread[task.id]:
                yield task, [photos.pop(s.key, None) for s in task.samples]


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items that a thread makes, at most `count` in advance; its errors are raised here.

    >>> list(prefetch(range(3), 2))
    [0, 1, 2]
    """
    prefetched = _Prefetch(items, count)
    try:
        yield from prefetched.items()
    finally:
        prefetched.stop()


class _End:
    """What the thread puts last: nothing more comes, or the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Prefetch(Generic[T]):
    def __init__(self, items: Iterable[T], count: int) -> None:
        self._queue: Queue[T | _End] = Queue(count)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(items,), name="jvpsvd-feed", daemon=True
        )
        self._thread.start()

    def items(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self, items: Iterable[T]) -> None:
        end = _End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except Exception as error:  # raised again where the items are used
            end = _End(error)
        self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except Full:
                continue
            return True
        return False
