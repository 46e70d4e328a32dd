"""Tensors that are selected by value: how large they are depends on values, as of what NonMaxSuppression leaves."""

from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis


def selected_by_value(analysis: Analysis) -> frozenset[str]:
    """The tensors whose size may depend on values: what such nodes make, and all that is computed from it."""
    behind: set[str] = set()
    for node in analysis.graph.nodes:  # in their order
        selects = handler_of(node.op_type).sizes_by_value and analysis.value(node.output()) is None
        if selects or behind.intersection((*node.inputs, *node.captured)):
            behind.update(filter(None, node.outputs))
    return frozenset(behind)
