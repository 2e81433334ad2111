"""Many photos at many depths: what to compute, doing it, and the folder that holds it."""

from jvpsvd.survey.costs import DepthCost, depth_costs
from jvpsvd.survey.rows import SCHEMA, Row
from jvpsvd.survey.run import Outcome, run
from jvpsvd.survey.spec import Spec, choose_depths, specify
from jvpsvd.survey.store import Store, open_run
from jvpsvd.survey.verify import Verdict, verify
from jvpsvd.survey.watch import Look, on_stderr, unwatched

__all__ = [
    "SCHEMA",
    "DepthCost",
    "Look",
    "Outcome",
    "Row",
    "Spec",
    "Store",
    "Verdict",
    "choose_depths",
    "depth_costs",
    "on_stderr",
    "open_run",
    "run",
    "specify",
    "unwatched",
    "verify",
]
