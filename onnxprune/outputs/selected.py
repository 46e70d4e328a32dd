"""Outputs that are selected by value, such as the detections that NonMaxSuppression leaves, and what stands in front.

How many values such an output has depends on the values, and a tiny change of one score adds or drops a whole entry. So
two models are not compared there but in front: on the scores and boxes that are selected from.
"""

from collections.abc import Iterable

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import selected_by_value

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)


def in_front(outputs: Iterable[str], analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """The tensors of floating-point type that outputs are selected from, by output.

    Args:
        outputs: names of outputs.
        analysis: of the model.

    Returns:
        Those outputs alone whose size depends on values, and which no layers make behind the selection.
    """
    behind = selected_by_value(analysis)
    found = {name: _before(name, behind, analysis) for name in outputs if name in behind}
    return {name: tensors for name, tensors in found.items() if tensors}


def _before(output: str, behind: frozenset[str], analysis: Analysis) -> tuple[str, ...]:
    """What one output is selected from; () where layers follow the selection. `behind` is what it may have made."""
    graph, between = analysis.graph, _needed(output, analysis)
    if any(
        node.name in between and behind.intersection(node.inputs) and _weighs(node, analysis) for node in graph.nodes
    ):
        return ()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in between and behind.intersection(node.outputs):
            found.update(dict.fromkeys(_floats((name for name in node.inputs if name not in behind), analysis)))
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


def _floats(tensors: Iterable[str], analysis: Analysis) -> list[str]:
    """The nearest computed tensors of floating-point type that some tensors are made of; themselves where they are."""
    found, waiting, seen = list[str](), [*tensors], set[str]()
    while waiting:
        tensor = waiting.pop(0)
        node = analysis.graph.producer.get(tensor)
        if node is None or tensor in seen or analysis.pinned_value(tensor) is not None:
            continue
        seen.add(tensor)
        if tensor not in analysis.facts.shapes:
            continue
        if analysis.facts.dtypes.get(tensor) in FLOATS:
            found.append(tensor)
        else:
            waiting += node.inputs
    return found


def _weighs(node: Node, analysis: Analysis) -> bool:
    """Whether a node has a weight matrix. Behind a selection sizes are unknown, and the analysis knows no layers."""
    handler, constants = handler_of(node.op_type), analysis.model.constants
    weights = handler.trained(node) if handler.trains_numbers else ()
    return any(name in constants and constants[name].ndim > 1 for name in weights)
