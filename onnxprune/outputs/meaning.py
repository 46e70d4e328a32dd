"""What a model's outputs mean, and how far two sets of them are apart. Functions of arrays: nothing is run here."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import TensorProto, ValueInfoProto

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.shapes import gather_facts

Form = Literal["logits", "probabilities", "log_probabilities", "values"]
Outputs = Mapping[str, np.ndarray]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
_SMALLEST_PROBABILITY = 1e-12
# What a value passes through between the operator that makes it and the output.
_CARRIERS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class OutputKind:
    """What a model's outputs mean.

    Attributes:
        scores: name of the output that holds class scores, one row an input row; None where there is none.
        form: what its values are; "values" where no softmax may be taken of them.
        outputs: names of the outputs that are compared: those of floating-point type, or else all tensors.
    """

    scores: str | None
    form: Form
    outputs: tuple[str, ...]


def output_kind(model: Model, graph: Graph, *, labelled: bool = False) -> OutputKind:
    """Find class scores among the outputs.

    They are the first floating-point output of shape `(rows, classes)` or `(rows, classes, 1, 1)` with several classes,
    or one sigmoid column (the probability of class 1). A Softmax that makes them makes them probabilities. Independent
    sigmoids, an output of an input's shape (a reconstruction) and a flattened map have such a shape too, but are scores
    only where there are labels to say so.

    Args:
        model: the model.
        graph: its nodes.
        labelled: whether the rows have class labels.
    """
    tensors = [value for value in model.proto.graph.output if value.type.HasField("tensor_type")]
    floats = [value for value in tensors if value.type.tensor_type.elem_type in _FLOATS]
    names = tuple(value.name for value in floats or tensors)
    inferred = functools.cache(lambda: _inferred(model, graph))
    for value in floats:
        dims = _dims(value)
        if dims is None or 0 in dims[1:]:
            dims = inferred().get(value.name, ())
        maker = _maker(value.name, graph)
        form = _form(maker, graph)
        columns = _columns(dims)
        if columns == 1 and maker is not None and maker.op_type == "Sigmoid":
            return OutputKind(value.name, "probabilities", names)
        if columns > 1:
            made = inferred().get(maker.output(), ()) if maker is not None else ()
            is_map = sum(size > 1 for size in made[1:]) > 1
            returned = any(dims[1:] == (_dims(v) or ())[1:] for v in model.proto.graph.input if v.name in graph.inputs)
            if labelled or form.endswith("probabilities") or not (form == "values" or is_map or returned):
                return OutputKind(value.name, form, names)
    return OutputKind(None, "values", names)


def _dims(value: ValueInfoProto) -> tuple[int, ...] | None:
    """Declared dimensions, 0 where they are free."""
    tensor = value.type.tensor_type
    return tuple(d.dim_value for d in tensor.shape.dim) if tensor.HasField("shape") else None


def _columns(dims: tuple[int, ...]) -> int:
    """Number of scores a row, 0 where the shape is not one of scores."""
    if len(dims) == 2:
        return dims[1]
    if len(dims) > 3 and set(dims[2:]) == {1}:
        return dims[1]
    return dims[-1] if len(dims) > 3 and set(dims[1:-1]) == {1} else 0


def _inferred(model: Model, graph: Graph) -> Mapping[str, tuple[int, ...]]:
    try:
        return gather_facts(model, graph).shapes
    except ModelError:
        return {}


def _form(node: Node | None, graph: Graph) -> Form:
    if node is None:
        return "logits"
    if node.op_type == "LogSoftmax":
        return "log_probabilities"
    if node.op_type == "Softmax" or _divides_exponentials(node, graph):
        return "probabilities"
    # Independent probabilities and bounded values: a softmax over them would mean nothing.
    return "values" if node.op_type in ("Sigmoid", "HardSigmoid", "Tanh") else "logits"


def _maker(output: str, graph: Graph) -> Node | None:
    """The operator that computes an output's values, before they are only reshaped or cast."""
    node = graph.producer.get(output)
    while node is not None and node.op_type in _CARRIERS:
        node = graph.producer.get(node.input(0))
    return node


def _divides_exponentials(node: Node, graph: Graph) -> bool:
    """Whether the node is the last one of a softmax that the exporter spelled out."""
    if node.op_type not in ("Div", "Mul"):
        return False
    return any((maker := graph.producer.get(name)) is not None and maker.op_type == "Exp" for name in node.inputs)


def as_scores(output: np.ndarray) -> np.ndarray:
    """Class scores as float64 `(rows, classes)`; one column `p` becomes the two `1 - p, p`."""
    scores = np.asarray(output, np.float64).reshape(len(output), -1)
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def divergence(reference: Outputs, outputs: Outputs, kind: OutputKind) -> float:
    """How far `outputs` are from `reference`: the mean of `row_divergence`."""
    return float(np.mean(row_divergence(reference, outputs, kind)))


def row_divergence(reference: Outputs, outputs: Outputs, kind: OutputKind) -> np.ndarray:
    """How far each row of `outputs` is from `reference`, averaged over the outputs.

    Class scores: the Kullback-Leibler divergence `sum_c p_c (log p_c - log q_c)` in nats, where p and q are the softmax
    of the reference's and the other's scores, or these themselves where they are probabilities. Other outputs: the
    squared error relative to the reference's mean energy, `|a_r - b_r|^2 / mean_r |a_r|^2`.

    Args:
        reference: `(rows, ...)` per output name.
        outputs: the same of another model.
        kind: of both.

    Returns:
        `(rows,)`; infinite where a value is not finite.
    """
    parts = []
    for name in kind.outputs:
        if name == kind.scores and kind.form != "values":
            parts.append(_relative_entropy(reference[name], outputs[name], kind.form))
        else:
            parts.append(_relative_error(reference[name], outputs[name]))
    count = len(reference[kind.scores or kind.outputs[0]])
    # An output without rows counts as a whole.
    rows = np.mean([part if len(part) == count else np.full(count, part.mean()) for part in parts], axis=0)
    return np.where(np.isfinite(rows), rows, np.inf)


def _relative_entropy(reference: np.ndarray, output: np.ndarray, form: Form) -> np.ndarray:
    p, q = _log_probabilities(reference, form), _log_probabilities(output, form)
    with np.errstate(invalid="ignore", over="ignore"):
        rows = np.sum(np.where(p == -np.inf, 0.0, np.exp(p) * (p - q)), axis=1)
    return np.asarray(np.maximum(rows, 0.0))


def _relative_error(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    a = np.asarray(reference, np.float64).reshape(len(reference), -1)
    b = np.asarray(output, np.float64).reshape(len(output), -1)
    energy = np.mean(np.sum(a * a, axis=1))
    error = np.sum((a - b) ** 2, axis=1)
    return np.asarray(error / energy if energy > 0 else np.where(error > 0, np.inf, 0.0))


def _log_probabilities(output: np.ndarray, form: Form) -> np.ndarray:
    scores = as_scores(output)
    if form == "probabilities":
        scores = np.log(np.maximum(scores, _SMALLEST_PROBABILITY))
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)))
