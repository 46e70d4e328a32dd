"""Concrete shapes of every tensor, which axes vary with the input, and the values of shape arithmetic.

Symbolic dimensions are pinned (batch to 1, others to a given or guessed size) before shape inference, so that every
width that labels need is a number. Inference runs again with other sizes: an axis, or an element of shape arithmetic,
that comes out the same at both sizes does not depend on them and is a constant of the graph. The pinned sizes never
reach a written file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.core.text import first_line
from onnxprune.graph.folding import fold_constants, fold_shapes, read_shapes, transparent
from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.nodes import Graph, Node, qualified
from onnxprune.graph.operators import Operators

Shape = tuple[int, ...]

# Sizes tried for symbolic dimensions other than the batch: image-like first, then sequence-like.
GUESSES = (64, 224, 512, 320, 16, 1)
_INLINE = 1024
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shape arithmetic that varies with the input: its pinned value, and `free`, True where an element varies."""

    value: np.ndarray
    free: np.ndarray


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of tensors before any label is placed.

    Attributes:
        shapes: concrete shape per tensor; a tensor of unknown rank or width is absent.
        dtypes: ONNX element type per tensor.
        folded: value per tensor that nodes compute from constants and from widths that are fixed.
        batch: the pinned batch size (1, or the fixed one of the first input).
        free: axes whose size varies with the graph's inputs, per tensor that has some.
        sizes: integer tensors with elements that vary with the sizes of the graph's inputs.
        read: per tensor of `folded`, the tensors whose shape its value depends on.
        transparent: tensors of `folded` that stay computed in the file (a quantised or half-precision weight).
    """

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, int]
    folded: Mapping[str, np.ndarray]
    batch: int
    free: Mapping[str, frozenset[int]] = field(default_factory=dict)
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    read: Mapping[str, frozenset[str]] = field(default_factory=dict)
    transparent: frozenset[str] = frozenset()

    def is_folded(self, node: Node) -> bool:
        """Whether a node computes nothing but constants, so that the file can do without it."""
        return bool(node.outputs) and all(o in self.folded and o not in self.transparent for o in node.outputs if o)


@dataclass(frozen=True, slots=True)
class _Pinned:
    """Everything inferred for one choice of input shapes."""

    inputs: Mapping[str, Shape]
    shapes: dict[str, Shape]
    dtypes: dict[str, int]
    values: dict[str, np.ndarray]


def infer_facts(
    model: Model, graph: Graph, operators: Operators, input_shapes: Mapping[str, Shape] | None = None
) -> Facts:
    """Infer shapes with pinned inputs and fold what is constant; `ops.facts.gather_facts` knows the operators.

    Args:
        model: the model.
        graph: its nodes.
        operators: asked what an operator is.
        input_shapes: shapes of the inputs where the user's data tell them; others are guessed.

    Raises:
        ModelError: shape inference finds a contradiction for every size tried.
    """
    constants = fold_constants(model, graph, operators)
    first = _first(model, graph, operators, constants, input_shapes or {})
    others = _others(model, graph, operators, constants, first)
    shapes, folded = dict(first.shapes), dict(constants)
    free: dict[str, frozenset[int]] = {}
    for name, shape in first.shapes.items():
        seen_shapes = [other.shapes.get(name, ()) for other in others]
        varying = {a for a, size in enumerate(shape) if any(s[a : a + 1] != (size,) for s in seen_shapes)}
        if varying:
            free[name] = frozenset(varying)
    sizes: dict[str, Sizes] = {}
    for name, value in first.values.items():
        seen = [other.values.get(name) for other in others]
        # Floating-point results stay computed: they are no weights, and what they are made of is kept.
        if value.dtype.kind not in "iub" or any(v is None or v.shape != value.shape for v in seen):
            continue
        varies = np.zeros(value.shape, bool)
        for other in seen:
            varies |= np.asarray(other != value)
        if not varies.any():
            folded[name] = value
        elif value.dtype.kind == "i":
            sizes[name] = Sizes(value, varies)
    for name, array in (*model.constants.items(), *folded.items()):
        shapes[name] = array.shape
        free.pop(name, None)
    leading = first.inputs.get(graph.inputs[0], ()) if graph.inputs else ()
    return Facts(
        shapes=shapes,
        dtypes=first.dtypes,
        folded=folded,
        batch=leading[0] if len(leading) > 1 else 1,
        free=free,
        sizes=sizes,
        read=read_shapes(graph, folded, operators),
        transparent=transparent(model, graph, folded, operators),
    )


def _first(
    model: Model,
    graph: Graph,
    operators: Operators,
    constants: Mapping[str, np.ndarray],
    known: Mapping[str, Shape],
) -> _Pinned:
    """The first guess that gives every tensor a shape, else the one that gives most."""
    values = [value for value in model.proto.graph.input if value.name in graph.inputs]
    pinned = [{v.name: known.get(v.name) or pinned_shape(v, guess) for v in values} for guess in GUESSES]
    failure: Exception | None = None
    best: _Pinned | None = None
    for inputs in (entry for i, entry in enumerate(pinned) if entry not in pinned[:i]):
        try:
            given = {name: shape for name, shape in inputs.items() if shape is not None}
            found = _settle(model, graph, operators, constants, given)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, OverflowError) as error:
            failure = error
            continue
        if best is None or len(found.shapes) > len(best.shapes):
            best = found
        if not _unknown(graph, found.shapes):
            break
    if best is None:
        reason = first_line(failure) if failure else "no input shape fits"
        raise ModelError(f"{model.name}: shapes contradict each other: {reason}")
    return best


def _others(
    model: Model, graph: Graph, operators: Operators, constants: Mapping[str, np.ndarray], first: _Pinned
) -> list[_Pinned]:
    """What is inferred at a second choice of sizes: comparing both tells what varies with the input.

    All symbolic dimensions change at once, or, where no such size fits the graph, the batch and the others in turn.
    """
    symbolic = {v.name: _symbolic(v) for v in model.proto.graph.input if v.name in first.inputs and _symbolic(v)}
    if not symbolic:
        return []
    every, batches, spaces = (
        _varied(first.inputs, symbolic, batch=batch, space=space)
        for batch, space in ((True, True), (True, False), (False, True))
    )
    for attempt in ([every], [entry for entry in (batches, spaces) if entry != first.inputs]):
        found = []
        for inputs in attempt:
            try:
                found.append(_settle(model, graph, operators, constants, inputs))
            except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, OverflowError):
                continue
        if found:
            return found
    # No other size fits: what inference cannot tell without pins counts as varying.
    try:
        shapes, dtypes = _infer(model, operators, constants, {})
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(f"{model.name}: shapes contradict each other: {first_line(error)}") from error
    return [_Pinned(first.inputs, shapes, dtypes, fold_shapes(model, graph, operators, constants, shapes))]


def _varied(
    inputs: Mapping[str, Shape], symbolic: Mapping[str, frozenset[int]], *, batch: bool, space: bool
) -> dict[str, Shape]:
    """Other sizes: one more in the batch; each other axis by a factor of its own, so that ratios change as well."""
    return {
        name: tuple(
            size
            if axis not in symbolic.get(name, ())
            else size + batch
            if size == 1 or axis == 0
            else size * (1 + axis if space else 1)
            for axis, size in enumerate(shape)
        )
        for name, shape in inputs.items()
    }


def _symbolic(value: onnx.ValueInfoProto) -> frozenset[int]:
    """Axes of an input without a fixed size."""
    dims = value.type.tensor_type.shape.dim
    return frozenset(axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value") or dim.dim_value <= 0)


def pinned_shape(value: onnx.ValueInfoProto, guess: int) -> Shape | None:
    """An input's shape with its symbolic dimensions pinned: the first to 1, the others to `guess`."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    symbolic = _symbolic(value)
    return tuple(
        dim.dim_value if axis not in symbolic else 1 if axis == 0 or "batch" in dim.dim_param.lower() else guess
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    )


