"""Values of tensors that do not depend on the graph's data: computed from constants, or from shapes that are known."""

from collections.abc import Mapping

import numpy as np
import onnx

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.operators import Operators

# Inputs and results above this many elements are not folded: once for constants, once for shape arithmetic.
_CONSTANT_LIMIT = 1 << 26
_SHAPE_LIMIT = 1 << 16


def fold_constants(model: Model, graph: Graph, operators: Operators) -> dict[str, np.ndarray]:
    """Values of all tensors that are computed from constants only."""
    return _fold(model, graph, operators, {}, {}, _CONSTANT_LIMIT)


def fold_shapes(
    model: Model,
    graph: Graph,
    operators: Operators,
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Values of further tensors, once `shapes` are known; the `known` ones are not repeated."""
    return _fold(model, graph, operators, known, shapes, _SHAPE_LIMIT)


def _fold(
    model: Model,
    graph: Graph,
    operators: Operators,
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    limit: int,
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if not node.outputs or node.output() in known or node.captured:
            continue
        rules = operators(node.op_type)
        if rules.reads_shape(node):
            shape = _stored_shape(node, model, found, known) or shapes.get(node.input(0))
            if shape is not None:
                found[node.output()] = rules.shape_value(node, shape)
            continue
        if not any(node.inputs):
            continue
        feeds = {}
        for name in filter(None, node.inputs):
            value = found.get(name, known.get(name, model.constants.get(name)))
            if value is None:
                break
            feeds[name] = value
        else:
            if rules.foldable(node, list(feeds.values()), limit):
                found.update(evaluate(model, node, feeds, operators) or {})
    return found


def _stored_shape(
    node: Node, model: Model, found: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]
) -> tuple[int, ...] | None:
    name = node.input(0)
    value = model.constants.get(name, found.get(name, known.get(name)))
    return None if value is None else value.shape


def evaluate(
    model: Model, node: Node, feeds: Mapping[str, np.ndarray], operators: Operators
) -> dict[str, np.ndarray] | None:
    """Compute one node, by the operator's own rule or in onnx's reference implementation; None where that cannot."""
    from onnx.reference import ReferenceEvaluator

    rules = operators(node.op_type)
    own = rules.fold(node, [feeds[name] for name in node.inputs if name])
    if own is not None:
        return {node.output(): own}

    if not 0 <= node.index < len(model.proto.graph.node):
        return None
    graph = onnx.helper.make_graph(
        [model.proto.graph.node[node.index]],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.inputs) if name],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    oldest = rules.reference_opset
    imports = [onnx.helper.make_opsetid("", oldest)] if model.opset < oldest else list(model.proto.opset_import)
    single = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    try:
        values = ReferenceEvaluator(single).run([name for name in node.outputs if name], dict(feeds))
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError):
        return None  # not folded: the node's output then counts as computed, which is always safe
    return dict(zip((name for name in node.outputs if name), map(np.asarray, values), strict=True))


def transparent(model: Model, graph: Graph, folded: Mapping[str, np.ndarray], operators: Operators) -> frozenset[str]:
    """Folded tensors whose node stays in the file: stored weights seen through a Cast or a (de)quantisation."""
    found: set[str] = set()
    for node in graph.nodes:
        source, value = node.input(0), folded.get(node.output())
        if value is None or (source not in found and source not in model.constants):
            continue
        if operators(node.op_type).decodes(node, model.constants.get(source, folded.get(source)), value):
            found.add(node.output())
    return frozenset(found)


def read_shapes(graph: Graph, folded: Mapping[str, np.ndarray], operators: Operators) -> dict[str, frozenset[str]]:
    """Per folded tensor, the tensors whose shape its value depends on."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        own = {node.input(0)} if operators(node.op_type).reads_shape(node) else set()
        found.update(dict.fromkeys(node.outputs, own.union(*(found.get(name, set()) for name in node.inputs))))
    return {name: frozenset(read) for name, read in found.items() if read and name in folded}
