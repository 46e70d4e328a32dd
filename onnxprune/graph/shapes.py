"""Concrete shapes of every tensor, and the values of tensors computed from constants only.

Symbolic dimensions are pinned (batch to 1, others to a given or guessed size) before shape inference, so that every
width that labels need is a number. The pinned sizes never reach a written file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.errors import ModelError
from onnxprune.graph.load import first_line
from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.view import GraphView, Node

Shape = tuple[int, ...]

# Sizes tried for symbolic dimensions other than the batch: image-like first, then sequence-like.
_GUESSES = (64, 224, 16, 320, 1)

# Results above this many elements are not folded.
_FOLD_LIMIT = 1 << 26

_NOT_FOLDED = frozenset(
    {"Constant", "DequantizeLinear", "QuantizeLinear", "If", "Loop", "Scan", "SequenceEmpty", "Optional"}
    | {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Shape"}
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of tensors before any label is placed.

    Attributes:
        shapes: concrete shape per tensor; a tensor of unknown rank or width is absent.
        dtypes: ONNX element type per tensor.
        folded: value per tensor that nodes compute from constants only.
        batch: the pinned batch size (1, or the fixed one of the first input).
    """

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, int]
    folded: Mapping[str, np.ndarray]
    batch: int


def gather_facts(model: Model, graph: GraphView, input_shapes: Mapping[str, Shape] | None = None) -> Facts:
    """Infer shapes with pinned inputs and fold what is constant.

    Args:
        model: the model.
        graph: its view.
        input_shapes: shapes of the inputs where the user's data tell them; others are guessed.

    Raises:
        ModelError: shape inference finds a contradiction for every size tried.
    """
    folded = fold(model, graph)
    guesses = _GUESSES if _has_free_dimension(model, graph, input_shapes or {}) else _GUESSES[:1]
    failure: Exception | None = None
    best: tuple[dict[str, Shape], dict[str, int]] | None = None
    for guess in guesses:
        try:
            found = _infer(model, graph, folded, input_shapes or {}, guess)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            failure = error
            continue
        best = best or found
        if len(found[0]) > len(best[0]):
            best = found
        if all(output in found[0] for node in graph.nodes for output in node.outputs if output):
            break
    if best is None:
        reason = first_line(failure) if failure else "no input shape fits"
        raise ModelError(f"{model.name}: shapes contradict each other: {reason}")
    shapes, dtypes = best
    for name, array in (*model.constants.items(), *folded.items()):
        shapes[name] = array.shape
    first = shapes.get(graph.inputs[0], ()) if graph.inputs else ()
    return Facts(shapes, dtypes, folded, first[0] if len(first) > 1 else 1)


def _has_free_dimension(model: Model, graph: GraphView, known: Mapping[str, Shape]) -> bool:
    for value in model.proto.graph.input:
        if value.name in graph.inputs and value.name not in known:
            dims = value.type.tensor_type.shape.dim
            if any(not d.HasField("dim_value") for d in dims[1:]):
                return True
    return False


def pinned_shape(value: onnx.ValueInfoProto, guess: int) -> Shape | None:
    """An input's shape with its symbolic dimensions pinned: the first to 1, the others to `guess`."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    known = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
    named = ["batch" in d.dim_param.lower() for d in dims]
    return tuple(
        size if size is not None else 1 if axis == 0 or named[axis] else guess for axis, size in enumerate(known)
    )


def _infer(
    model: Model, graph: GraphView, folded: Mapping[str, np.ndarray], known: Mapping[str, Shape], guess: int
) -> tuple[dict[str, Shape], dict[str, int]]:
    small = skeleton(model)
    for value in small.graph.input:
        shape = known.get(value.name) if value.name in graph.inputs else None
        if value.name in graph.inputs:
            shape = shape or pinned_shape(value, guess)
            if shape is not None:
                value.type.tensor_type.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, shape).tensor_type.shape)
    # Declared intermediate and output shapes may carry symbols; inference from the pinned inputs replaces them.
    del small.graph.value_info[:]
    for value in small.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    folded_here = {
        name: array for name, array in folded.items() if array.dtype.kind in "ifb" and array.size <= _FOLD_LIMIT
    }
    kept = [node for node in small.graph.node if not (node.output and all(o in folded_here for o in node.output if o))]
    del small.graph.node[:]
    small.graph.node.extend(kept)
    for name, array in folded_here.items():
        if array.size <= 1024:
            small.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            small.graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, array.shape))
    inferred = onnx.shape_inference.infer_shapes(small, check_type=False, strict_mode=True, data_prop=True)
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for tensor in inferred.graph.initializer:
        shapes[tensor.name], dtypes[tensor.name] = tuple(tensor.dims), tensor.data_type
    return shapes, dtypes


def fold(model: Model, graph: GraphView) -> dict[str, np.ndarray]:
    """Values of all tensors that are computed from constants only, by onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    folded: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if not _foldable(node, model, folded):
            continue
        feeds = {name: folded.get(name, model.constants.get(name)) for name in node.inputs if name}
        single = _single_node_model(model, node)
        if single is None:
            continue
        try:
            values = ReferenceEvaluator(single).run(list(node.outputs), feeds)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, NotImplementedError):
            continue  # not folded: the node's output then counts as computed, which is always safe
        folded.update({name: np.asarray(value) for name, value in zip(node.outputs, values, strict=True) if name})
    return folded


def _foldable(node: Node, model: Model, folded: Mapping[str, np.ndarray]) -> bool:
    if node.op_type in _NOT_FOLDED and not (node.op_type == "Shape" and node.input(0) in {*model.constants, *folded}):
        return False
    if node.captured or not node.inputs or "." in node.op_type:
        return False
    inputs = [folded.get(name, model.constants.get(name)) for name in node.inputs if name]
    if any(value is None for value in inputs) or not inputs:
        return False
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):  # small inputs, large results
        target = inputs[-1] if inputs[-1] is not None else np.zeros(0)
        return bool(target.dtype.kind in "iu" and np.prod(target.astype(float)) <= _FOLD_LIMIT)
    return sum(value.size for value in inputs if value is not None) <= _FOLD_LIMIT


def _single_node_model(model: Model, node: Node) -> onnx.ModelProto | None:
    if not 0 <= node.index < len(model.proto.graph.node):
        return None
    source = model.proto.graph.node[node.index]
    graph = onnx.helper.make_graph(
        [source],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.inputs) if name],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    return onnx.helper.make_model(graph, opset_imports=list(model.proto.opset_import), ir_version=8)
