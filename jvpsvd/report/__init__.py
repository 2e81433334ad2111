"""What a person sees of a run: tables and figures."""

from jvpsvd.report.costs import DepthCost, costs_table, depth_costs
from jvpsvd.report.figures import draw_spectra
from jvpsvd.report.summary import DepthSummary, summarize, table

__all__ = [
    "DepthCost",
    "DepthSummary",
    "costs_table",
    "depth_costs",
    "draw_spectra",
    "summarize",
    "table",
]
