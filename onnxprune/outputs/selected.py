"""Outputs that are selected by value, such as the detections that NonMaxSuppression leaves, and what stands in front.

How many values such an output has depends on the values, and a tiny change of one score adds or drops a whole entry. So
two models are not compared there but in front: on the scores and boxes that are selected from.
"""

from collections.abc import Iterator

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import selected_by_value

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)


def in_front(output: str, analysis: Analysis) -> tuple[str, ...]:
    """The tensors of floating-point type that an output's values are selected from.

    Args:
        output: the output.
        analysis: of the model.

    Returns:
        () where its size does not depend on values, or where layers follow the selection.
    """
    behind = selected_by_value(analysis)
    if output not in behind:
        return ()
    graph, between = analysis.graph, _needed(output, analysis)
    if any(
        node.name in between and behind.intersection(node.inputs) and _weighs(node, analysis) for node in graph.nodes
    ):
        return ()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in between and behind.intersection(node.outputs):
            for name in node.inputs:
                if name and name not in behind:
                    found.update(dict.fromkeys(_floats(name, analysis)))
    made_from = {name: _needed(name, analysis) for name in found}
    return tuple(
        name
        for name in found
        if not any(
            other != name
            and graph.producer[other].name in made_from[name]
            and graph.producer[name].name not in made_from[other]
            for other in found
        )
    )


def _needed(tensor: str, analysis: Analysis) -> set[str]:
    """Names of the nodes that a tensor depends on."""
    needed, waiting = set[str](), [tensor]
    while waiting:
        node = analysis.graph.producer.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting += filter(None, (*node.inputs, *node.captured))
    return needed


def _floats(tensor: str, analysis: Analysis) -> Iterator[str]:
    """The nearest computed tensors of floating-point type that a tensor is made of; itself where it is one."""
    node = analysis.graph.producer.get(tensor)
    if node is None or analysis.pinned_value(tensor) is not None or tensor not in analysis.facts.shapes:
        return
    if analysis.facts.dtypes.get(tensor) in FLOATS:
        yield tensor
        return
    for name in node.inputs:
        if name:
            yield from _floats(name, analysis)


def _weighs(node: Node, analysis: Analysis) -> bool:
    """Whether a node has a weight matrix. Behind a selection sizes are unknown, and the analysis knows no layers."""
    handler, constants = handler_of(node.op_type), analysis.model.constants
    weights = handler.trained(node) if handler.trains_numbers else ()
    return any(name in constants and constants[name].ndim > 1 for name in weights)
