"""Say in words why a function cannot be recorded, and where in the user's files that is."""

from __future__ import annotations

import re
import traceback

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from jvpsvd.arguments import said
from jvpsvd.errors import TraceError
from jvpsvd.operators.function.failures import NOT_THE_USERS, first_line
from jvpsvd.operators.recording.sizes import call_of_same_shapes

_REASONS = (
    (
        r"reads a number that depends on|data-dependent|GuardOnDataDependent",
        "it decides by values that depend on x; to have it recorded, compute both ways and choose "
        "with torch.where",
    ),
    (
        r"Cannot access (data pointer|storage)|doesn't have storage|data is not allocated yet",
        "it leaves torch, for NumPy perhaps; to have it recorded, compute it with torch alone",
    ),
    (
        r"(?P<name>aten::\S+) requires special handling",
        "{name} takes no block of directions; to have it recorded, build tensors with torch.stack "
        "or torch.cat instead of views and writing into them",
    ),
    (
        r"must override the setup_context",
        "it calls a torch.autograd.Function without setup_context, which torch.func cannot take; "
        "write forward(x) and setup_context(ctx, inputs, output)",
    ),
    (
        r"(?i)sparse (csr |csc |bsr |bsc )?tensors|'sparse\w+' backend|forward AD with \w*sparse",
        "it multiplies by a sparse tensor, which torch has no forward mode for; to have it "
        "recorded, multiply by a dense one, A.to_dense()",
    ),
    (
        r"forward AD with (?P<name>\S+) that does not support it",
        "{name} has no forward mode; to have it recorded, compute it with other operations",
    ),
    (
        r"does not currently support|forward AD formula|derivative for (?P<name>\S+) is not impl",
        "an operation in it has no derivative of a derivative; to have it recorded, use others",
    ),
    (
        r"INTERNAL ASSERT FAILED",
        "torch itself fails at an operation in it, within several derivatives; to have it "
        "recorded, use others",
    ),
    # Not the remedy of `function/failures.py`: torch.func takes this derivative, and only the
    # derivatives of it that a recording takes fail.
    (
        r"mutat|modified by an inplace operation",
        "it changes in place a tensor that it also reads; to have it recorded, work on a copy, "
        "x.clone()",
    ),
)


def describe_failure(error: BaseException) -> str:
    """Return why recording failed, with the line of the user's code that was at work.

    >>> describe_failure(RuntimeError("forward AD with sort that does not support it"))
    'sort has no forward mode; to have it recorded, compute it with other operations'
    """
    text = " ".join(said(error).split())
    for pattern, words in _REASONS:
        found = re.search(pattern, text)
        if found:
            return words.format(**found.groupdict()) + _place(error)
    return first_line(error) + _place(error)


def refuse_what_no_graph_holds(graph: fx.Graph) -> None:
    """Raise for an argument that no text of a graph can stand for, where it bears on the results.

    Raises:
        TraceError: Naming it.

    >>> graph = fx.Graph()
    >>> draw = torch.ops.aten.rand.generator
    >>> _ = graph.output(graph.call_function(draw, ([2],), {"generator": torch.Generator()}))
    >>> refuse_what_no_graph_holds(graph)
    Traceback (most recent call last):
    jvpsvd.errors.TraceError: cannot record the function: aten::rand draws from a torch.Generator...
    """
    pending = [node for node in graph.nodes if node.op == "output"]
    seen = set(pending)
    while pending:
        node = pending.pop()
        inputs = [each for each in node.all_input_nodes if each not in seen]
        seen.update(inputs)
        pending += inputs
        for value in tree_leaves((node.args, node.kwargs)):
            if isinstance(value, torch.Generator):
                raise TraceError(
                    f"cannot record the function: {_operation(node)} draws from a torch.Generator, "
                    "which a recording cannot hold; to have it recorded, draw the numbers once, "
                    "outside of it"
                )
            if isinstance(value, torch.ScriptObject):
                raise TraceError(
                    f"cannot record the function: {_operation(node)} takes packed weights or "
                    "another object of C++, which a recording cannot hold; to have it recorded, "
                    "give the network in floating point, before it was quantized or packed"
                )


def _operation(node: fx.Node) -> str:
    target = node.args[0] if node.target is call_of_same_shapes else node.target
    name = getattr(target, "name", None)
    return str(name()).split(".")[0] if callable(name) else str(target)


def _place(error: BaseException) -> str:
    while error.__cause__ is not None:  # which was raised where the user's code was at work
        error = error.__cause__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(NOT_THE_USERS):
            return f" ({frame.filename}, line {frame.lineno}, in {frame.name})"
    return ""
