"""What a file says in a way that the rest does not read, put right when it is read.

Sparse weights, nodes that stand before what they read, outputs declared with a wrong shape.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.core.errors import ModelError
from onnxprune.graph.external import is_constant
from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.negative import infer_shapes

_MOST_ELEMENTS = 1 << 26
_PUT_ASIDE = "deprecated"


def dense(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A protobuf whose sparse weights are dense ones; the same one where it has none.

    Raises:
        ModelError: a sparse tensor is damaged, or too large as a dense one.
    """
    if not proto.graph.sparse_initializer and not any(map(_is_sparse, proto.graph.node)):
        return proto
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.sparse_initializer:
        whole.graph.initializer.append(_dense(tensor, tensor.values.name, name))
    del whole.graph.sparse_initializer[:]
    for node in filter(_is_sparse, whole.graph.node):
        value = _dense(node.attribute[0].sparse_tensor, node.output[0], name)
        node.attribute[0].CopyFrom(onnx.helper.make_attribute("value", value))
    return whole


def _is_sparse(node: onnx.NodeProto) -> bool:
    return is_constant(node) and node.attribute[0].name == "sparse_value"


def _dense(tensor: onnx.SparseTensorProto, label: str, name: str) -> TensorProto:
    """Indices are positions in the flattened tensor, or one row of coordinates a value."""
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0 or prod(shape) > _MOST_ELEMENTS:
        raise ModelError(f"{name}: sparse tensor {label!r} is too large to be stored densely; make it a dense one")
    try:
        values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        whole = np.zeros(prod(shape), values.dtype)
        if values.shape != flat.shape or (flat < 0).any():
            raise ValueError("values and indices do not fit each other")
        whole[flat] = values
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ModelError(f"{name}: sparse tensor {label!r} is damaged ({error}); export the model again") from error
    return numpy_helper.from_array(whole.reshape(shape), label)


def in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A protobuf in which each node stands behind those whose results it reads; the same one where it has them so.

    onnxruntime sorts nodes by itself, and its converter to float16 leaves them unsorted.
    """
    if _is_in_order(proto.graph):
        return proto
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    _sort(whole.graph)
    return whole


def _is_in_order(graph: onnx.GraphProto) -> bool:
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if not later.isdisjoint(_read(node)) or not all(map(_is_in_order, _bodies(node))):
            return False
        later.difference_update(node.output)
    return True


def _sort(graph: onnx.GraphProto) -> None:
    """Sort the nodes of a graph and of the bodies in it; of those that may stand next, the file's first one does.

    A graph with a cycle stays as it is.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waits_for = [{maker[name] for name in _read(node) if name in maker} for node in graph.node]
    read_by: list[list[int]] = [[] for _ in graph.node]
    for index, needed in enumerate(waits_for):
        for other in needed:
            read_by[other].append(index)
    ready = [index for index, needed in enumerate(waits_for) if not needed]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for index in read_by[order[-1]]:
            waits_for[index].discard(order[-1])
            if not waits_for[index]:
                heapq.heappush(ready, index)
    if len(order) == len(graph.node):
        nodes = [graph.node[index] for index in order]
        del graph.node[:]
        graph.node.extend(nodes)
    for node in graph.node:
        for body in _bodies(node):
            _sort(body)


def _bodies(node: onnx.NodeProto) -> Sequence[onnx.GraphProto]:
    return [
        body
        for attribute in node.attribute
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """All tensors that a node reads, those that its bodies read too."""
    yield from filter(None, node.input)
    for body in _bodies(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _read(inner)


def with_types(model: Model) -> Model:
    """The model with types of its outputs as inference finds them, where the file declares none.

    onnxruntime needs none, and what adds outputs to a file often writes their names alone.

    Raises:
        ModelError: inference does not find the type of an output.
    """
    if all(value.HasField("type") for value in model.proto.graph.output):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    found = {value.name: value.type for value in infer_shapes(skeleton(model), strict=False).graph.output}
    for value in proto.graph.output:
        if found[value.name].WhichOneof("value") is None:
            raise ModelError(f"{model.name}: output {value.name!r} has no type, and onnx cannot tell it; declare one")
        if not value.HasField("type"):
            value.type.CopyFrom(found[value.name])
    return replace(model, proto=proto)


def as_checked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same protobuf, changed where the checker insists on what onnxruntime does without.

    Inputs and outputs without a shape get one, and operators that the file's operator set has put aside (such as
    GroupNormalization of set 18) count as those of a domain that nobody knows.
    """
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    for node in proto.graph.node:
        if _is_deprecated(node, versions.get(node.domain, 0)):
            node.domain = _PUT_ASIDE
    proto.opset_import.append(onnx.helper.make_opsetid(_PUT_ASIDE, 1))
    return proto


def _is_deprecated(node: onnx.NodeProto, version: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(node.op_type, version, node.domain).deprecated)
    except onnx.defs.SchemaError:
        return False


def corrected(model: Model) -> Model:
    """The model with shapes of its outputs as they come out, where the file declares others.

    Converters write such files, and onnxruntime runs them.
    """
    if _inferred(model, strict=True) is not None:
        return model
    inferred = _inferred(model, strict=False)
    if inferred is None:
        return model
    proto = onnx.ModelProto()
    wrong = []
    for index, value in enumerate(model.proto.graph.output):
        shape = inferred.get(value.name)
        if shape is not None and _contradicts(value.type.tensor_type, shape):
            wrong.append((index, shape))
    if not wrong:
        return model
    proto.CopyFrom(model.proto)
    for index, shape in wrong:
        proto.graph.output[index].type.tensor_type.shape.CopyFrom(shape)
    names = ", ".join(repr(proto.graph.output[index].name) for index, _ in wrong)
    note = f"the file declares another shape for output {names} than comes out; it was corrected"
    return replace(model, proto=proto, notes=(*model.notes, note))


def with_maps_told(model: Model) -> Model:
    """The model with a note where it puts out lists of maps, as converters of scikit-learn's classifiers add them."""
    maps = [value.name for value in model.proto.graph.output if value.type.HasField("sequence_type")]
    zipped = {name for node in model.proto.graph.node if node.op_type == "ZipMap" for name in node.output}
    if zipped.isdisjoint(maps):
        return model
    note = (
        f"output {', '.join(map(repr, maps))} is a list of maps (ZipMap), which nothing here looks at; export "
        'with zipmap=False (skl2onnx: options={"zipmap": False}), so that its probabilities count'
    )
    return replace(model, notes=(*model.notes, note))


def _inferred(model: Model, *, strict: bool) -> dict[str, onnx.TensorShapeProto] | None:
    """Shapes of the outputs; None where inference fails. Without `strict` what the file declares is left out."""
    small = skeleton(model)
    if not strict:
        del small.graph.value_info[:]
        for value in small.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    try:
        inferred = infer_shapes(small, strict=strict)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return None
    outputs = {value.name: value.type.tensor_type for value in inferred.graph.output}
    return {name: tensor.shape for name, tensor in outputs.items() if tensor.HasField("shape")}


def _contradicts(declared: onnx.TypeProto.Tensor, inferred: onnx.TensorShapeProto) -> bool:
    if not declared.HasField("shape"):
        return False
    if len(declared.shape.dim) != len(inferred.dim):
        return True
    pairs = zip(declared.shape.dim, inferred.dim, strict=True)
    return any(a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value for a, b in pairs)
