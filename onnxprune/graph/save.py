"""Write `.onnx` files: checked, and whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.errors import InputError, ModelError
from onnxprune.graph.check import runs
from onnxprune.graph.load import first_line
from onnxprune.graph.model import Model, constant_nodes, skeleton, to_proto

# Protobuf cannot hold 2 GiB; a margin is left for everything that is not weights.
_PROTOBUF_LIMIT = 1_900_000_000
_EXTERNAL_LEAST = 1024
_ALIGNMENT = 4096


def save(model: Model, path: Path | str, check: Callable[[Path], None] | None = None) -> None:
    """Write a model. Nothing appears under `path` unless the file is whole, valid and passed `check`.

    Weights go to `<name>.data` beside the file where the original kept external data, or where the file would not fit
    into a protobuf otherwise.

    Args:
        model: what to write.
        path: the file's final name.
        check: called with the written file before it gets its final name; raises where it does not like it. By default
            the file must load and run in onnxruntime.

    Raises:
        InputError: the path cannot be written.
        ModelError: the model is not valid.
    """
    path = Path(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another output path") from None
    try:
        written = folder / path.name
        write(model, written)
        validate(model, written)
        if check is None:
            runs(written, model)
        else:
            check(written)
        for file in sorted(folder.iterdir(), key=lambda f: f == written):  # the model last: it refers to the data
            file.replace(path.parent / file.name)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another output path") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def data_file(model: Model, path: Path) -> Path | None:
    """Where the weights of a model at `path` are, None where they are in the file itself."""
    outside = model.external or model.stored_bytes > _PROTOBUF_LIMIT
    return path.with_name(f"{path.name}.data") if outside else None


def write(model: Model, path: Path) -> None:
    """Write the file (and `<name>.data` beside it where needed), without checks."""
    data = data_file(model, path)
    if data is None:
        path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
        return
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    location = data.name
    with data.open("wb") as file:
        tensors = [(t, model.constants[t.name]) for t in proto.graph.initializer]
        for node, attribute in constant_nodes(proto.graph):
            if attribute.name == "value":
                tensors.append((attribute.t, model.constants[node.output[0]]))
        for tensor, array in tensors:
            _store(tensor, array, file, location)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store(tensor: TensorProto, array: np.ndarray, file: BinaryIO, location: str) -> None:
    """Put the payload of a large tensor into the data file, that of a small one into the protobuf."""
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


def validate(model: Model, path: Path) -> None:
    """Run the ONNX checker on a written file, and strict shape inference.

    Raises:
        ModelError: the file is not valid.
    """
    try:
        onnx.checker.check_model(str(path))
        onnx.shape_inference.infer_shapes(skeleton(model), strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{model.name}: the result is not a valid model: {first_line(error)}; please report"
        ) from error
