"""Runs onnx's shape inference with concrete input sizes, and with the values and shapes that are known already."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache

import numpy as np
import onnx

from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.negative import infer_shapes
from onnxprune.graph.nodes import Graph, Node, qualified
from onnxprune.graph.operators import Operators, Seen, Shape

_INLINE = 1024

FAILURES = (
    *(onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
    *(ValueError, RuntimeError, OverflowError),
)
"""What inference raises where sizes contradict each other."""


def infer(
    model: Model,
    operators: Operators,
    values: Mapping[str, np.ndarray],
    inputs: Mapping[str, Shape],
    given: Mapping[str, Seen],
    *,
    strict: bool,
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Infer shapes and element types of all tensors, as far as they are concrete numbers.

    Args:
        model: the model.
        operators: asked what an operator is.
        values: tensors whose values are known; their nodes are left out.
        inputs: shapes of the graph's inputs.
        given: tensors whose shapes are known otherwise.
        strict: whether a contradiction, or an operator that inference cannot handle, is an error.
    """
    small = skeleton(model)
    for value in small.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.CopyFrom(_dims(inputs[value.name]))
    # Declared intermediate and output shapes may carry symbols; inference from the pinned inputs replaces them.
    del small.graph.value_info[:]
    # An output that is an input, or known otherwise, would take the shape from it.
    told = {*model.constants, *given, *(value.name for value in small.graph.input)}
    outputs = [value for value in small.graph.output if value.name not in told]
    known = {name: array for name, array in values.items() if array.dtype.kind in "ifbu"}
    # Without the nodes that onnx does not know, for behind one of them it tolerates contradictions.
    kept = [
        node for node in small.graph.node if not (node.output and _all_in(node.output, known.keys() | given.keys()))
    ]
    small.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, seen.dtype, seen.shape) for name, seen in given.items()
    )
    for node in kept:
        if operators(qualified(node.op_type, node.domain)).keeps_shape:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    del small.graph.node[:]
    small.graph.node.extend(kept)
    fresh = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs if value.name not in known]
    del small.graph.output[:]
    small.graph.output.extend(fresh)
    for value in small.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for name, array in known.items():
        data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.size <= _INLINE:
            small.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        else:
            small.graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, array.shape))
    inferred = infer_shapes(small, strict=strict, data_prop=True)
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for tensor in inferred.graph.initializer:
        shapes[tensor.name], dtypes[tensor.name] = tuple(tensor.dims), tensor.data_type
    return shapes, dtypes


def not_inferred(model: Model, graph: Graph, shapes: Mapping[str, Shape], *, strict: bool) -> list[str]:
    """Tensors without a shape that onnx's inference cannot find, such as those of unknown operators.

    These are results of operators that it does not know, of bodies, of what such collected in a sequence, and, where it
    need not be strict, of operators that it fails at. Results whose size only the data tell are not among them.
    """
    return [
        name
        for node in graph.nodes
        if not _is_known(model, node) or (not strict and all(read in shapes for read in node.inputs if read))
        for name in node.outputs
        if name and name not in shapes
    ]


def _is_known(model: Model, node: Node) -> bool:
    if not 0 <= node.index < len(model.proto.graph.node):
        return True
    proto = model.proto.graph.node[node.index]
    if any(attribute.HasField("g") for attribute in proto.attribute):  # what a Loop hands on may grow from turn to turn
        return False
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return bool(onnx.defs.has(proto.op_type, domain)) and not _reads_sequence(proto.op_type, domain)


@cache
def _reads_sequence(op_type: str, domain: str) -> bool:
    """Whether an operator takes a sequence, of whose tensors nothing tells the sizes: what a loop collected."""
    taken = onnx.defs.get_schema(op_type, domain).inputs
    return any(all(kind.startswith("seq(") for kind in formal.types) for formal in taken)


def declared(model: Model, inputs: Mapping[str, Shape], wanted: Collection[str]) -> dict[str, Seen]:
    """Shapes that the file declares, with symbols replaced by the inputs' sizes; unresolved ones are left out."""
    sizes = {
        dim.dim_param: size
        for value in model.proto.graph.input
        if value.name in inputs
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=False)
        if dim.dim_param
    }
    return {
        value.name: Seen(shape, value.type.tensor_type.elem_type)
        for value in (*model.proto.graph.value_info, *model.proto.graph.output)
        if value.name in wanted and (shape := _declared(value, sizes)) is not None
    }


def fixed_by_bodies(model: Model) -> dict[str, frozenset[int]]:
    """Axes of what a Loop hands on whose size its body declares; the others may change from turn to turn."""
    fixed: dict[str, frozenset[int]] = {}
    for node in model.proto.graph.node:
        body = next((a.g for a in node.attribute if a.name == "body"), None)
        if body is None or len(body.output) != len(node.output) + 1:  # a Loop's body says first whether it goes on
            continue
        carried = len(node.input) - 2
        for position, (name, value) in enumerate(zip(node.output, body.output[1:], strict=False)):
            dims, stacked = value.type.tensor_type.shape.dim, int(position >= carried)
            fixed[name] = frozenset(stacked + axis for axis, dim in enumerate(dims) if dim.HasField("dim_value"))
    return fixed


def _declared(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not tensor.elem_type:
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, -1) for dim in tensor.shape.dim]
    return None if any(size < 0 for size in dims) else tuple(dims)


def symbolic_axes(value: onnx.ValueInfoProto) -> frozenset[int]:
    """Axes of an input that have no fixed size."""
    dims = value.type.tensor_type.shape.dim
    return frozenset(axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value") or dim.dim_value <= 0)


def pinned_shape(value: onnx.ValueInfoProto, guess: int) -> Shape | None:
    """A concrete shape for an input: the first symbolic dimension (batch) becomes 1, the others `guess`."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    symbolic = symbolic_axes(value)
    return tuple(
        dim.dim_value if axis not in symbolic else 1 if axis == 0 or "batch" in dim.dim_param.lower() else guess
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    )


def _dims(shape: Iterable[int]) -> onnx.TensorShapeProto:
    return onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, list(shape)).tensor_type.shape


def _all_in(names: Iterable[str], known: Collection[str]) -> bool:
    return all(name in known or not name for name in names)
