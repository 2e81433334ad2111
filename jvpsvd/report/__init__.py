"""What a person sees of a run: tables and figures."""

from jvpsvd.report.costs import costs_table
from jvpsvd.report.figures import draw_spectra
from jvpsvd.report.summary import DepthSummary, summarize, table

__all__ = [
    "DepthSummary",
    "costs_table",
    "draw_spectra",
    "summarize",
    "table",
]
