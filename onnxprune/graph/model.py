"""The model in memory: a protobuf that is never changed, and its constant tensors as arrays.

Stages exchange `Model` objects. Weights live in `constants` (memory-mapped where they come from external data), so
that a stage replaces arrays without touching protobuf; `to_proto` writes them back. Everything else in the file (names,
metadata, doc strings, quantisation annotations) stays as it was read.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.core.errors import ModelError
from onnxprune.graph.external import DataFolder, check_shape, is_constant, is_external, other_tensors

# Tensors above this many elements are kept out of the protobuf copies that shape inference and analysis work on.
_SMALL = 1024


@dataclass(frozen=True, slots=True)
class Narrow:
    """How the file holds a constant: in a narrower element type, which a node widens.

    Attributes:
        stored: name of the stored tensor.
        data_type: its ONNX element type.
        node: the node that widens it, serialised.
    """

    stored: str
    data_type: int
    node: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A loaded ONNX model.

    Attributes:
        proto: the model as read, with functions inlined, sparse tensors made dense, and what `notes` tell put right;
            treated as immutable. Tensors with external data have no payload here.
        constants: name -> array, for initializers and the outputs of Constant nodes of the main graph.
        name: what messages call the model: its path, or "model".
        external: whether the file keeps weights as external data.
        files: the files that the model was read from, which nothing may be written to.
        copies: constants that are another one in the file, as long as they equal it; see `graph.separate`.
        narrow: constants that the file holds in a narrower type; see `graph.widen`.
        notes: what is to be said of it, such as what was put right when the file was read.
        unbatched: whether the first axis of its inputs counts no rows, although the file leaves its size open.
    """

    proto: onnx.ModelProto
    constants: Mapping[str, np.ndarray]
    name: str = "model"
    external: bool = False
    files: tuple[Path, ...] = ()
    copies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    narrow: Mapping[str, Narrow] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    unbatched: bool = False

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    @property
    def stored_bytes(self) -> int:
        """Size of all constants in bytes."""
        return sum(stored_size(array) for array in self.constants.values())

    def __repr__(self) -> str:
        return f"Model({self.name!r}: {len(self.proto.graph.node)} nodes, {self.stored_bytes:,} bytes of weights)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as bytes and arrays: a read-only mapping cannot be."""
        rest = (self.name, self.external, self.files, dict(self.copies), dict(self.narrow), self.notes, self.unbatched)
        return _restored, (self.proto.SerializeToString(), dict(self.constants), *rest)

    def with_constants(self, changed: Mapping[str, np.ndarray]) -> "Model":
        """A copy in which the named constants have new values."""
        return replace(self, constants=MappingProxyType({**self.constants, **changed}))


def _restored(proto: bytes, constants: dict[str, np.ndarray], *rest: Any) -> Model:
    return Model(onnx.ModelProto.FromString(proto), MappingProxyType(constants), *rest)


def stored_size(array: np.ndarray) -> int:
    """Bytes that ONNX stores for `array` (strings count their characters)."""
    return sum(len(str(s)) for s in array.ravel()) if array.dtype.kind in "OUS" else int(array.nbytes)


def constant_nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.AttributeProto]]:
    """The Constant nodes of a graph, each with the attribute that holds its value."""
    for node in filter(is_constant, graph.node):
        yield node, node.attribute[0]


def attribute_array(attribute: onnx.AttributeProto) -> np.ndarray | None:
    """The value of a Constant node's attribute as an array; None for sparse tensors."""
    match attribute.name:
        case "value":
            return numpy_helper.to_array(attribute.t)
        case "value_float":
            return np.array(attribute.f, np.float32)
        case "value_floats":
            return np.array(attribute.floats, np.float32)
        case "value_int":
            return np.array(attribute.i, np.int64)
        case "value_ints":
            return np.array(attribute.ints, np.int64)
        case _:
            return None