def _unknown(graph: Graph, shapes: Mapping[str, Shape]) -> bool:
    return any(name and name not in shapes for node in graph.nodes for name in node.outputs)


def _settle(
    model: Model,
    graph: Graph,
    operators: Operators,
    constants: Mapping[str, np.ndarray],
    inputs: Mapping[str, Shape],
) -> _Pinned:
    """Infer shapes and fold what they tell, in turns, until nothing new comes out."""
    values: dict[str, np.ndarray] = {}
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for _ in range(_ROUNDS):
        shapes, dtypes = _infer(model, operators, {**constants, **values}, inputs)
        fresh = fold_shapes(model, graph, operators, {**constants, **values}, shapes)
        values.update(fresh)
        if not fresh or not _unknown(graph, shapes):
            break
    every = {**model.constants, **constants, **values}
    for node in graph.nodes:
        if not operators(node.op_type).fits(node, shapes, every):
            raise ValueError(f"{node} cannot run on inputs of these sizes")
    return _Pinned(inputs, shapes, dtypes, values)


def _infer(
    model: Model, operators: Operators, values: Mapping[str, np.ndarray], inputs: Mapping[str, Shape]
) -> tuple[dict[str, Shape], dict[str, int]]:
    small = skeleton(model)
    for value in small.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.CopyFrom(_dims(inputs[value.name]))
    # Declared intermediate and output shapes may carry symbols; inference from the pinned inputs replaces them.
    del small.graph.value_info[:]
    for value in small.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    known = {name: array for name, array in values.items() if array.dtype.kind in "ifbu"}
    kept = [node for node in small.graph.node if not (node.output and _all_in(node.output, known))]
    for node in kept:
        if operators(qualified(node.op_type, node.domain)).keeps_shape:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    del small.graph.node[:]
    small.graph.node.extend(kept)
    for name, array in known.items():
        data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.size <= _INLINE:
            small.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        else:
            small.graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, array.shape))
    inferred = onnx.shape_inference.infer_shapes(small, check_type=False, strict_mode=True, data_prop=True)
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


def _dims(shape: Iterable[int]) -> onnx.TensorShapeProto:
    return onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, list(shape)).tensor_type.shape


def _all_in(names: Iterable[str], known: Mapping[str, np.ndarray]) -> bool:
    return all(name in known or not name for name in names)
