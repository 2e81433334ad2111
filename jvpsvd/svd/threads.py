"""Matrices of a batch on threads of their own.

LAPACK gains little from several threads on a matrix of a few hundred rows, and its eigensolver
even loses time by them; one thread for each matrix leaves no core idle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def over_matrices(work: Callable[[slice], T], count: int) -> list[T]:
    """Return what work returns for the parts of a batch of `count`, in order.

    There are as many parts as torch has threads for one operation, and each has one of its own;
    or one part that has them all, where there are fewer matrices than threads.

    >>> over_matrices(lambda part: list(range(4))[part], 1)
    [[0]]
    >>> sum(over_matrices(lambda part: list(range(4))[part], 4), [])
    [0, 1, 2, 3]
    """
    threads = torch.get_num_threads()
    if threads == 1 or count < threads:
        return [work(slice(0, count))]
    edges = [count * i // threads for i in range(threads + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as on:
            return list(on.map(work, parts))
    finally:
        # Each thread has a number of its own, but those that begin later take the last one set.
        torch.set_num_threads(threads)
