"""When bases shrink: where they are full, and where their dense work outweighs the products.

A restart costs products, for what it gives up has to be found again. It saves dense work, which
grows with the square of the columns, and the projected problem, which grows with the cube.
"""

from __future__ import annotations

from dataclasses import dataclass

from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.ritz import ritz_triplets
from jvpsvd.svd.monitor import Monitor

# Compact bases: so many times the triplets, or these and so many blocks. Smaller ones find again
# more of what they give up.
_TIMES, _BLOCKS = 3, 24
# Cautious guesses: the products that compact bases take beside those that large ones would, and
# what an operation on blocks of a few columns costs, beside one on hundreds.
_MORE_PRODUCTS, _THIN = 0.3, 3.0
# Bases that restart with fewer columns beside k forget what probe columns showed before it counts:
# a solve may end at a lower value of a dense spectrum. With 6 and 11 columns beside k = 1 about 9
# and 2 in 100 solves were off by more than tol, with 16 none, by 0.1 tol at most
# (`python -m benchmarks tiny_bases`).
_LEAST_BESIDE = 16
# Timings are noisy: restarting has to promise to cost no more than this share of going on.
_MOST_COST = 0.8


@dataclass(frozen=True)
class ColumnSeconds:
    """Seconds per column that the bases were expanded by."""

    products: float
    dense: float


def compact_size(k: int, block_size: int) -> int:
    """Return the columns at which bases that are kept small restart.

    >>> compact_size(100, 8), compact_size(10, 2)
    (300, 58)
    """
    return max(_TIMES * k, k + _BLOCKS * block_size)


def kept_size(limit: int, k: int, block_size: int) -> int:
    """Return the columns that a restart keeps: the triplets and half of what is left beside them.

    The vectors just behind the wanted ones speed up these.

    >>> kept_size(300, 100, 8)
    196
    """
    return k + (limit - k - block_size) // 2


def restart_pays(
    seconds: ColumnSeconds, size: int, compact: int, keep: int, shape: tuple[int, ...]
) -> bool:
    """Tell whether compact bases are clearly cheaper, per column, than going on with large ones.

    Large bases of s columns: dense work n s. Compact ones of p columns that shrink to q:
    n (p + q) / 2, and the shrinking, (2 n + m) p q / (4 (p − q)) in wide products. Work that does
    not grow with s is taken for some that does, which favours restarting a little.

    Args:
        seconds: At the present size.
        size: Present columns s.
        compact: p.
        keep: q.
        shape: (m, n), n of the side that V lives on.

    >>> costly, cheap = ColumnSeconds(3.0, 1.0), ColumnSeconds(0.1, 1.0)
    >>> [restart_pays(seconds, 1000, 300, 196, (500, 500)) for seconds in (costly, cheap)]
    [False, True]
    >>> restart_pays(cheap, 400, 300, 196, (500, 500))
    False
    """
    m, n = shape
    bases = n * (compact + keep) / 2
    shrinking = (2 * n + m) * compact * keep / (4 * (compact - keep)) / _THIN
    after = _MORE_PRODUCTS * seconds.products + seconds.dense * (bases + shrinking) / (n * size)
    return after < _MOST_COST * seconds.dense


class RestartPolicy:
    """How many columns bases may have, and how many restarts are left to keep them there.

    Args:
        max_size: Columns that there is memory for.
        k: Triplets wanted, which every restart keeps.
        max_restarts: Restarts at that size; compact bases grow again after as many.
        monitor: Tells the seconds that products and dense work took.
    """

    def __init__(self, max_size: int, k: int, max_restarts: int, monitor: Monitor) -> None:
        self.max_size = max_size
        self.restarts = 0
        """Restarts of bases that had filled their memory."""
        self._limit, self._k, self._max_restarts = max_size, k, max_restarts
        self._compactions = 0
        self._monitor = monitor
        self._mark = 0, *self._seconds()

    @property
    def forgets_probes(self) -> bool:
        """Whether bases restart so soon that they forget what probe columns showed."""
        return self.restarts > 0 and self.max_size - self._k < _LEAST_BESIDE

    def is_full(self, bases: Factorization, beside: int = 0) -> bool:
        """Tell whether the next block does not fit, with so many columns beside it."""
        return bases.size + bases.F.shape[-1] + beside > self._limit

    def may_restart(self, bases: Factorization, beside: int = 0) -> bool:
        """Tell whether a restart is left, and makes room for the next block and what is beside."""
        left = self._is_compact() or self.restarts < self._max_restarts
        return left and self._k + bases.F.shape[-1] + beside <= self._limit

    def is_spent(self, bases: Factorization) -> bool:
        """Tell whether the bases are full, and no restart is left or would help."""
        return not self._is_compact() and self.is_full(bases) and not self.may_restart(bases)

    def consider_compact(self, bases: Factorization) -> None:
        """Keep the bases small from now on, if the work since the last call says that it pays."""
        now = bases.expanded, *self._seconds()
        columns, products, dense = (
            after - before for after, before in zip(now, self._mark, strict=True)
        )
        self._mark = now
        compact = self._compact_size(bases)
        if not columns or self._compactions or self._is_compact() or bases.size <= compact:
            return
        seconds = ColumnSeconds(products / columns, dense / columns)
        keep = kept_size(compact, self._k, bases.F.shape[-1])
        if restart_pays(seconds, bases.size, compact, keep, bases.operator.shape):
            self._limit = compact

    def allow_wider_block(self, bases: Factorization) -> None:
        """Let compact bases be larger where the next block has become wider."""
        if self._is_compact():
            self._limit = max(self._limit, self._compact_size(bases))

    def restart(self, bases: Factorization, beside: int = 0) -> int:
        """Shrink the bases, and return how many columns were kept."""
        keep = kept_size(self._limit, self._k, bases.F.shape[-1] + beside)
        bases.restart(ritz_triplets(bases, keep))
        if self._is_compact():
            self._compactions += 1
            if self._compactions >= self._max_restarts:
                self._limit = self.max_size
        else:
            self.restarts += 1
        return keep

    def _seconds(self) -> tuple[float, float]:
        """Return the seconds of products, and of work on the bases and the projected problem."""
        spent = self._monitor.seconds
        return spent["products"], spent["orthogonalisation"] + spent["projected problem"]

    def _compact_size(self, bases: Factorization) -> int:
        return min(self.max_size, compact_size(self._k, bases.F.shape[-1]))

    def _is_compact(self) -> bool:
        return self._limit < self.max_size
