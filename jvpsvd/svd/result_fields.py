"""What the fields of a result hold, for its file and for comparisons."""

from __future__ import annotations

from torch import Tensor

from jvpsvd.operators import Products
from jvpsvd.svd.certificate import Certificate
from jvpsvd.svd.krylov.quadrature import AllValues, NoSample, Recurrences
from jvpsvd.svd.methods.adaptive_rank import AdaptiveRank
from jvpsvd.svd.methods.exact import Exact
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.methods.randomized import BlockKrylov, SubspaceIteration
from jvpsvd.svd.plan import Plan
from jvpsvd.svd.progress import Progress

CLASSES: dict[str, type] = {
    each.__name__: each
    for each in (
        *(Products, Progress, Certificate, Plan),
        *(Exact, GolubKahan, BlockKrylov, SubspaceIteration, AdaptiveRank),
        *(AllValues, Recurrences, NoSample),
    )
}
"""Classes of the objects in a result, by name."""


def same(a: object, b: object) -> bool:
    """Whether two values of a field are the same, tensors bit for bit; NaN is the same as NaN.

    >>> import torch
    >>> same((1.0, torch.ones(2)), (1.0, torch.ones(2))), same(1.0, 2.0)
    (True, False)
    >>> same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    True
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.dtype, a.device, a.shape) != (b.dtype, b.device, b.shape):
            return False
        # Only NaN differs from itself.
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, AllValues | Recurrences) and type(a) is type(b):
        return all(same(value, getattr(b, name)) for name, value in vars(a).items())
    return repr(a) == repr(b)
