"""Tensors that are selected by value: how many values NonMaxSuppression leaves, or which TopK puts first."""

from collections.abc import Collection

from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis


def selected_by_value(analysis: Analysis) -> frozenset[str]:
    """The tensors whose size may depend on values: what such nodes make, and all that is computed from it."""
    return _behind([node for node in analysis.graph.nodes if _selects(node, analysis) == "number"], analysis)


def ordered_by_value(analysis: Analysis) -> frozenset[str]:
    """The tensors whose order values decide, as the last step of a model: no layers read them.

    Where layers read what a node has sorted (the proposals that a transformer's decoder goes on with), it is part of
    the network, and what it makes does not count here.
    """
    sorting = (node for node in analysis.graph.nodes if _selects(node, analysis) == "order")
    last = [node for node in sorting if not layers_behind(_behind([node], analysis), analysis)]
    return _behind(last, analysis)


def layers_behind(tensors: Collection[str], analysis: Analysis) -> list[Node]:
    """The nodes with a weight matrix that read some of these tensors.

    Told by their operators: behind a selection sizes are unknown, and the analysis knows no layers.
    """
    return [node for node in analysis.graph.nodes if not {*node.inputs}.isdisjoint(tensors) and _weighs(node, analysis)]


def _selects(node: Node, analysis: Analysis) -> str | None:
    return handler_of(node.op_type).selects if analysis.value(node.output()) is None else None


def _behind(nodes: Collection[Node], analysis: Analysis) -> frozenset[str]:
    """All that is computed from the results of some nodes, these included."""
    behind = {name for node in nodes for name in node.outputs if name}
    for node in analysis.graph.nodes if behind else ():  # in their order
        if behind.intersection((*node.inputs, *node.captured)):
            behind.update(filter(None, node.outputs))
    return frozenset(behind)


def _weighs(node: Node, analysis: Analysis) -> bool:
    handler = handler_of(node.op_type)
    values = map(analysis.value, handler.trained(node) if handler.trains_numbers else ())
    return any(value is not None and value.ndim > 1 for value in values)
