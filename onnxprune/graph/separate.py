"""Vectors that are read several times, apart for each reader.

Exporters and optimisers store equal biases once. That is no bond between the layers that read them, nor between the
bias and the mean of one: for the analysis every input of a node has a copy of its own, which is written as one with the
original again as long as both are equal. A vector that a node only gives another shape, for several readers, is stored
in that shape first. Matrices that several nodes read stay one, also by another name (exporters store what is equal
once, and give it on by Identity): there it is the network's design.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType

import numpy as np
import onnx

from onnxprune.graph.edit import placeholder, without_dead
from onnxprune.graph.inference import FAILURES
from onnxprune.graph.model import Model, constant_nodes, constant_type
from onnxprune.graph.nodes import is_float, qualified, read_in_bodies


def separated(model: Model, is_view: Callable[[str], bool], is_alias: Callable[[str], bool]) -> Model:
    """The model with a copy of each shared vector for every input but the first that reads it.

    Args:
        model: the model.
        is_view: whether an operator, by name, only gives its first input another shape.
        is_alias: whether it gives on its input as it is.
    """
    model = _with_views_stored(_without_aliases(model, is_alias), is_view)
    shared = _shared(model)
    if not shared:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for node, _ in constant_nodes(proto.graph):
        if node.output[0] in shared:
            types[node.output[0]] = constant_type(node, model.constants[node.output[0]])
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)} | {*model.constants}
    constants, copies = dict(model.constants), dict[str, str]()
    seen: set[str] = set()
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name not in shared:
                continue
            copy = _fresh(name, taken) if name in seen else name
            seen.add(name)
            node.input[position] = copy
            if copy != name:
                constants[copy], copies[copy] = model.constants[name], name
                proto.graph.initializer.append(placeholder(onnx.TensorProto(name=copy, data_type=types[name])))
                if proto.ir_version < 4:  # then every initializer is also an input
                    shape = model.constants[name].shape
                    proto.graph.input.append(onnx.helper.make_tensor_value_info(copy, types[name], shape))
    return replace(model, proto=proto, constants=MappingProxyType(constants), copies=MappingProxyType(copies))


def _without_aliases(model: Model, is_alias: Callable[[str], bool]) -> Model:
    """Read constants themselves where nodes read them by another name."""
    fixed = {value.name for value in model.proto.graph.output} | {*read_in_bodies(model.proto.graph)}
    aliases: dict[str, str] = {}
    for node in model.proto.graph.node:
        source = node.input[0] if len(node.input) == 1 else ""
        if is_alias(qualified(node.op_type, node.domain)) and node.output[0] not in fixed:
            source = aliases.get(source, source)
            if source in model.constants and is_float(model.constants[source]):
                aliases[node.output[0]] = source
    if not aliases:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    left = [node for node in proto.graph.node if not {*node.output} & aliases.keys()]
    for node in left:
        for position, name in enumerate(node.input):
            node.input[position] = aliases.get(name, name)
    del proto.graph.node[:]
    proto.graph.node.extend(left)
    return without_dead(replace(model, proto=proto), model.proto)


def _with_views_stored(model: Model, is_view: Callable[[str], bool]) -> Model:
    """Store vectors in the shapes that nodes give them, where several nodes read the result."""
    graph = model.proto.graph
    readers = Counter(name for node in graph.node for name in node.input)
    fixed = {value.name for value in graph.output} | {*read_in_bodies(graph)}
    constants, made = dict(model.constants), set[str]()
    for node in graph.node:
        name = node.output[0] if len(node.output) == 1 else ""
        if readers[name] > 1 and name not in fixed and all(read in constants for read in node.input):
            array = constants[node.input[0]] if node.input else None
            if array is not None and _is_vector(array) and is_view(qualified(node.op_type, node.domain)):
                shape = _viewed(model, node, constants)
                if shape is not None:
                    constants[name] = array.reshape(shape)
                    made.add(name)
    if not made:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    left = []
    for node in model.proto.graph.node:
        if node.output and node.output[0] in made:
            kind = types.get(node.input[0]) or onnx.helper.np_dtype_to_tensor_dtype(constants[node.output[0]].dtype)
            types[node.output[0]] = kind
            proto.graph.initializer.append(placeholder(onnx.TensorProto(name=node.output[0], data_type=kind)))
            if proto.ir_version < 4:  # then every initializer is also an input
                shape = constants[node.output[0]].shape
                proto.graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], kind, shape))
        else:
            left.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(left)
    return without_dead(replace(model, proto=proto, constants=MappingProxyType(constants)), model.proto)


def _viewed(model: Model, node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> tuple[int, ...] | None:
    """The shape that a node gives its first input; None where onnx cannot tell."""
    arrays = {name: constants[name] for name in node.input}
    types = {
        name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    }
    known = {name: onnx.numpy_helper.from_array(np.asarray(arrays[name], order="C")) for name in {*node.input[1:]}}
    imports = list(model.proto.opset_import)
    try:
        schema = onnx.defs.get_schema(node.op_type, model.opset, node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, known, opset_imports=imports)
    except (onnx.defs.SchemaError, TypeError, *FAILURES):
        return None
    kind = found.get(node.output[0])
    dims = [] if kind is None else [dim.dim_value for dim in kind.tensor_type.shape.dim]
    return tuple(dims) if dims and prod(dims) == arrays[node.input[0]].size else None


def _is_vector(array: np.ndarray) -> bool:
    """Whether an array holds several numbers along one axis."""
    return array.size > 1 and max(array.shape) == array.size and is_float(array)


def _shared(model: Model) -> set[str]:
    graph = model.proto.graph
    vectors = {name for name, array in model.constants.items() if _is_vector(array)}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            if name in vectors:
                readers[name] = readers.get(name, 0) + 1
    fixed = {value.name for value in graph.output} | {*read_in_bodies(graph)}
    return {name for name, count in readers.items() if count > 1 and name not in fixed}


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}:{number}" in taken:
        number += 1
    taken.add(f"{name}:{number}")
    return f"{name}:{number}"
