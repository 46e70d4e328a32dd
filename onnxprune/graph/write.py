"""Writes a model to a file, large weights to a second file beside it. Checks are in `structure.save`."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.model import Model, constant_nodes, merged, to_proto

# Protobuf cannot hold 2 GiB; a margin is left for everything that is not weights.
_PROTOBUF_LIMIT = 1_900_000_000
_EXTERNAL_LEAST = 1024
_ALIGNMENT = 4096


def is_apart(model: Model) -> bool:
    """Whether a model's weights go into a separate file."""
    return model.external or model.stored_bytes > _PROTOBUF_LIMIT


def write(model: Model, path: Path, data: str | None = None) -> None:
    """Write a model's files, without checks.

    Args:
        model: the model.
        path: the file.
        data: name of the file beside it that takes the weights where they are apart, by default `<name>.data`.
    """
    model = merged(model)
    if not is_apart(model):
        path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
        return
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    location = data or f"{path.name}.data"
    with path.with_name(location).open("wb") as file:
        tensors = [(t, model.constants[t.name]) for t in proto.graph.initializer]
        for node, attribute in constant_nodes(proto.graph):
            if attribute.name == "value":
                tensors.append((attribute.t, model.constants[node.output[0]]))
        for tensor, array in tensors:
            _store(tensor, array, file, location)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store(tensor: TensorProto, array: np.ndarray, file: BinaryIO, location: str) -> None:
    """Store a tensor: large data in the data file, small data in the protobuf."""
    encoded = onnx.numpy_helper.from_array(np.asarray(array, order="C"), tensor.name)
    encoded.data_type = tensor.data_type  # 4-bit types share a numpy representation with others
    encoded.doc_string = tensor.doc_string
    if len(encoded.raw_data) >= _EXTERNAL_LEAST:
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        entries = {"location": location, "offset": file.tell(), "length": len(encoded.raw_data)}
        file.write(encoded.raw_data)
        encoded.ClearField("raw_data")
        encoded.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            encoded.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(encoded)
