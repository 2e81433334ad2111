"""When bases shrink: where they are full, and where their dense work outweighs the products.

Restarting costs products, for what is given up has to be found again. It saves dense work, which
grows with the square of the columns, and the projected problem, which grows with the cube.
"""

from __future__ import annotations

from dataclasses import dataclass

# Compact bases: so many times the triplets, or these and so many blocks. With half of the room
# beside the triplets kept, 300 columns found k = 100 of a slope in 1.1 times the products of bases
# without an end, 200 in 1.5 times.
_TIMES, _BLOCKS = 3, 24
# Products that compact bases take beside those that large ones would.
_MORE_PRODUCTS = 0.3
# Dense work on blocks of a few columns costs per operation, beside that on hundreds, about:
_THIN = 3.0
# Timings are noisy, so that restarting has to promise this share of what is spent.
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
    n (p + q) / 2, and the shrinking, (2 n + m) p q / (4 (p − q)) in wide products.

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
