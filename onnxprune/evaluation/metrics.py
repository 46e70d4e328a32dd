"""Evaluates a model on data, and compares two models, in onnxruntime.

What is measured follows from what the outputs mean: see `evaluation.meters`, and `evaluation.labels` for labels.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.config import OutputConfig
from onnxprune.core.engine import ALL_CORES, Engine
from onnxprune.core.errors import InputError
from onnxprune.core.results import MetricChange
from onnxprune.evaluation.labels import Accuracy
from onnxprune.evaluation.meters import meters, shares
from onnxprune.evaluation.user_metric import user_metric
from onnxprune.graph.inputs import input_specs
from onnxprune.graph.model import Model
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.given import IGNORED, kinds_said
from onnxprune.outputs.meaning import Meaning, Outputs, Part
from onnxprune.outputs.padding import real_positions
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.rows import row_axis
from onnxprune.outputs.selected import makes_too
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse
from onnxprune.structure.selection import selected_by_value


def evaluate(model: Model, dataset: Dataset, *, engine: Engine = ALL_CORES) -> dict[str, float]:
    """Accuracy of a model on labelled rows, as shares in [0, 1]; empty without labels.

    Raises:
        InputError: the labels fit no output, or there are fewer classes than labels.
        ModelError: the model cannot be run.
    """
    if dataset.targets is None:
        return {}
    meaning = read_meaning(analyse(model, dataset.shapes))
    real = real_positions(model, meaning, dataset, engine)
    accuracy = Accuracy(meaning, dataset.targets, dataset.source, model.name, real)
    runner = Runner(model, meaning.outputs, engine=engine, row_axes=meaning.row_axes)
    for outputs in runner.run(dataset):
        accuracy.add(outputs, outputs)
    return {name: change.before for name, change in accuracy.changes().items()}


def compare(
    original: Model,
    other: Model,
    dataset: Dataset,
    *,
    config: OutputConfig | None = None,
    analysis: Analysis | None = None,
    engine: Engine = ALL_CORES,
) -> dict[str, MetricChange]:
    """Metrics of two models on the same rows.

    A user's own first, in the place of any of the same name; then those of the labels, then by part of the outputs, and
    `relative_error`, `|a - b| / |a|` over all compared outputs (before: 0). Padding does not count in any of them but
    the user's own.

    Args:
        original: the original.
        other: a model with the same inputs and outputs.
        dataset: the rows.
        config: what the user says of the outputs, and a measure of their own.
        analysis: of the original; made by default.
        engine: threads and execution provider of onnxruntime.

    Raises:
        InputError: labels fit no output, the models' outputs do not correspond, or the user's measure fails.
        ModelError: a model cannot be run.
    """
    config = config or OutputConfig()
    analysis = analysis or analyse(original, dataset.shapes)
    meaning = read_meaning(analysis, config)
    if not makes_too(other, meaning.outputs, analysis):  # another export, whose inner tensors have other names
        meaning = read_meaning(analysis, config, sorted_too=False)
    targets, real = dataset.targets, real_positions(original, meaning, dataset, engine)
    accuracy = None if targets is None else Accuracy(meaning, targets, dataset.source, original.name, real)
    judges = meters(meaning)
    kept: tuple[list[Outputs], list[Outputs]] = ([], [])
    difference = _Difference(original.name, other.name)
    rows = 0
    for ours, others in _both(original, other, dataset, meaning, engine):
        count = max(map(len, ours.values()))
        here = None if real is None else real[rows : rows + count]
        rows += count
        if accuracy is not None:
            try:
                accuracy.add(ours, others)
            except InputError:
                if config.metric is None:
                    raise
                accuracy = None  # labels may be of a form that only the user's measure knows
        same_order = Reference(meaning, ours, here).matched(others) if meaning.sets else others
        difference.add(ours, same_order, here)
        for _, meter in judges:
            meter.add(ours, same_order, here)
        if config.metric is not None:
            kept[0].append(ours)
            kept[1].append(others)
    by_user = {}
    if config.metric is not None:
        ignored = (name for name, kind in kinds_said(config, analysis).items() if kind == IGNORED)
        beside = _beside(original, other, dataset, analysis, {*meaning.outputs, *ignored}, engine)
        whole, theirs = (
            {**more, **{name: np.concatenate([part[name] for part in parts]) for name in meaning.outputs}}
            for more, parts in zip(beside, kept, strict=True)
        )
        by_user = user_metric(config.metric, whole, theirs, targets)
    by_labels = {} if accuracy is None else accuracy.changes()
    agreement = {} if accuracy is None else accuracy.agreement()
    by_part = shares([(output, meter.changes()) for output, meter in judges])
    metrics = {**by_labels, **agreement, **by_part, "relative_error": MetricChange(0.0, difference.ratio)}
    ruling = by_user or by_labels or by_part
    metrics = {name: replace(change, rules=change.rules and name in ruling) for name, change in metrics.items()}
    return {**by_user, **{name: change for name, change in metrics.items() if name not in by_user}}


def _beside(
    original: Model, other: Model, dataset: Dataset, analysis: Analysis, leave_out: Collection[str], engine: Engine
) -> list[dict[str, Any]]:
    """What a user's measure gets of each model beside the compared outputs: the others that both have.

    Those whose size values decide, or nothing tells, are lists with an array for each run of a single row.
    """
    tensors, theirs = (
        [value.name for value in model.proto.graph.output if value.type.HasField("tensor_type")]
        for model in (original, other)
    )
    names = [name for name in tensors if name not in leave_out and name in theirs]
    if not names:
        return [{}, {}]
    known, selected = analysis.facts.shapes, selected_by_value(analysis)
    by_run = {name for name in names if name in selected or name not in known}
    axes = {name: None if name in by_run else row_axis(name, analysis) for name in names}
    found = []
    for model in (original, other):
        parts = [*Runner(model, names, engine=engine, row_axes=axes).run(dataset, 1 if by_run else None)]
        results = {name: [part[name] for part in parts] for name in names}
        found.append({name: [a[0] for a in e] if name in by_run else np.concatenate(e) for name, e in results.items()})
    return found


def _both(
    original: Model, other: Model, dataset: Dataset, meaning: Meaning, engine: Engine
) -> Iterator[tuple[Outputs, Outputs]]:
    """Outputs of both models batch by batch, under the original's output names."""
    theirs = _matched(original, other, meaning.outputs)
    pairs = [*zip(meaning.outputs, theirs, strict=True)]
    first = Runner(original, meaning.outputs, engine=engine, row_axes=meaning.row_axes)
    second = Runner(other, theirs, engine=engine, row_axes={their: meaning.row_axes[our] for our, their in pairs})
    step = lcm(first.fixed_batch or 1, second.fixed_batch or 1)
    size = max(step, first.default_batch(dataset) // step * step)
    for ours, results in zip(first.run(dataset, size), second.run(dataset, size), strict=True):
        yield ours, {our: results[their] for our, their in pairs}


def _matched(original: Model, other: Model, names: Sequence[str]) -> list[str]:
    """The other model's outputs that correspond to the given ones: of the same name, else at the same position."""
    takes = [{spec.name: spec for spec in input_specs(model)} for model in (original, other)]
    for name, spec in takes[1].items():
        known = takes[0].get(name)
        if known is None or (known.dims is not None and spec.dims is not None and len(known.dims) != len(spec.dims)):
            told = " and ".join(
                f"{model.name} takes {', '.join(map(str, specs.values()))}"
                for model, specs in zip((original, other), takes, strict=True)
            )
            raise InputError(f"{told}; give two models of one task")
    ours = [value.name for value in original.proto.graph.output]
    theirs = [value.name for value in other.proto.graph.output]
    inner = [name for name in names if name not in ours]
    made = {name for node in other.proto.graph.node for name in node.output}
    if not made.issuperset(inner):
        raise InputError(
            f"{original.name} selects its outputs by value, so that they are compared at {', '.join(map(repr, inner))} "
            f"before that, which {other.name} does not have"
        )
    if set(names) <= {*theirs, *inner}:
        return list(names)
    if len(ours) != len(theirs):
        raise InputError(
            f"{original.name} has {len(ours)} outputs and {other.name} {len(theirs)}; give two models of one task"
        )
    return [name if name in inner else theirs[ours.index(name)] for name in names]


class _Difference:
    """`|a - b| / |a|` over all outputs of two models, padding left out."""

    def __init__(self, original: str, other: str) -> None:
        self._names = original, other
        self._error = self._energy = 0.0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None) -> None:
        """Count a batch."""
        for name in ours:
            a, b = _numbers(ours[name]), _numbers(others[name])
            if a.shape != b.shape:
                raise InputError(
                    f"output {name!r} has shape {list(a.shape)} in {self._names[0]} and {list(b.shape)} "
                    f"in {self._names[1]}; give two models of one task"
                )
            kept = Part(name, "quantities", axis=0).real(a.shape, real)
            if kept is not None:
                a, b = (array.reshape(len(array), -1)[kept] for array in (a, b))
            self._error += float(np.sum((a - b) ** 2))
            self._energy += float(np.sum(a * a))

    @property
    def ratio(self) -> float:
        """Of all batches so far."""
        if not np.isfinite(self._error):
            return float("inf")
        if self._energy == 0:
            return 0.0 if self._error == 0 else float("inf")
        return float(np.sqrt(self._error / self._energy))


def _numbers(output: np.ndarray) -> np.ndarray:
    if not isinstance(output, np.ndarray):  # what scikit-learn's classifiers put out unless exported with zipmap=False
        raise InputError(
            "the models' outputs are lists or maps; there is nothing to compare: give models of one export"
        )
    if output.dtype.kind in "OUS":
        raise InputError("the models' outputs are text; there is nothing to compare")
    return np.asarray(output, np.float64)
