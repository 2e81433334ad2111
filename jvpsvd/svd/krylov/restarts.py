"""When bases shrink: where they are full, and where their dense work outweighs the products.

Restarting costs products, for what is given up has to be found again. It saves dense work, which
grows with the square of the columns, and the projected problem, which grows with the cube.
"""

from __future__ import annotations

from dataclasses import dataclass

from jvpsvd.svd.krylov.factorization import Factorization

# Compact bases: so many times the triplets, or these and so many blocks. Smaller ones find again
# more of what they give up.
_TIMES, _BLOCKS = 3, 24
# Cautious guesses: the products that compact bases take beside those that large ones would, and
# what an operation on blocks of a few columns costs, beside one on hundreds.
_MORE_PRODUCTS, _THIN = 0.3, 3.0
# Timings are noisy: restarting has to promise to cost no more than this share of going on.
_CLEARLY = 0.8


@dataclass(frozen=True)
class Spent:
    """Seconds per column of the bases, between two looks."""

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


def restart_pays(spent: Spent, size: int, compact: int, keep: int, shape: tuple[int, ...]) -> bool:
    """Return whether compact bases are clearly cheaper, per column, than going on with large ones.

    Large bases of s columns: dense work n s. Compact ones of p columns that shrink to q:
    n (p + q) / 2, and the shrinking, (2 n + m) p q / (4 (p − q)) in wide products. Work that does
    not grow with s is taken for some that does, which favours restarting a little.

    Args:
        spent: At the present size.
        size: Present columns s.
        compact: p.
        keep: q.
        shape: (m, n), n of the side that V lives on.

    >>> costly, cheap = Spent(3.0, 1.0), Spent(0.1, 1.0)
    >>> [restart_pays(spent, 1000, 300, 196, (500, 500)) for spent in (costly, cheap)]
    [False, True]
    >>> restart_pays(cheap, 400, 300, 196, (500, 500))
    False
    """
    m, n = shape
    bases = n * (compact + keep) / 2
    shrinking = (2 * n + m) * compact * keep / (4 * (compact - keep)) / _THIN
    after = _MORE_PRODUCTS * spent.products + spent.dense * (bases + shrinking) / (n * size)
    return after < _CLEARLY * spent.dense


class Limits:
    """How many columns bases may have, and how many restarts are left to keep them there.

    Args:
        room: Columns that there is memory for.
        k: Triplets wanted, which every restart keeps.
        most: Restarts in that room; compact bases grow again after as many.
    """

    def __init__(self, room: int, k: int, most: int) -> None:
        self.room = room
        self.restarts = 0
        """Of bases that had filled their room."""
        self._limit, self._k, self._most = room, k, most
        self._compactions = 0
        self._mark = 0, 0.0, 0.0

    def is_full(self, state: Factorization, beside: int = 0) -> bool:
        """Tell whether the next block does not fit, with so many columns beside it."""
        return state.size + state.F.shape[-1] + beside > self._limit

    def may_restart(self, state: Factorization, beside: int = 0) -> bool:
        """Tell whether a restart is left, and makes room for the next block and what is beside."""
        left = self._is_compact() or self.restarts < self._most
        return left and self._k + state.F.shape[-1] + beside <= self._limit

    def is_spent(self, state: Factorization) -> bool:
        """Tell whether the room is full, and no restart is left or would help."""
        return not self._is_compact() and self.is_full(state) and not self.may_restart(state)

    def weigh(self, state: Factorization, seconds: float, shape: tuple[int, ...]) -> None:
        """Keep the bases small from now on, if the work since the last call says that it pays.

        Args:
            state: The bases.
            seconds: Spent on them so far, products included.
            shape: (m, n) of the operator.
        """
        columns, work, products = (
            now - before
            for now, before in zip(
                (state.expanded, seconds, state.multiplying), self._mark, strict=True
            )
        )
        self._mark = state.expanded, seconds, state.multiplying
        compact = self._compact_size(state)
        if not columns or self._compactions or self._is_compact() or state.size <= compact:
            return
        spent = Spent(products / columns, (work - products) / columns)
        keep = kept_size(compact, self._k, state.F.shape[-1])
        if restart_pays(spent, state.size, compact, keep, shape):
            self._limit = compact

    def widen(self, state: Factorization) -> None:
        """Let compact bases be larger where the next block has become wider."""
        if self._is_compact():
            self._limit = max(self._limit, self._compact_size(state))

    def restart(self, state: Factorization, beside: int = 0) -> int:
        """Shrink the bases, and return how many columns were kept."""
        keep = kept_size(self._limit, self._k, state.F.shape[-1] + beside)
        state.restart(keep)
        if self._is_compact():
            self._compactions += 1
            if self._compactions >= self._most:
                self._limit = self.room
        else:
            self.restarts += 1
        return keep

    def _compact_size(self, state: Factorization) -> int:
        return min(self.room, compact_size(self._k, state.F.shape[-1]))

    def _is_compact(self) -> bool:
        return self._limit < self.room
