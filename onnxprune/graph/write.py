"""Writes a model to a file, large weights to a second file beside it. Checks are in `structure.save`."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.model import Model, as_filed, encoded, stored_tensors, to_proto

# Protobuf cannot hold 2 GiB; a margin is left for everything that is not weights.
_PROTOBUF_LIMIT = 1_900_000_000
_EXTERNAL_LEAST = 1024
# Where files are mapped, large tensors begin at a page; gaps before small ones would be a good part of a small file.
_ALIGNMENT, _SMALL_ALIGNMENT, _LARGE = 4096, 64, 1 << 20


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
    model = as_filed(model)
    if not is_apart(model):
        path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
        return
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    location = data or f"{path.name}.data"
    with path.with_name(location).open("wb") as file:
        for tensor, array in stored_tensors(proto, model.constants):
            _store(tensor, array, file, location)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store(tensor: TensorProto, array: np.ndarray, file: BinaryIO, location: str) -> None:
    """Store a tensor: large data in the data file, small data in the protobuf."""
    stored = encoded(array, tensor, tensor.data_type)
    if len(stored.raw_data) >= _EXTERNAL_LEAST:
        step = _ALIGNMENT if len(stored.raw_data) >= _LARGE else _SMALL_ALIGNMENT
        file.write(b"\0" * (-file.tell() % step))
        entries = {"location": location, "offset": file.tell(), "length": len(stored.raw_data)}
        file.write(stored.raw_data)
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            stored.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(stored)
