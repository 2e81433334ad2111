"""Run all passes over a recorded derivative, in their order."""

from __future__ import annotations

from torch import fx

from jvpsvd.operators.recording.passes.attention import multiply_attention_by_rows
from jvpsvd.operators.recording.passes.channels_last import lay_out_channels_last
from jvpsvd.operators.recording.passes.convolutions import simplify_convolutions
from jvpsvd.operators.recording.passes.folding import fold_linear
from jvpsvd.operators.recording.passes.fx_tools import (
    dependents,
    merge_equal_nodes,
    touched,
)
from jvpsvd.operators.recording.passes.padding import pad_inside_convolutions
from jvpsvd.operators.recording.passes.polyphase import decompose_by_phases
from jvpsvd.operators.recording.passes.slopes import apply_slopes_in_place
from jvpsvd.operators.recording.passes.softmax import take_softmax_from_value


def simplify(module: fx.GraphModule, *, channels_last: bool) -> fx.GraphModule:
    r"""Give a recorded graph (x, v, \\*us) ↦ (values, J v, J' u) cheaper products, and return it.

    A graph that changes a direction in place is left as it is.

    Args:
        module: The graph, without identities and repetitions.
        channels_last: Whether to lay out images so (see the pass `channels_last`).
    """
    _, *directions = module.graph.find_nodes(op="placeholder")
    linear = {node for root in directions for node in dependents(module.graph, root)}
    if not linear.isdisjoint(touched(module.graph)):
        return module
    take_softmax_from_value(module, linear)
    fold_linear(module, linear)
    # Transposed convolutions, larger kernels and phases pay where channels belong last; in float64
    # transposed ones were slower.
    simplify_convolutions(module, linear, transpose=channels_last)
    pad_inside_convolutions(module, linear, grow=channels_last)
    if channels_last:
        decompose_by_phases(module, linear)
    apply_slopes_in_place(module, linear)
    multiply_attention_by_rows(module, linear)
    if channels_last:
        lay_out_channels_last(module, linear)
    merge_equal_nodes(module)
    return module
