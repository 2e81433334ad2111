"""What a person sees of a run: tables, figures, and one page."""

from typing import TYPE_CHECKING, Any

from jvpsvd.imports import import_at_first_use
from jvpsvd.survey.renamed import find_renamed

if TYPE_CHECKING:
    from jvpsvd.report.compare import (
        Difference,
        compare_runs,
        comparison_table,
        differing_fields,
    )
    from jvpsvd.report.costs import costs_table, foretold_table
    from jvpsvd.report.figures import (
        draw_class_matrices,
        draw_class_tree,
        draw_dimensions,
        draw_heat_map,
        draw_spectra,
    )
    from jvpsvd.report.summary import DepthSummary, summaries_of, summarize
    from jvpsvd.report.summary_table import table
    from jvpsvd.report.values import RunValues, read_values
    from jvpsvd.report.vector_figure import draw_vectors
    from jvpsvd.report.write import Report, write_report
else:
    import_at_first_use(__name__)

_RENAMED = {"Gathered": "RunValues", "gather": "read_values"}


def __getattr__(name: str) -> Any:
    return find_renamed(__name__, name, _RENAMED)


__all__ = [
    "DepthSummary",
    "Difference",
    "Report",
    "RunValues",
    "compare_runs",
    "comparison_table",
    "costs_table",
    "differing_fields",
    "draw_class_matrices",
    "draw_class_tree",
    "draw_dimensions",
    "draw_heat_map",
    "draw_spectra",
    "draw_vectors",
    "foretold_table",
    "read_values",
    "summaries_of",
    "summarize",
    "table",
    "write_report",
]
