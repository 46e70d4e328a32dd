"""How good a model is, and how far another one is from it, both run in onnxruntime.

With labels: `top1`, and `top5` where there are more than 20 classes. Between two models: `agreement` of their predicted
classes and `relative_error` of their outputs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.errors import InputError, ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.view import GraphView, Node, view
from onnxprune.result import MetricChange

Form = Literal["logits", "probabilities", "log_probabilities", "values"]
Outputs = Mapping[str, np.ndarray]

_TOP5_CLASSES = 20
_SMALLEST_PROBABILITY = 1e-12
# What a value passes through between a softmax and the output it makes.
_CARRIERS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class OutputKind:
    """What a model's outputs mean.

    Attributes:
        scores: name of the output that holds class scores, `(rows, classes)`; None where there is none.
        form: what its values are; "values" where there are no scores.
        outputs: names of the outputs that are compared: the floating-point ones.
    """

    scores: str | None
    form: Form
    outputs: tuple[str, ...]


def output_kind(model: Model, graph: GraphView) -> OutputKind:
    """Find class scores among the outputs: the first of floating-point type with two axes (not counting axes of size 1 after
    the first) and more than one column. They are probabilities where a Softmax makes them.
    """
    from onnx import TensorProto

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    values = [v for v in model.proto.graph.output if v.type.tensor_type.elem_type in floats]
    names = tuple(value.name for value in values)
    shapes: Mapping[str, tuple[int, ...]] | None = None
    for value in values:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if not value.type.tensor_type.HasField("shape") or 0 in dims[1:]:
            shapes = _inferred(model, graph) if shapes is None else shapes
            dims = list(shapes.get(value.name, ()))
        if len(dims) > 1 and len([d for d in dims[1:] if d != 1]) == 1:
            return OutputKind(value.name, _form(value.name, graph), names)
    return OutputKind(None, "values", names)


def _inferred(model: Model, graph: GraphView) -> Mapping[str, tuple[int, ...]]:
    from onnxprune.graph.shapes import gather_facts

    try:
        return gather_facts(model, graph).shapes
    except ModelError:
        return {}


def _form(output: str, graph: GraphView) -> Form:
    node = graph.producer.get(output)
    while node is not None and node.op_type in _CARRIERS:
        node = graph.producer.get(node.input(0))
    if node is None:
        return "logits"
    if node.op_type == "LogSoftmax":
        return "log_probabilities"
    if node.op_type == "Softmax" or _is_spelled_out_softmax(node, graph):
        return "probabilities"
    # Independent probabilities or bounded values: a softmax over them would mean nothing.
    return "values" if node.op_type in ("Sigmoid", "HardSigmoid", "Tanh") else "logits"


def _is_spelled_out_softmax(node: Node, graph: GraphView) -> bool:
    """Whether the node divides exponentials by their sum."""
    if node.op_type not in ("Div", "Mul"):
        return False
    made = [graph.producer.get(name) for name in node.inputs]
    return any(m is not None and m.op_type == "Exp" for m in made)


def divergence(reference: Outputs, outputs: Outputs, kind: OutputKind) -> float:
    """How far `outputs` are from `reference`: the mean of `row_divergence`; infinite where a value is not finite."""
    return float(np.mean(row_divergence(reference, outputs, kind)))


def row_divergence(reference: Outputs, outputs: Outputs, kind: OutputKind) -> np.ndarray:
    """How far each row of `outputs` is from `reference`.

    Class scores: the Kullback-Leibler divergence `sum_c p_c (log p_c - log q_c)` in nats, where p and q are the softmax of the reference's
    and the other's scores (their probabilities themselves where the model's outputs are those). Otherwise the squared error
    relative to the reference's mean energy, `|a_r - b_r|^2 / mean_r |a_r|^2`, averaged over the outputs.

    Args:
        reference: `(rows, ...)` per output name.
        outputs: the same of another model.
        kind: of both.

    Returns:
        `(rows,)`, infinite where a value is not finite.
    """
    if kind.scores is not None and kind.form != "values":
        p = _log_probabilities(as_scores(reference[kind.scores]), kind.form)
        q = _log_probabilities(as_scores(outputs[kind.scores]), kind.form)
        rows = np.sum(np.exp(p) * (p - q), axis=1)
        return np.where(np.isfinite(rows), np.maximum(rows, 0.0), np.inf)
    errors = []
    for name in kind.outputs or tuple(reference):
        a = np.asarray(reference[name], np.float64).reshape(len(reference[name]), -1)
        b = np.asarray(outputs[name], np.float64).reshape(len(outputs[name]), -1)
        energy = np.mean(np.sum(a * a, axis=1))
        error = np.sum((a - b) ** 2, axis=1)
        errors.append(error / energy if energy > 0 else np.where(error > 0, np.inf, 0.0))
    rows = np.mean(errors, axis=0)
    return np.where(np.isfinite(rows), rows, np.inf)


def as_scores(output: np.ndarray) -> np.ndarray:
    """Class scores as float64 `(rows, classes)`, whatever axes of size 1 they come with."""
    return np.asarray(output, np.float64).reshape(len(output), -1)


def _log_probabilities(scores: np.ndarray, form: Form) -> np.ndarray:
    if form == "probabilities":
        scores = np.log(np.maximum(scores, _SMALLEST_PROBABILITY))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)))


def evaluate(model: Model, dataset: Dataset, *, threads: int = 0) -> dict[str, float]:
    """Accuracy on labelled rows: `top1`, and `top5` where there are more than 20 classes, as shares; empty without labels.

    Raises:
        InputError: there are labels but the model has no class scores, or too few classes.
        ModelError: the model cannot be run.
    """
    targets = dataset.targets
    if targets is None:
        return {}
    kind = output_kind(model, view(model))
    hits = _Hits(model, dataset, kind)
    runner = Runner(model, [hits.output], threads=threads)
    for rows, outputs in _with_rows(runner.run(dataset), hits.output):
        hits.add(outputs[hits.output], targets[rows])
    return hits.shares()


def compare(original: Model, other: Model, dataset: Dataset, *, threads: int = 0) -> dict[str, MetricChange]:
    """Metrics of two models on the same rows.

    With labels `top1` (and `top5`); always `agreement` of the predicted classes, where the original has class scores (before: 1), and
    `relative_error` `|a - b| / |a|` over all floating-point outputs (before: 0).

    Raises:
        InputError: there are labels but no class scores, or the models' outputs do not correspond.
        ModelError: a model cannot be run.
    """
    kind = output_kind(original, view(original))
    names = [v.name for v in original.proto.graph.output if v.type.HasField("tensor_type")]
    theirs = [v.name for v in other.proto.graph.output if v.type.HasField("tensor_type")]
    if set(names) != set(theirs):
        if len(names) != len(theirs):
            raise InputError(
                f"{original.name} has {len(names)} outputs and {other.name} {len(theirs)}; nothing to compare"
            )
        matched = dict(zip(names, theirs, strict=True))
    else:
        matched = {name: name for name in names}
    compared = kind.outputs or tuple(names)
    first = Runner(original, compared, threads=threads)
    second = Runner(other, [matched[name] for name in compared], threads=threads)
    targets = dataset.targets
    hits = (_Hits(original, dataset, kind), _Hits(other, dataset, kind)) if targets is not None else None
    same = rows_seen = 0
    error = energy = 0.0
    size = first.default_batch(dataset)
    for a, b in zip(first.run(dataset, size), second.run(dataset, size), strict=True):
        for name in compared:
            x, y = _comparable(a[name], b[matched[name]], name, original, other)
            error += float(np.sum((x - y) ** 2))
            energy += float(np.sum(x * x))
        if kind.scores is not None:
            x, y = as_scores(a[kind.scores]), as_scores(b[matched[kind.scores]])
            same += int(np.count_nonzero(x.argmax(axis=1) == y.argmax(axis=1)))
            if targets is not None and hits is not None:
                part = targets[rows_seen : rows_seen + len(x)]
                hits[0].add(x, part)
                hits[1].add(y, part)
            rows_seen += len(x)
    changes: dict[str, MetricChange] = {}
    if hits is not None:
        before, after = hits[0].shares(), hits[1].shares()
        changes |= {name: MetricChange(before[name], after[name]) for name in before}
    if rows_seen:
        changes["agreement"] = MetricChange(1.0, same / rows_seen)
    ratio = np.sqrt(error / energy) if energy > 0 else (0.0 if error == 0 else np.inf)
    changes["relative_error"] = MetricChange(0.0, float(ratio))
    return changes


def _comparable(
    a: np.ndarray, b: np.ndarray, name: str, original: Model, other: Model
) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise InputError(
            f"output {name!r} has shape {list(a.shape)} in {original.name} and {list(b.shape)} in {other.name}; nothing to compare"
        )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def _with_rows(batches: Iterator[dict[str, np.ndarray]], output: str) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Batches with the positions of their rows."""
    start = 0
    for batch in batches:
        stop = start + len(batch[output])
        yield slice(start, stop), batch
        start = stop


