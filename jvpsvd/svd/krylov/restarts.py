"""When bases restart: when memory is full, and when their dense work outweighs the products.

A restart costs products, because directions that it drops must be found again. It saves dense work,
which grows with the square of the number of columns, and time for the projected problem, which
grows with its cube.
"""

from __future__ import annotations

from dataclasses import dataclass

from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.ritz import ritz_triplets
from jvpsvd.svd.monitor import Monitor

# Compact bases have this many times k columns, or k columns and a number of blocks if that is more.
# Smaller bases would drop more directions that must be found again.
_TIMES = 3
# Cautious guesses: the share of products that compact bases take in addition to those of large
# bases; and how many times longer an operation takes in blocks of a few columns than in blocks of
# hundreds.
_MORE_PRODUCTS, _THIN = 0.3, 3.0
# Bases that restart with fewer columns than this in addition to k drop what probe columns have
# shown before it can converge, and a solve of a dense spectrum may end at a lower value. At k = 1
# with blocks of one vector, 2 of 27, 2 of 53 and 1 of 60 solves with 6, 8 and 11 such columns were
# off by more than tol, and none of 60 with 16; with blocks of 8 and 16 columns 1 of 58 was
# (`python -m benchmarks tiny_bases`, seed 117906, tol 0.0043).
_LEAST_EXTRA, _LEAST_EXTRA_BLOCKS = 16, 3
# Timings are noisy, so compact bases are chosen only if their predicted time is at most this share
# of the time with large bases.
_MOST_COST = 0.8


@dataclass(frozen=True)
class ColumnSeconds:
    """Seconds per column of expansion."""

    products: float
    dense: float


def compact_size(k: int, block_size: int, blocks: int) -> int:
    """Return the number of columns at which compact bases restart.

    >>> compact_size(100, 8, 24), compact_size(10, 2, 24)
    (300, 58)
    """
    return max(_TIMES * k, k + blocks * block_size)


def kept_size(size: int, k: int, block_size: int) -> int:
    """Return the number of columns that a restart keeps: k and half of the others.

    Keeping vectors beyond the wanted ones makes the wanted ones converge faster.

    >>> kept_size(300, 100, 8)
    196
    """
    return k + (size - k - block_size) // 2


def least_size(k: int, block_size: int, short: int) -> int:
    """Return the size of bases from which on restarts keep what probe columns showed.

    >>> least_size(1, 2, 1000), least_size(1, 8, 1000), least_size(1, 8, 20)
    (17, 25, 20)
    """
    return min(short, k + max(_LEAST_EXTRA, _LEAST_EXTRA_BLOCKS * block_size))


def restart_pays(
    seconds: ColumnSeconds, size: int, compact: int, keep: int, shape: tuple[int, ...]
) -> bool:
    """Tell whether compact bases are clearly cheaper, per column, than large ones.

    Per column, large bases of s columns cost dense work n s. Compact bases of p columns that shrink
    to q cost n (p + q) / 2, and (2 n + m) p q / (4 (p − q)) in wide products for the shrinking. All
    measured dense work is taken to grow with s, although some does not, which favours restarting a
    little.

    Args:
        seconds: Measured at the present size.
        size: Present columns s.
        compact: p.
        keep: q.
        shape: (m, n); n is the length of V's columns.

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
    """How many columns the bases may have now, and how many restarts are left.

    Args:
        max_size: Number of columns that fit into memory.
        k: Number of wanted triplets, which every restart keeps.
        max_restarts: Largest number of restarts at `max_size`. Compact bases may grow again after
            as many restarts.
        monitor: Measures the seconds of products and dense work.
    """

    def __init__(self, max_size: int, k: int, max_restarts: int, monitor: Monitor) -> None:
        self.max_size = max_size
        self.restarts = 0
        """Number of restarts at `max_size`."""
        self._present_size, self._k, self._max_restarts = max_size, k, max_restarts
        self._compactions = 0
        self._monitor = monitor
        self._mark = 0, *self._seconds()

    def forgets_probes(self, bases: Factorization, width: int) -> bool:
        """Tell whether bases with blocks of this width drop what probe columns showed.

        They do if they restart too soon. Bases as large as the shorter side have seen the whole
        space when they restart.
        """
        return self.restarts > 0 and self.max_size < least_size(self._k, width, bases.V.shape[-2])

    def is_full(self, bases: Factorization, extra: int = 0) -> bool:
        """Tell whether the next block and `extra` columns do not fit."""
        return bases.size + bases.F.shape[-1] + extra > self._present_size

    def may_restart(self, bases: Factorization, extra: int = 0) -> bool:
        """Tell whether a restart is left, after which the next block and `extra` columns fit."""
        left = self._is_compact() or self.restarts < self._max_restarts
        return left and self._k + bases.F.shape[-1] + extra <= self._present_size

    def is_exhausted(self, bases: Factorization) -> bool:
        """Tell whether the bases are full and cannot restart."""
        return not self._is_compact() and self.is_full(bases) and not self.may_restart(bases)

    def consider_compact(self, bases: Factorization) -> None:
        """Change to compact bases if timings since the last call predict that it pays."""
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
            self._present_size = compact

    def allow_wider_block(self, bases: Factorization) -> None:
        """Let compact bases grow if the next block has become wider."""
        if self._is_compact():
            self._present_size = max(self._present_size, self._compact_size(bases))

    def restart(self, bases: Factorization, extra: int = 0) -> int:
        """Restart the bases, and return the number of columns kept."""
        keep = kept_size(self._present_size, self._k, bases.F.shape[-1] + extra)
        bases.restart(ritz_triplets(bases, keep))
        if self._is_compact():
            self._compactions += 1
            if self._compactions >= self._max_restarts:
                self._present_size = self.max_size
        else:
            self.restarts += 1
        return keep

    def _seconds(self) -> tuple[float, float]:
        """Return the seconds of products, and of work on the bases and the projected problem."""
        timings = self._monitor.seconds
        return timings["products"], timings["orthogonalisation"] + timings["projected problem"]

    def _compact_size(self, bases: Factorization) -> int:
        return min(self.max_size, compact_size(self._k, bases.F.shape[-1], bases.compact_blocks))

    def _is_compact(self) -> bool:
        return self._present_size < self.max_size
