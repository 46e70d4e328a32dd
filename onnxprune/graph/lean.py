"""A model's protobuf without its large weights, for a reader that takes them as arrays."""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.edit import copy_fields
from onnxprune.graph.model import Model, as_filed, fill, stored_tensors

# Smaller ones are read where shapes are inferred, and cost nothing.
_LEAST_BYTES = 1024
# Element types that numpy has too, without those of sizes and positions.
_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8})


def without_weights(model: Model, needed: Collection[str] = ()) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Take a model's large weights out of its protobuf.

    Args:
        model: the model; not changed.
        needed: constants that stay, because they are to be outputs.

    Returns:
        A protobuf in which large initializers that a node reads refer to a file that is not there, and their
        contiguous arrays by name. Everything else is in place, as in `to_proto`.
    """
    model = as_filed(model)
    read = {name for node in model.proto.graph.node for name in node.input}
    read.difference_update(needed, (value.name for value in model.proto.graph.output))
    proto = onnx.ModelProto()
    copy_fields(model.proto, proto, ("graph",))
    copy_fields(model.proto.graph, proto.graph, ("initializer",))
    for tensor, array in stored_tensors(proto, model.constants):  # of Constant nodes: there are no others yet
        fill(tensor, array, tensor.data_type)
    weights: dict[str, np.ndarray] = {}
    for tensor in model.proto.graph.initializer:
        array = model.constants[tensor.name]
        if tensor.data_type in _TYPES and array.nbytes >= _LEAST_BYTES and tensor.name in read:
            weights[tensor.name] = np.ascontiguousarray(array)
            proto.graph.initializer.append(_reference(tensor, array))
        else:
            proto.graph.initializer.append(tensor)
            fill(proto.graph.initializer[-1], array, tensor.data_type)
    return proto, weights


def _reference(tensor: TensorProto, array: np.ndarray) -> TensorProto:
    """A tensor whose data are said to be elsewhere."""
    data_type = tensor.data_type
    found = TensorProto(name=tensor.name, data_type=data_type, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
        found.external_data.add(key=key, value=value)
    return found