def from_proto(proto: onnx.ModelProto, name: str = "model", data: DataFolder | None = None) -> Model:
    """Wrap a protobuf.

    Args:
        proto: taken as it is; see `brought_together`.
        name: what messages call the model.
        data: where external data are; by default there must be none.

    Raises:
        ModelError: a tensor cannot be decoded, or its external data cannot be read.
    """
    data = data or DataFolder(name, None)
    constants: dict[str, np.ndarray] = {}
    external = False
    for made, tensor in _weights(proto.graph):
        external = external or is_external(tensor)
        constants[made] = data.array(tensor) if is_external(tensor) else decoded(tensor, name)
    for node, attribute in constant_nodes(proto.graph):
        if attribute.name != "value" and (array := attribute_array(attribute)) is not None:
            constants[node.output[0]] = array
    return Model(proto, MappingProxyType(constants), name, external, tuple(data.files))


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and values of Constant nodes, by the name of what they make."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node, attribute in constant_nodes(graph):
        if attribute.name == "value":
            yield node.output[0], attribute.t


def brought_together(proto: onnx.ModelProto, data: DataFolder) -> onnx.ModelProto:
    """A protobuf whose bodies, functions and attributes hold their tensors themselves; the same one where they do.

    Raises:
        ModelError: external data cannot be read.
    """
    if not any(map(is_external, other_tensors(proto))):
        return proto
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    data.bring_in(other_tensors(whole))
    return whole


def decoded(tensor: TensorProto, name: str) -> np.ndarray:
    """The array in a tensor that holds its own data.

    Raises:
        ModelError: it is damaged, or keeps its data elsewhere.
    """
    if is_external(tensor):
        raise ModelError(f"{name}: tensor {tensor.name!r} keeps its data in another file; it is not read")
    check_shape(tensor, name)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, MemoryError, AttributeError, OverflowError) as error:
        raise ModelError(f"{name}: tensor {tensor.name!r} is damaged ({error}); export the model again") from error


