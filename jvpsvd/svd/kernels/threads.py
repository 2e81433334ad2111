"""Work on the matrices of a batch, one thread for each.

On a matrix of a few hundred rows, LAPACK gains little from several threads, and its eigensolver
even becomes slower. With one thread for each matrix no core is idle. Temporary tensors of one
matrix also stay in the cache, while those of a whole batch are new memory pages at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def over_matrices(work: Callable[[slice], T], count: int, together: int = 1) -> list[T]:
    """Return the results of `work` for the parts of a batch of `count` matrices, in order.

    With at least as many matrices as torch has threads, each part runs on one thread. With fewer
    matrices, the whole batch is one part and runs on all threads.

    Args:
        work: Takes a part.
        count: How many matrices there are.
        together: How many matrices make a part: several where they are small, since each call of
            torch takes its time.

    >>> over_matrices(lambda part: list(range(4))[part], 1)
    [[0]]
    >>> sum(over_matrices(lambda part: list(range(4))[part], 4), [])
    [0, 1, 2, 3]
    """
    threads = torch.get_num_threads()
    if count < threads:
        return [work(slice(0, count))]
    parts = [slice(i, min(count, i + together)) for i in range(0, count, together)]
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as on:
            return list(on.map(work, parts))
    finally:
        # The number of threads is set per thread, but threads that start later inherit the last
        # number set anywhere.
        torch.set_num_threads(threads)
