"""Constant folding: computes tensors that depend only on constants, or on shapes that are known.

What is cheap is computed node by node; what is not, or what onnx has no implementation of, all together in onnxruntime.
Results are of a bounded size, whatever a file asks for.
"""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
import onnx

from onnxprune.graph.inference import FAILURES
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node, is_float
from onnxprune.graph.operators import Operators, Runtime, Shape

# Inputs and results above this many elements are not folded: once for constants, once for shape arithmetic.
_CONSTANT_LIMIT = 1 << 26
_SHAPE_LIMIT = 1 << 16
# Elements of all results together; a model that stores more may have as many.
_TOTAL_LIMIT = 1 << 27
# What computing a node may raise where its inputs do not fit.
_WRONG = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError)
# A result whose size cannot be told before is not larger than its inputs by more than a factor of their axes.
_UNTOLD = 32


def fold_constants(
    model: Model, graph: Graph, operators: Operators, runtime: Runtime | None = None
) -> dict[str, np.ndarray]:
    """Compute all tensors that depend on constants only.

    Args:
        model: the model.
        graph: its nodes.
        operators: asked what an operator is.
        runtime: computes what is not cheap here; without it, that counts as computed.
    """
    return _Folding(model, graph, operators, {}, {}, _CONSTANT_LIMIT, runtime).run()


def fold_shapes(
    model: Model,
    graph: Graph,
    operators: Operators,
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
) -> dict[str, np.ndarray]:
    """Compute further tensors from the known shapes; those in `known` are not repeated."""
    return _Folding(model, graph, operators, known, shapes, _SHAPE_LIMIT, None).run()


def fold_weights(
    model: Model,
    graph: Graph,
    operators: Operators,
    known: Mapping[str, np.ndarray],
    runtime: Runtime | None = None,
) -> dict[str, np.ndarray]:
    """Compute further tensors that stored weights are made into with values in `known`, such as limits of a Slice.

    What is made of known values alone, such as a scale of a width, stays computed.
    """
    found = _Folding(model, graph, operators, known, {}, _CONSTANT_LIMIT, runtime).run()
    made = {name for name, array in (*model.constants.items(), *known.items()) if is_float(array) and array.size > 1}
    weights = {}
    for node in graph.nodes:
        if not made.isdisjoint(node.inputs):
            values = {name: found[name] for name in node.outputs if name in found}
            made.update(values)
            weights.update(values)
    return weights


