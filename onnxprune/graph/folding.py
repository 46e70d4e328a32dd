"""Values of tensors that do not depend on the graph's data: computed from constants, or from shapes that are known."""

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node, is_float

# Inputs and results above this many elements are not folded: once for constants, once for shape arithmetic.
_CONSTANT_LIMIT = 1 << 26
_SHAPE_LIMIT = 1 << 16
_VIEW_LIMIT = 1 << 31

# Operators that are cheap in numpy. What is not here counts as computed, which is always safe.
_FOLDED = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "Where", "And", "Or", "Xor", "Not", "Equal"}
    | {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor"}
    | {"Ceil", "Round", "Sign", "Erf", "Tanh", "Sigmoid", "Relu", "Clip", "Identity", "Cast", "CastLike", "Sin", "Cos"}
    | {"Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "Pad"}
    | {"Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Tile", "Range"}
    | {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "MatMul", "Gemm", "Trilu", "CumSum"}
    | {"QuantizeLinear", "DequantizeLinear", "NonZero", "TopK", "OneHot"}
)
_EXPANDING = frozenset({"Expand", "Tile"})
_TRANSPARENT = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


def fold_constants(model: Model, graph: Graph) -> dict[str, np.ndarray]:
    """Values of all tensors that are computed from constants only."""
    return _fold(model, graph, {}, {}, _CONSTANT_LIMIT)


def fold_shapes(
    model: Model, graph: Graph, known: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Values of further tensors, once `shapes` tell what Shape and Size give; the `known` ones are not repeated."""
    return _fold(model, graph, known, shapes, _SHAPE_LIMIT)


def _fold(
    model: Model, graph: Graph, known: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], limit: int
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if not node.outputs or node.output() in known or node.captured:
            continue
        if node.op_type in ("Shape", "Size"):
            shape = _stored_shape(node, model, found, known) or shapes.get(node.input(0))
            if shape is not None:
                found[node.output()] = shape_value(node, shape)
            continue
        if node.op_type == "ConstantOfShape":
            target = model.constants.get(node.input(0), found.get(node.input(0), known.get(node.input(0))))
            if target is not None and (filled := _filled(node, target)) is not None:
                found[node.output()] = filled
            continue
        if node.op_type not in _FOLDED or not any(node.inputs):
            continue
        feeds = {}
        for name in filter(None, node.inputs):
            value = found.get(name, known.get(name, model.constants.get(name)))
            if value is None:
                break
            feeds[name] = value
        else:
            if _is_small(node, list(feeds.values()), limit):
                found.update(evaluate(model, node, feeds) or {})
    return found


def _stored_shape(
    node: Node, model: Model, found: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]
) -> tuple[int, ...] | None:
    name = node.input(0)
    value = model.constants.get(name, found.get(name, known.get(name)))
    return None if value is None else value.shape


def _filled(node: Node, target: np.ndarray) -> np.ndarray | None:
    """The result of ConstantOfShape as a view of its one value, which takes no memory."""
    value = node.attributes.get("value")
    filler = np.zeros(1, np.float32) if value is None else np.asarray(value)
    sizes = [int(size) for size in target.ravel()]
    if min(sizes, default=0) < 0 or prod(sizes) > _VIEW_LIMIT:
        return None
    return np.broadcast_to(filler.reshape(()), sizes)


def shape_value(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    """What a Shape or Size node gives for an input of this shape."""
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64), np.int64)
    end = node.attributes.get("end")
    return np.array(shape[node.int("start", 0) : None if end is None else int(end)], np.int64)


def _is_small(node: Node, inputs: list[np.ndarray], limit: int) -> bool:
    if node.op_type in _EXPANDING:  # small inputs, large results
        target = inputs[-1].ravel()
        if target.dtype.kind not in "iu" or target.size > 16:
            return False
        repeats = inputs[0].size if node.op_type == "Tile" else 1
        return bool(np.prod(np.abs(target.astype(float))) * repeats <= limit)
    if node.op_type == "Range":
        start, stop, step = (float(v) for v in inputs)
        return step != 0 and abs((stop - start) / step) <= limit
    if node.op_type in ("Pad", "OneHot"):
        return sum(value.size for value in inputs) <= 1024
    if node.op_type in ("MatMul", "Gemm") and sum(value.size for value in inputs) > _SHAPE_LIMIT:
        return False
    return sum(value.size for value in inputs) <= limit


def evaluate(model: Model, node: Node, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Run one node in onnx's reference implementation; None where that cannot."""
    from onnx.reference import ReferenceEvaluator

    if not 0 <= node.index < len(model.proto.graph.node):
        return None
    graph = onnx.helper.make_graph(
        [model.proto.graph.node[node.index]],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.inputs) if name],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    # onnx has no older implementation of the quantising operators; what they did before means the same since 19.
    newer = node.op_type in ("QuantizeLinear", "DequantizeLinear") and model.opset < 19
    imports = [onnx.helper.make_opsetid("", 19)] if newer else list(model.proto.opset_import)
    single = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    try:
        values = ReferenceEvaluator(single).run([name for name in node.outputs if name], dict(feeds))
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError):
        return None  # not folded: the node's output then counts as computed, which is always safe
    return dict(zip((name for name in node.outputs if name), map(np.asarray, values), strict=True))


def transparent(model: Model, graph: Graph, folded: Mapping[str, np.ndarray]) -> frozenset[str]:
    """Folded tensors whose node stays in the file: stored weights seen through a Cast or a (de)quantisation."""
    found: set[str] = set()
    for node in graph.nodes:
        source = node.input(0)
        if node.op_type not in _TRANSPARENT or node.output() not in folded:
            continue
        if source not in found and source not in model.constants:
            continue
        value = model.constants.get(source, folded.get(source))
        if node.op_type != "Cast" or (value is not None and is_float(value) and is_float(folded[node.output()])):
            found.add(node.output())
    return frozenset(found)


def read_shapes(graph: Graph, folded: Mapping[str, np.ndarray]) -> dict[str, frozenset[str]]:
    """Per folded tensor, the tensors whose shape its value depends on."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        own = {node.input(0)} if node.op_type in ("Shape", "Size") else set()
        found.update(dict.fromkeys(node.outputs, own.union(*(found.get(name, set()) for name in node.inputs))))
    return {name: frozenset(read) for name, read in found.items() if read and name in folded}
