"""Extracts parts of a graph as models: the nodes between known tensors and wanted ones."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model, constant_nodes, constant_type
from onnxprune.graph.nodes import Node, read_graph
from onnxprune.graph.order import needed_nodes


def subgraph(
    model: Model,
    nodes: Sequence[Node],
    known: Mapping[str, np.ndarray],
    wanted: Sequence[str],
    parameters: Collection[str] = (),
) -> Model:
    """A model of some of the nodes. Its inputs have no declared shapes, so it runs at any batch size.

    Sequences cannot be inputs: the nodes that make them are added, where all that these read is known.

    Args:
        model: the whole model.
        nodes: the nodes to run, in topological order.
        known: tensors made before these nodes; only their types matter. Those that are read become inputs.
        wanted: tensors to hand out.
        parameters: constants that become inputs too, so that one session serves many values.

    Raises:
        ModelError: a sequence or map would be an input.
    """
    nodes = _with_sequences(model, nodes, known)
    types = _constant_types(model)
    proto = onnx.ModelProto(
        ir_version=max(model.proto.ir_version, 4),  # before 4 every initializer must also be an input
        opset_import=model.proto.opset_import,
        functions=model.proto.functions,
    )
    graph = proto.graph
    graph.name = "subgraph"
    constants: dict[str, np.ndarray] = {}
    inputs: dict[str, int] = {}
    for node in nodes:
        if node.op_type == "Constant":
            continue
        graph.node.append(model.proto.graph.node[node.index])
        for name in (*node.inputs, *node.captured):
            if name in parameters:
                inputs[name] = types[name]
            elif name in types:
                constants[name] = model.constants[name]
            elif name in known and isinstance(known[name], np.ndarray):
                inputs[name] = onnx.helper.np_dtype_to_tensor_dtype(known[name].dtype)
    for name in constants:
        graph.initializer.append(onnx.TensorProto(name=name, data_type=types[name], dims=[-1]))
    for name, element in inputs.items():
        graph.input.append(onnx.ValueInfoProto(name=name))
        graph.input[-1].type.tensor_type.elem_type = element
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return Model(proto, MappingProxyType(constants), model.name)


def _with_sequences(model: Model, nodes: Sequence[Node], known: Mapping[str, np.ndarray]) -> Sequence[Node]:
    own = {name for node in nodes for name in node.outputs}
    read = {name: node for node in nodes for name in node.reads if name in known and name not in own}
    sequences = {name: node for name, node in read.items() if not isinstance(known[name], np.ndarray)}
    if not sequences:
        return nodes
    arrays = {name for name in known if isinstance(known[name], np.ndarray)} | {*model.constants}
    added = needed_nodes(read_graph(model).nodes, sequences, arrays.__contains__)
    made = arrays.union(*(node.outputs for node in added))
    if not all(made.issuperset(node.reads) for node in added):
        name, node = next(iter(sequences.items()))
        raise ModelError(f"{model.name}: {node} reads {name!r}, no tensor; use --no-repair and another scorer")
    return sorted({node.name: node for node in (*added, *nodes)}.values(), key=lambda node: node.index)


def _constant_types(model: Model) -> dict[str, int]:
    types = {tensor.name: tensor.data_type for tensor in model.proto.graph.initializer}
    for node, _ in constant_nodes(model.proto.graph):
        if node.output[0] in model.constants:
            types[node.output[0]] = constant_type(node, model.constants[node.output[0]])
    return types
