"""External data: tensors stored in other files. They are checked first, and read only from the model's folder.

Weights of the main graph become arrays; what bodies of If, Loop and Scan, local functions and sparse tensors keep
outside is put into the protobuf. No number of the file is trusted: sizes are Python integers, and a file must hold all
that is asked of it.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import visible

# Larger data are mapped, not read: then another program that shortens the file ends this one.
_READ_BYTES = 1 << 30
_INLINE_BYTES = 1_900_000_000  # a protobuf cannot hold more
_LARGEST = 1 << 62
_MOST_AXES = 32
_NUMBER = re.compile("[0-9]{1,19}")
_BITS = re.compile("(?:U?INT|FLOAT)(?P<bits>[0-9]+)")


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's data are stored in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def check_shape(tensor: TensorProto, name: str) -> None:
    """Raise an error for a shape that no array can have.

    Raises:
        ModelError: a negative dimension, too many axes, or more elements than can be counted.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{name}: tensor {tensor.name!r} has a negative dimension; the file is damaged")
    # An empty array cannot have huge axes either: numpy counts what its strides span.
    if len(tensor.dims) > _MOST_AXES or prod(max(dim, 1) for dim in tensor.dims) * 16 > _LARGEST:
        raise ModelError(f"{name}: tensor {tensor.name!r} has an impossible shape; the file is damaged")


