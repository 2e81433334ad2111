"""Matrices of a batch on threads of their own.

LAPACK gains little from several threads on a matrix of a few hundred rows, and its eigensolver
even loses time by them; one thread for each matrix leaves no core idle. Temporary tensors of one
matrix also stay in the cache, where those of a whole batch are fresh pages at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def over_matrices(work: Callable[[slice], T], count: int) -> list[T]:
    """Return what work returns for the parts of a batch of `count`, in order.

    Each part is one matrix, on one of as many threads as torch has for an operation; or all of them
    are one part that has all threads, where these are more.

    >>> over_matrices(lambda part: list(range(4))[part], 1)
    [[0]]
    >>> sum(over_matrices(lambda part: list(range(4))[part], 4), [])
    [0, 1, 2, 3]
    """
    threads = torch.get_num_threads()
    if threads == 1 or count < threads:
        return [work(slice(0, count))]
    parts = [slice(i, i + 1) for i in range(count)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as on:
            return list(on.map(work, parts))
    finally:
        # Each thread has a number of its own, but those that begin later take the last one set.
        torch.set_num_threads(threads)