class _Hits:
    """Counts how often the right class is among the highest scores."""

    def __init__(self, model: Model, dataset: Dataset, kind: OutputKind) -> None:
        if kind.scores is None:
            raise InputError(
                f"{dataset.source} has labels, but no output of {model.name} holds class scores (rows x classes); leave the labels out"
            )
        self.output = kind.scores
        self._model = model.name
        self._source = dataset.source
        self._top1 = self._top5 = self._rows = self._classes = 0

    def add(self, output: np.ndarray, targets: np.ndarray) -> None:
        scores = as_scores(output)
        self._classes = scores.shape[1]
        if targets.max(initial=0) >= self._classes:
            raise InputError(
                f"{self._source}: class {targets.max()} is among the labels, {self._model} tells {self._classes} classes apart "
                "(counted from 0)"
            )
        self._rows += len(scores)
        self._top1 += int(np.count_nonzero(scores.argmax(axis=1) == targets))
        if self._classes > _TOP5_CLASSES:
            best = np.argpartition(scores, -5, axis=1)[:, -5:]
            self._top5 += int(np.count_nonzero((best == targets[:, None]).any(axis=1)))

    def shares(self) -> dict[str, float]:
        shares = {"top1": self._top1 / self._rows}
        if self._classes > _TOP5_CLASSES:
            shares["top5"] = self._top5 / self._rows
        return shares