def release(array: np.ndarray) -> None:
    """Let go of the memory that a mapped array's pages take; they are read again when needed."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def merged(model: Model) -> Model:
    """The model in which copies that still equal their original are one with it again."""
    gone = same_copies(model)
    if not gone:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in gone:
                node.input[position] = gone[name]
    for stored in (proto.graph.initializer, proto.graph.input):
        for index in reversed(range(len(stored))):
            if stored[index].name in gone:
                del stored[index]
    constants = {name: array for name, array in model.constants.items() if name not in gone}
    return replace(model, proto=proto, constants=MappingProxyType(constants), copies=MappingProxyType({}))


def same_copies(model: Model) -> Mapping[str, str]:
    """Copies that equal their original, by name."""
    constants = model.constants
    return {
        copy: original
        for copy, original in model.copies.items()
        if copy in constants and original in constants and _equal(constants[copy], constants[original])
    }


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    same = first.dtype == second.dtype and first.shape == second.shape
    return first is second or (same and first.tobytes() == second.tobytes())


def as_filed(model: Model) -> Model:
    """The model as its file holds it: copies are one with their original, and what is stored narrow is narrow.

    Values that a narrower type cannot hold, and constants that are not in the file, stay as they are.
    """
    model = merged(model)
    there = {name: narrow for name, narrow in model.narrow.items() if name in model.constants}
    constants, stored = dict(model.constants), dict[str, TensorProto]()
    for name, narrow in there.items():
        kind = onnx.helper.tensor_dtype_to_np_dtype(narrow.data_type)
        with np.errstate(over="ignore"):
            array = constants[name].astype(kind)
        if not np.isfinite(array).all() and np.isfinite(constants[name]).all():
            continue
        del constants[name]
        constants[narrow.stored] = array
        stored[name] = TensorProto(name=narrow.stored, data_type=narrow.data_type, dims=(0,), raw_data=b"")
    if not stored:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(stored.get(tensor.name, tensor) for tensor in model.proto.graph.initializer)
    proto.graph.node.extend(onnx.NodeProto.FromString(there[name].node) for name in stored)
    proto.graph.node.extend(model.proto.graph.node)
    nothing = MappingProxyType[str, Narrow]({})
    return replace(model, proto=proto, constants=MappingProxyType(constants), narrow=nothing)


def to_proto(model: Model) -> onnx.ModelProto:
    """The protobuf with all constants in place (no external data)."""
    model = as_filed(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor, array in stored_tensors(proto, model.constants):
        fill(tensor, array, tensor.data_type)
    return proto


def stored_tensors(
    proto: onnx.ModelProto, constants: Mapping[str, np.ndarray]
) -> Iterator[tuple[TensorProto, np.ndarray]]:
    """Each tensor of a protobuf that is to hold a constant, of its element type, and the constant.

    Constant nodes that list single numbers get a tensor in place of the list where the constant is another one now.
    """
    for tensor in proto.graph.initializer:
        yield tensor, constants[tensor.name]
    for node, attribute in constant_nodes(proto.graph):
        array = constants.get(node.output[0])
        if array is None:
            continue
        if attribute.name != "value":
            if np.array_equal(array, np.asarray(attribute_array(attribute))):
                continue
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
        yield attribute.t, array


def encoded(array: np.ndarray, like: TensorProto, data_type: int) -> TensorProto:
    """An array as a tensor with the name and the notes of another."""
    array = np.asarray(array, order="C")
    if array.dtype.kind in "biuf" and array.dtype.str[0] in "<|":  # what `from_array` does, in a third of the time
        fresh = TensorProto(dims=array.shape, raw_data=array.tobytes())
        if like.name:
            fresh.name = like.name
    else:
        fresh = numpy_helper.from_array(array, like.name)
    # 4-bit types share a numpy representation with others: the declared type is the truth.
    fresh.data_type = data_type
    fresh.doc_string = like.doc_string
    fresh.metadata_props.extend(like.metadata_props)
    return fresh


def fill(tensor: TensorProto, array: np.ndarray, data_type: int) -> None:
    """Fill a tensor, whose payload and shape may be stale, with an array."""
    inline = tensor.data_location != TensorProto.EXTERNAL
    if inline and tensor.data_type == data_type and tuple(tensor.dims) == array.shape:
        current = numpy_helper.to_array(tensor)
        if current.dtype == array.dtype and current.tobytes() == array.tobytes():
            return
    tensor.CopyFrom(encoded(array, tensor, data_type))


def skeleton(model: Model) -> onnx.ModelProto:
    """A small protobuf for shape inference: large constants become graph inputs of the same name, type and shape."""
    graph = model.proto.graph
    small = onnx.ModelProto(
        ir_version=max(model.proto.ir_version, 4),  # before 4 every initializer must also be an input
        opset_import=model.proto.opset_import,
        functions=model.proto.functions,
    )
    out = small.graph
    out.name = graph.name or "graph"
    out.output.extend(graph.output)
    out.value_info.extend(graph.value_info)
    inputs = {value.name: value for value in graph.input}
    for tensor in graph.initializer:
        array = model.constants[tensor.name]
        if array.size > _SMALL:
            inputs[tensor.name] = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape)
        else:
            small_tensor = out.initializer.add(name=tensor.name)
            fill(small_tensor, array, tensor.data_type)
            inputs.pop(tensor.name, None)
    for node in graph.node:
        value = model.constants.get(node.output[0]) if node.op_type == "Constant" and node.output else None
        if value is None:
            out.node.append(node)
        elif value.size > _SMALL:
            data_type = constant_type(node, value)
            inputs[node.output[0]] = onnx.helper.make_tensor_value_info(node.output[0], data_type, value.shape)
        else:
            stored = TensorProto()
            fill(stored, value, constant_type(node, value))
            out.node.append(onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=stored))
    out.input.extend(inputs.values())
    return small


def constant_type(node: onnx.NodeProto, array: np.ndarray) -> int:
    """ONNX element type of a Constant node's value."""
    declared = node.attribute[0].t.data_type if node.attribute[0].name == "value" else 0
    return int(declared or onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
