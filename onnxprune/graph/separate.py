"""Vectors that are read several times, apart for each reader.

Exporters and optimisers store equal biases once. That is no bond between the layers that read them, nor between the
bias and the mean of one: for the analysis every input of a node has a copy of its own, which is written as one with the
original again as long as both are equal. Matrices that several nodes read stay one: there it is the network's design.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import onnx

from onnxprune.graph.edit import placeholder
from onnxprune.graph.model import Model, constant_nodes, constant_type
from onnxprune.graph.nodes import is_float


def separated(model: Model) -> Model:
    """The model with a copy of each shared vector for every input but the first that reads it."""
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


def _shared(model: Model) -> set[str]:
    graph = model.proto.graph
    vectors = {
        name
        for name, array in model.constants.items()
        if array.size > 1 and max(array.shape) == array.size and is_float(array)
    }
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            if name in vectors:
                readers[name] = readers.get(name, 0) + 1
    fixed = {value.name for value in graph.output} | {*_read_in_bodies(graph)}
    return {name for name, count in readers.items() if count > 1 and name not in fixed}


def _read_in_bodies(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for inner in body.node:
                    yield from inner.input
                yield from (value.name for value in body.output)
                yield from _read_in_bodies(body)


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}:{number}" in taken:
        number += 1
    taken.add(f"{name}:{number}")
    return f"{name}:{number}"