class _Folding:
    """One pass of constant folding over a graph's nodes."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        operators: Operators,
        known: Mapping[str, np.ndarray],
        shapes: Mapping[str, Shape],
        limit: int,
        runtime: Runtime | None,
    ) -> None:
        self._model, self._graph, self._operators = model, graph, operators
        self._known, self._shapes, self._limit, self._runtime = known, shapes, limit, runtime
        self._found: dict[str, np.ndarray] = {}
        self._left = max(_TOTAL_LIMIT, sum(array.size for array in model.constants.values()))

    def run(self) -> dict[str, np.ndarray]:
        waiting: list[Node] = []
        awaited: set[str] = set()
        for node in self._graph.nodes:
            if not node.outputs or node.output() in self._known or node.captured:
                continue
            rules = self._operators(node.op_type)
            if rules.reads_shape(node):
                shape = self._shape(node.input(0))
                if shape is not None:
                    self._add({node.output(): rules.shape_value(node, shape)})
                continue
            read = [name for name in node.inputs if name]
            feeds = {name: value for name in read if (value := self._value(name)) is not None}
            if not read or any(name not in feeds and name not in awaited for name in read):
                continue
            if len(feeds) == len({*read}) and self._is_cheap(node, feeds):
                self._add(evaluate(self._model, node, feeds, self._operators) or {})
            elif self._runtime is not None and rules.deterministic(node) and self._left > 0:
                waiting.append(node)
                awaited.update(name for name in node.outputs if name)
        if waiting and self._runtime is not None:
            wanted = [name for node in waiting for name in node.outputs if name]
            read = [name for node in waiting for name in node.inputs if name and name not in awaited]
            values = {name: value for name in read if (value := self._value(name)) is not None}
            self._add(self._runtime.values(waiting, values, wanted, min(self._limit, self._left)))
        return self._found

    def _add(self, values: Mapping[str, np.ndarray]) -> None:
        self._found.update(values)
        self._left -= sum(value.size for value in values.values())

    def _value(self, name: str) -> np.ndarray | None:
        value = self._found.get(name)
        if value is None:
            value = self._known.get(name)
        return self._model.constants.get(name) if value is None else value

    def _shape(self, name: str) -> Shape | None:
        value = self._value(name)
        return self._shapes.get(name) if value is None else value.shape

    def _is_cheap(self, node: Node, feeds: Mapping[str, np.ndarray]) -> bool:
        inputs = list(feeds.values())
        if not self._operators(node.op_type).foldable(node, inputs, min(self._limit, self._left)):
            return False
        # Of operators whose inputs' values do not say how large the result is, none makes more than all pairs.
        most = prod(max(1, value.size) for value in inputs)
        if most > self._limit:
            told = _result_size(self._model, node, feeds)
            most = _UNTOLD * max(value.size for value in inputs) if told is None else told
        return most <= self._limit


def _result_size(model: Model, node: Node, feeds: Mapping[str, np.ndarray]) -> int | None:
    """Number of elements of a node's results, from onnx's shape inference; None where it fails."""
    proto = model.proto.graph.node[node.index]
    types = {
        name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    }
    small = {
        name: onnx.numpy_helper.from_array(np.asarray(value, order="C"))
        for name, value in feeds.items()
        if value.dtype.kind in "iu" and value.size <= 1024
    }
    try:
        schema = onnx.defs.get_schema(proto.op_type, model.opset, proto.domain)
        imports = list(model.proto.opset_import)
        made = onnx.shape_inference.infer_node_outputs(schema, proto, types, small, opset_imports=imports)
    except (onnx.defs.SchemaError, TypeError, *FAILURES):
        return None
    if not made or not all(_is_told(value) for value in made.values()):
        return None
    return sum(prod(int(dim.dim_value) for dim in value.tensor_type.shape.dim) for value in made.values())


def _is_told(value: onnx.TypeProto) -> bool:
    tensor = value.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def evaluate(
    model: Model, node: Node, feeds: Mapping[str, np.ndarray], operators: Operators
) -> dict[str, np.ndarray] | None:
    """Compute one node, by its handler or by onnx's reference implementation; None where neither can."""
    rules = operators(node.op_type)
    try:
        value = rules.fold(node, [feeds[name] for name in node.inputs if name])
    except _WRONG:
        return None
    if value is not None:
        return {node.output(): value}
    if not 0 <= node.index < len(model.proto.graph.node):
        return None
    from onnx.reference import ReferenceEvaluator

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
    except _WRONG:
        return None  # not folded: the node's output then counts as computed, which is always safe
    return dict(zip((name for name in node.outputs if name), map(np.asarray, values), strict=True))


def transparent(model: Model, graph: Graph, folded: Mapping[str, np.ndarray], operators: Operators) -> frozenset[str]:
    """Constant tensors whose node stays in the file: stored weights behind a Cast or dequantisation."""
    passed: set[str] = set()
    for node in graph.nodes:
        source, value = node.input(0), folded.get(node.output())
        if value is None or (source not in passed and source not in model.constants):
            continue
        if operators(node.op_type).decodes(node, model.constants.get(source, folded.get(source)), value):
            passed.add(node.output())
    return frozenset(passed)


def read_shapes(
    graph: Graph, known: Collection[str], folded: Collection[str], operators: Operators
) -> dict[str, frozenset[str]]:
    """For each folded tensor, the tensors whose shapes its value depends on.

    Args:
        graph: the nodes.
        known: all tensors whose values are known at the pinned sizes.
        folded: those of them whose values do not depend on the sizes.
        operators: asked what an operator is.
    """
    sources: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        made = [name for name in node.outputs if name in known or name in folded]
        if not made:
            continue
        read = {sources[name] for name in node.inputs if name in sources}
        if operators(node.op_type).reads_shape(node):
            read.add(frozenset({node.input(0)}))
        if read:
            every = next(iter(read)) if len(read) == 1 else frozenset[str]().union(*read)
            sources.update(dict.fromkeys(made, every))
    return {name: read for name, read in sources.items() if name in folded}