class DataFolder:
    """The folder with a model's external data.

    Links are followed to files in that folder, or in that of the file which the model's path links to: so do stores
    that hold every file once and give folders of links (Hugging Face's cache). Nothing else is read.

    Args:
        model: the model's name, for messages.
        folder: where the files are; None where the model came without a path.
        linked: the folder of the model's own file, where its path is a link.

    Attributes:
        files: the files that were read, links resolved.
    """

    def __init__(self, model: str, folder: Path | None, linked: Path | None = None) -> None:
        self._model = model
        self._folder = folder
        self._linked = linked
        self._read = 0
        self._known: dict[tuple[object, ...], np.ndarray] = {}
        self.files: dict[Path, None] = {}

    def array(self, tensor: TensorProto) -> np.ndarray:
        """A tensor's data, read into memory or, for large models, memory-mapped.

        Raises:
            InputError: the file is missing or cannot be read.
            ModelError: it is too short, a link, or outside the folder; or the tensor is not described well enough.
        """
        check_shape(tensor, self._model)
        dtype, bits = self._type(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = -(-prod(tensor.dims) * bits // 8)
        offset, length = self._number(tensor, entries, "offset"), self._number(tensor, entries, "length")
        if length not in (0, size):
            raise ModelError(f"{self._model}: tensor {tensor.name!r} takes {size} bytes, its external data {length}")
        path = self._path(tensor, entries.get("location", ""))
        key = (path, offset, tensor.data_type, *tensor.dims)
        if key not in self._known:
            try:
                with path.open("rb") as file:
                    self._known[key] = self._stored(tensor, file, offset, size, dtype)
            except OSError as error:
                raise InputError(
                    f"{self._model}: external data file {path.name!r} of tensor {tensor.name!r} cannot be read: "
                    f"{error.strerror or error}"
                ) from error
            self.files[path] = None
        return self._known[key]

    def bring_in(self, tensors: Iterable[TensorProto]) -> None:
        """Load external data into the tensors themselves.

        Raises:
            InputError: see `array`.
            ModelError: see `array`; or they are more than a protobuf can hold.
        """
        held = 0
        for tensor in filter(is_external, tensors):
            array = self.array(tensor)
            held += array.nbytes
            if held > _INLINE_BYTES:
                raise ModelError(f"{self._model}: bodies and functions keep too much external data; make it weights")
            fresh = numpy_helper.from_array(array, tensor.name)
            fresh.data_type = tensor.data_type
            fresh.doc_string = tensor.doc_string
            tensor.CopyFrom(fresh)

    def _type(self, tensor: TensorProto) -> tuple[np.dtype, int]:
        """Element type and bits per element of a tensor. Strings are refused, since they could be any object."""
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            name = TensorProto.DataType.Name(tensor.data_type)
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"{self._model}: tensor {tensor.name!r} has the unknown element type {tensor.data_type}"
            ) from None
        if dtype.hasobject or dtype.itemsize == 0:
            raise ModelError(f"{self._model}: tensor {tensor.name!r} keeps {name} elements as external data; not read")
        match = _BITS.match(name)
        packed = match is not None and int(match["bits"]) < 8
        return dtype, int(match["bits"]) if match and packed else 8 * dtype.itemsize

    def _number(self, tensor: TensorProto, entries: dict[str, str], key: str) -> int:
        text = entries.get(key, "0")
        if not _NUMBER.fullmatch(text):
            raise ModelError(f"{self._model}: tensor {tensor.name!r} has a damaged external-data {key}")
        return int(text)

    def _path(self, tensor: TensorProto, location: str) -> Path:
        what, shown = f"{self._model}: tensor {tensor.name!r}", visible(location)
        if self._folder is None:
            raise ModelError(f"{what} keeps its data in {shown!r}; pass the model's path")
        path = self._folder / location
        try:
            target = path.resolve()
            roots = [root.resolve() for root in (self._folder, self._linked) if root is not None]
            inside = any(target.is_relative_to(root) for root in roots)
            if not location or Path(location).is_absolute() or not inside:
                raise ModelError(f"{what} points to {shown!r}, outside the model's folder; it is not read")
            if not path.is_file():
                kind = ModelError if path.exists() else InputError
                raise kind(f"{self._model}: external data file {shown!r} of tensor {tensor.name!r} is missing")
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a NUL, or links in a circle
            reason = (isinstance(error, OSError) and error.strerror) or visible(str(error))
            raise ModelError(f"{what} has an impossible external-data location {shown!r} ({reason})") from None
        return target

    def _stored(self, tensor: TensorProto, file: BinaryIO, offset: int, size: int, dtype: np.dtype) -> np.ndarray:
        too_short = ModelError(
            f"{self._model}: external data file {Path(file.name).name!r} is too short for tensor {tensor.name!r}"
        )
        if offset + size > file.seek(0, 2):
            raise too_short
        shape = tuple(tensor.dims)
        if size == 0:
            return np.zeros(shape, dtype)
        packed = size < prod(shape) * dtype.itemsize
        if self._read + size > _READ_BYTES and not packed:
            return np.memmap(file, dtype, "r", offset, shape)
        self._read += size
        file.seek(offset)
        data = file.read(size)
        if len(data) < size:  # shortened meanwhile
            raise too_short
        if not packed:
            return np.frombuffer(data, dtype).reshape(shape)
        return numpy_helper.to_array(TensorProto(data_type=tensor.data_type, dims=shape, raw_data=data))


def locations(proto: onnx.ModelProto) -> set[str]:
    """The external files that a model refers to."""
    return {entry.value for entry in _locations(proto)}


def relocate(proto: onnx.ModelProto, before: str, after: str) -> None:
    """Let a model refer to an external file by another name."""
    for entry in _locations(proto):
        if entry.value == before:
            entry.value = after


def _locations(proto: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    constants = (node.attribute[0].t for node in proto.graph.node if is_constant(node))
    for tensor in filter(is_external, (*proto.graph.initializer, *constants, *other_tensors(proto))):
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def is_constant(node: onnx.NodeProto) -> bool:
    """Whether a node is a Constant with its value in one attribute."""
    return bool(node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.attribute) == 1)


def other_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model except the main graph's weights: sparse ones, attributes, subgraphs, functions."""
    yield from _of_sparse(proto.graph.sparse_initializer)
    for node in proto.graph.node:
        if not (is_constant(node) and node.attribute[0].name == "value"):
            yield from _of_nodes([node])
    for function in proto.functions:
        yield from _of_nodes(function.node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)
    for training in proto.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: onnx.AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse([attribute.sparse_tensor])
    yield from _of_sparse(attribute.sparse_tensors)
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    for graph in attribute.graphs:
        yield from _of_graph(graph)


def _of_sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices
