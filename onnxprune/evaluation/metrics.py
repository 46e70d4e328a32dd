"""How good a model is, and how far another one is from it, both run in onnxruntime.

With labels: `top1`, and `top5` where there are more than 20 classes. Between two models: `agreement` of their predicted
classes and `relative_error` of their outputs.
"""

from collections.abc import Sequence
from math import lcm

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.errors import InputError
from onnxprune.core.results import MetricChange
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning, Part
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

_TOP = 5
_TOP_FROM_CLASSES = 21


def evaluate(model: Model, dataset: Dataset, *, threads: int = 0) -> dict[str, float]:
    """Accuracy on labelled rows as shares: `top1`, and `top5` for more than 20 classes; empty without labels.

    Raises:
        InputError: there are labels but the model has no class scores, or fewer classes than the labels.
        ModelError: the model cannot be run.
    """
    targets = dataset.targets
    if targets is None:
        return {}
    meaning = _read(model, dataset)
    hits = _Hits(model, dataset, targets, _labelled(meaning))
    runner = Runner(model, [hits.part.output], threads=threads, row_axes=meaning.row_axes)
    for outputs in runner.run(dataset):
        hits.add(outputs[hits.part.output])
    return hits.shares()


def compare(original: Model, other: Model, dataset: Dataset, *, threads: int = 0) -> dict[str, MetricChange]:
    """Metrics of two models on the same rows.

    With labels `top1` (and `top5`); `agreement`, the share of rows with the same predicted class, where the original
    has class scores (before: 1); and always `relative_error`, `|a - b| / |a|` over all compared outputs (before: 0).

    Raises:
        InputError: there are labels but no class scores, or the models' outputs do not correspond.
        ModelError: a model cannot be run.
    """
    targets = dataset.targets
    meaning = _read(original, dataset)
    part = meaning.classifier if targets is None else _labelled(meaning)
    theirs = _matched(original, other, meaning.outputs)
    axes = {name: meaning.row_axes[own] for own, name in zip(meaning.outputs, theirs, strict=True)}
    first = Runner(original, meaning.outputs, threads=threads, row_axes=meaning.row_axes)
    second = Runner(other, theirs, threads=threads, row_axes=axes)
    before = after = None
    if targets is not None:
        before = _Hits(original, dataset, targets, part)
        after = _Hits(other, dataset, targets, part)
    same = rows = 0
    error = energy = 0.0
    step = lcm(first.fixed_batch or 1, second.fixed_batch or 1)
    size = max(step, first.default_batch(dataset) // step * step)
    for ours, results in zip(first.run(dataset, size), second.run(dataset, size), strict=True):
        renamed = {name: results[their] for name, their in zip(meaning.outputs, theirs, strict=True)}
        for name in meaning.outputs:
            a, b = _numbers(ours[name]), _numbers(renamed[name])
            if a.shape != b.shape:
                raise InputError(
                    f"output {name!r} has shape {list(a.shape)} in {original.name} and {list(b.shape)} "
                    f"in {other.name}; give two models of one task"
                )
            error += float(np.sum((a - b) ** 2))
            energy += float(np.sum(a * a))
        if part is not None:
            scores, others = (part.class_scores(each[part.output])[:, 0] for each in (ours, renamed))
            valid = ~np.isnan(others).any(axis=1)
            same += int(np.count_nonzero((scores.argmax(axis=1) == others.argmax(axis=1)) & valid))
            rows += len(scores)
            if before is not None and after is not None:
                before.add(ours[part.output])
                after.add(renamed[part.output])
    changes: dict[str, MetricChange] = {}
    if before is not None and after is not None:
        shares = after.shares()
        changes |= {name: MetricChange(share, shares[name]) for name, share in before.shares().items()}
    if rows:
        changes["agreement"] = MetricChange(1.0, same / rows)
    changes["relative_error"] = MetricChange(0.0, _ratio(error, energy))
    return changes


def _read(model: Model, dataset: Dataset) -> Meaning:
    return read_meaning(analyse(model, input_shapes=dataset.shapes))


def _labelled(meaning: Meaning) -> Part | None:
    """The part that class numbers of the rows are about: class scores, or else whatever has several columns a row."""
    others = (part for part in meaning.parts if part.count == 1 and part.width > 1 and part.columns is None)
    return meaning.classifier or next(others, None)


def _matched(original: Model, other: Model, names: Sequence[str]) -> list[str]:
    """The other model's outputs that correspond to these: of the same name, or at the same place."""
    ours = [value.name for value in original.proto.graph.output]
    theirs = [value.name for value in other.proto.graph.output]
    if set(names) <= set(theirs):
        return list(names)
    if len(ours) != len(theirs):
        raise InputError(
            f"{original.name} has {len(ours)} outputs and {other.name} {len(theirs)}; give two models of one task"
        )
    return [theirs[ours.index(name)] for name in names]


def _numbers(output: np.ndarray) -> np.ndarray:
    if output.dtype.kind in "OUS":
        raise InputError("the models' outputs are text; there is nothing to compare")
    return np.asarray(output, np.float64)


def _ratio(error: float, energy: float) -> float:
    if not np.isfinite(error):
        return float("inf")
    if energy == 0:
        return 0.0 if error == 0 else float("inf")
    return float(np.sqrt(error / energy))


class _Hits:
    """Counts how often the right class has the highest score, or is among the five highest."""

    def __init__(self, model: Model, dataset: Dataset, targets: np.ndarray, part: Part | None) -> None:
        if part is None:
            raise InputError(
                f"{dataset.source} has labels, but no output of {model.name} holds class scores; leave the labels out"
            )
        self.part = part
        self._model = model.name
        self._source = dataset.source
        self._targets = targets
        self._rows = self._classes = self._first = self._among = 0

    def add(self, output: np.ndarray) -> None:
        """Count the next rows."""
        scores = self.part.class_scores(output)[:, 0]
        targets = self._targets[self._rows : self._rows + len(scores)]
        self._rows += len(scores)
        self._classes = scores.shape[1]
        if targets.max(initial=0) >= self._classes:
            raise InputError(
                f"{self._source}: a label is {targets.max()}, but {self._model} has {self._classes} classes, "
                "counted from 0"
            )
        # NaN scores predict nothing.
        valid = ~np.isnan(scores).any(axis=1)
        self._first += int(np.count_nonzero((scores.argmax(axis=1) == targets) & valid))
        if self._classes >= _TOP_FROM_CLASSES:
            best = np.argpartition(scores, -_TOP, axis=1)[:, -_TOP:]
            self._among += int(np.count_nonzero((best == targets[:, None]).any(axis=1) & valid))

    def shares(self) -> dict[str, float]:
        """The metrics of all rows so far."""
        shares = {"top1": self._first / self._rows}
        if self._classes >= _TOP_FROM_CLASSES:
            shares["top5"] = self._among / self._rows
        return shares
