"""Runs onnx's shape inference so that sizes below zero are an error, and never reach a Slice.

Where a window is larger than what it goes over, onnx infers a size below zero; at a Slice of such a tensor a failed
assertion then ends the process. So a graph with Slices is first inferred in stages, each up to the next Slices. What
computes shapes is part of all later stages too: inference knows values only of what it has seen itself.
"""

import onnx

_WHOLE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def infer_shapes(
    proto: onnx.ModelProto, *, strict: bool, check_type: bool = False, data_prop: bool = False
) -> onnx.ModelProto:
    """The model with inferred shapes.

    Args:
        proto: the model; sizes below zero that it declares are cleared, as some converters write them for open ones.
        strict: whether what inference cannot handle is an error.
        check_type: whether types are compared too.
        data_prop: whether values of shapes are computed.

    Raises:
        ValueError: an inferred size is below zero.
        InferenceError: shapes contradict each other.
    """
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.Clear()
    stages = _stages(proto.graph)
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    known = {value.name: value for value in proto.graph.input}
    shape_nodes: list[onnx.NodeProto] = []
    for nodes in stages[:-1]:
        part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
        part.graph.node.extend([*shape_nodes, *nodes])
        read = {name for node in part.graph.node for name in node.input}
        made = {name for node in part.graph.node for name in node.output}
        part.graph.initializer.extend(initializers[name] for name in initializers.keys() & read)
        part.graph.input.extend(known[name] for name in (known.keys() & read) - made)
        inferred = onnx.shape_inference.infer_shapes(part, data_prop=True)
        _require_sizes(inferred)
        known |= {value.name: value for value in inferred.graph.value_info}
        shape_nodes += [node for node in nodes if all(_is_shape(known.get(name)) for name in node.output)]
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=check_type, strict_mode=strict, data_prop=data_prop)
    _require_sizes(inferred)
    return inferred


def _stages(graph: onnx.GraphProto) -> list[list[onnx.NodeProto]]:
    """The nodes by the number of Slices on the longest way to them from an input."""
    if not any(node.op_type == "Slice" for node in graph.node):
        return []
    stages: list[list[onnx.NodeProto]] = []
    behind: dict[str, int] = {}
    for node in graph.node:
        stage = max((behind.get(name, 0) for name in node.input), default=0) + (node.op_type == "Slice")
        behind |= dict.fromkeys(node.output, stage)
        stages += [[] for _ in range(stage + 1 - len(stages))]
        stages[stage].append(node)
    return stages


def _is_shape(value: onnx.ValueInfoProto | None) -> bool:
    """Whether a tensor may hold a shape, or a size: whole numbers along one axis at most."""
    tensor = None if value is None else value.type.tensor_type
    if tensor is None or tensor.elem_type not in _WHOLE:
        return False
    return tensor.HasField("shape") and len(tensor.shape.dim) <= 1


def _require_sizes(inferred: onnx.ModelProto) -> None:
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0:
                raise ValueError(f"axis {axis} of {value.name!r} would have size {dim.dim_value}")
