"""What the fields of a result hold, for its file."""

from __future__ import annotations

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
