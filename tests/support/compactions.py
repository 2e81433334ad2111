"""Processes of their own that compact a store, to be killed or watched."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from support.forks import FORKS

from jvpsvd.survey import compact, open_store
from jvpsvd.survey.store.store import Store

Backup = dict[Path, bytes]


def read_task_files(store: Store) -> Backup:
    """The files of single tasks, to be put back after each compaction."""
    return {file: file.read_bytes() for file in store.layout.task_files()}


def restore(store: Store, backup: Backup) -> None:
    """Put the files of single tasks back, then take the parts away: at no instant is a row gone."""
    for file, data in backup.items():
        aside = file.with_name("restored.part")
        aside.write_bytes(data)
        aside.replace(file)
    for part in store.layout.part_files():
        part.unlink()


def compact_once(store: Store, backup: Backup, begin: Callable[[], None]) -> None:
    """Begin, and merge the files of single tasks."""
    begin()
    compact(store, few=1)


def compact_for_ever(store: Store, backup: Backup, begin: Callable[[], None]) -> None:
    """Merge them and put them back; begin, and go on until somebody kills this process."""
    compact(store, few=1)  # once aside: the first time is slower
    restore(store, backup)
    begin()
    while True:
        compact(store, few=1)
        restore(store, backup)


@contextmanager
def started(action: Callable, store: Store, backup: Backup):
    """A process that has begun with an action; it is gone afterwards."""
    ours, theirs = FORKS.Pipe()
    child = FORKS.Process(target=_act, args=(theirs, action, store.folder, backup))
    child.start()
    theirs.close()  # of this process: without a child, recv ends
    try:
        ours.recv()
        yield child
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()


def _act(theirs, action, folder, backup):
    action(open_store(folder), backup, partial(theirs.send, "begun"))
