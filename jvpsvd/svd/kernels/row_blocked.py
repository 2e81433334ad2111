"""Products of a long basis with a few vectors, computed by blocks of rows on the CPU.

MKL distributes such a product over threads by its few columns on processors of AMD. A batch of
products of row blocks took 0.5 to 0.7 of the time on two cores. On those of Intel it took 1.0 to
1.3 times as long, so that there BLAS multiplies (`python -m benchmarks small_timings tall`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jvpsvd.machine import processor_maker
from jvpsvd.svd.kernels.norms import rough_column_norms

# Rows of a block. A basis with fewer entries than the second number, or a product with more vectors
# than the third, gains nothing (measured in float32 and in float64). `python -m benchmarks
# small_timings tall` times both sides.
_ROWS, _MIN_ENTRIES, _MAX_VECTORS = 1 << 11, 1 << 22, 24
# Entries of the temporary tensors of `remainder_norms`, for each matrix: they stay in the caches.
_REMAINDER_ENTRIES = 1 << 18
# With so few vectors, W' basis takes 0.5 to 0.75 of the time of basis' W: four where the basis has
# fewer entries than above, two where it has more (`python -m benchmarks small_timings tall`).
_FEW_OF_SMALL, _FEW = 4, 2
# Batched products are written to a temporary tensor. This many row blocks are computed before it is
# copied: a guess.
_BLOCKS_AT_ONCE = 64


def project(basis: Tensor, W: Tensor, maker: str | None = None) -> Tensor:
    """Return basis' W, (s, b), for a basis (N, s) and W (N, b), or for each of a batch.

    Args:
        basis: The basis.
        W: The vectors.
        maker: The processor's maker; None takes this one's.

    >>> project(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]))
    tensor([[6.]])
    """
    small = basis.shape[-2] * basis.shape[-1] < _MIN_ENTRIES
    if not W.is_cuda and W.shape[-1] <= (_FEW_OF_SMALL if small else _FEW):
        return (W.mT @ basis).mT
    count = count_row_blocks(basis, W, maker)
    if not count:
        return basis.mT @ W
    parts, vectors = _split(basis, count), _split(W, count)
    rows = count * parts.shape[-1]
    # MKL is slower in the other order, vectors' basis.
    found = torch.bmm(parts, vectors.mT).sum(0)
    return torch.addmm(found, basis[rows:].mT, W[rows:]) if rows < basis.shape[0] else found


def subtract_projection(W: Tensor, basis: Tensor, C: Tensor, maker: str | None = None) -> Tensor:
    """Return W − basis · C, column-major, for C (s, b), or for each of a batch.

    Args:
        W: The vectors.
        basis: The basis.
        C: Coefficients.
        maker: The processor's maker; None takes this one's.

    >>> W = torch.tensor([[1.0], [2.0]])
    >>> subtract_projection(W, torch.eye(2)[:, :1], torch.tensor([[1.0]])).T
    tensor([[0., 2.]])
    """
    count = count_row_blocks(basis, W, maker)
    if not count:
        product = torch.addmm if W.ndim == 2 else torch.baddbmm
        plain: Tensor = product(W.mT, C.mT, basis.mT, alpha=-1)
        return plain.mT
    parts, vectors = _split(basis, count), _split(W, count)
    rows = count * parts.shape[-1]
    rest = torch.empty(W.shape[1], W.shape[0], dtype=W.dtype)
    targets = _split(rest.mT, count)
    for start in range(0, count, _BLOCKS_AT_ONCE):
        some = slice(start, start + _BLOCKS_AT_ONCE)
        turned = C.mT.expand(len(parts[some]), -1, -1)
        targets[some] = torch.baddbmm(vectors[some], turned, parts[some], alpha=-1)
    if rows < W.shape[0]:
        torch.addmm(W[rows:].mT, C.mT, basis[rows:].mT, alpha=-1, out=rest[:, rows:])
    return rest.mT


def remainder_norms(W: Tensor, terms: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return rough norms of the columns of W − Σ basis · C, float64, for pairs (basis, C).

    The remainder is never in memory as a whole. On Intel's processors that takes 1.0 to 1.6 times
    as long as plain BLAS (`python -m benchmarks small_timings tall`).

    >>> W = torch.tensor([[1.0], [2.0]])
    >>> remainder_norms(W, [(torch.eye(2)[:, :1], torch.tensor([[1.0]]))])
    tensor([2.], dtype=torch.float64)
    """
    product = torch.addmm if W.ndim == 2 else torch.baddbmm
    turned = [(basis.mT, C.mT.to(W, non_blocking=True)) for basis, C in terms]
    norms = []
    rows = W.shape[-2] if W.is_cuda else max(1, _REMAINDER_ENTRIES // max(1, W.shape[-1]))
    for start in range(0, W.shape[-2], rows):
        part = slice(start, start + rows)
        rest = W.mT[..., part]
        for basis, C in turned:
            rest = product(rest, C, basis[..., part], alpha=-1)
        norms.append(rough_column_norms(rest.mT))
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return whole


def count_row_blocks(basis: Tensor, W: Tensor, maker: str | None = None) -> int:
    """Return the number of row blocks to split into; 0 where plain BLAS is as fast.

    Args:
        basis: The basis (N, s).
        W: The vectors (N, b).
        maker: The processor's maker; None takes this one's.
    """
    if (maker or processor_maker()) == "GenuineIntel":
        return 0
    m, s = basis.shape[-2:]
    small = m * s < _MIN_ENTRIES or W.shape[-1] > _MAX_VECTORS
    if small or basis.ndim > 2 or basis.device.type != "cpu":
        return 0
    column_major = basis.stride(0) == W.stride(0) == 1  # other layouts would be copied
    return m // _ROWS if column_major else 0


def _split(block: Tensor, count: int) -> Tensor:
    """Return a view (count, b, N // count) of the rows of a block (N, b), transposed."""
    rows = block.shape[0] // count
    return torch.unflatten(block.mT[:, : count * rows], 1, (count, rows)).movedim(1, 0)
