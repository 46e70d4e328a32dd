"""Accuracy on labelled rows: matches labels of various shapes with a model's outputs."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.core.results import MetricChange
from onnxprune.evaluation.meters import Classes
from onnxprune.evaluation.quantities import Columns
from onnxprune.outputs.meaning import Meaning, Outputs, Part

_TOP = 5
_TOP_FROM_CLASSES = 21
_HALF = 0.5
_LARGEST = 1 << 31  # class number
_IGNORED = -1  # of class numbers: a position that does not count

Fit = Literal["classes", "entries", "values", "same"]


class Accuracy:
    """Counts how often two models are right. Rows must come in the order of the labels.

    Class numbers fit an output with scores at each of their places: `top1` (`top5` from 21 classes) for one label a
    row, `accuracy` for tokens or pixels, where negative labels do not count. They are never compared with boxes or
    keypoints, and with the independent scores beside these only where negative labels say which places hold nothing:
    such scores have no class for that. Labels of an output's own shape (axes of size 1 do not count) fit
    probabilities (`label_iou`: entries above a half) and quantities (`label_fit`:
    the share of the labels' variance that is explained, of each column and averaged). Where a model puts out class
    numbers alone, they are compared with the labels. Of several outputs that class numbers fit, they belong to that
    with enough classes of which the original is right most often.

    Args:
        meaning: of the outputs.
        labels: `(rows, ...)`.
        source: where they are from, for messages.
        model: the model's name, for messages.
        real: `(rows, S)`, False where a position of a sequence is padding and does not count; None without padding.
    """

    def __init__(
        self, meaning: Meaning, labels: np.ndarray, source: str, model: str, real: np.ndarray | None = None
    ) -> None:
        self._meaning, self._labels, self._source, self._model = meaning, labels, source, model
        self._real = real
        self._rows = 0
        self._found: tuple[Part, Fit] | None = None
        self._agreement: Classes | None = None
        self._counts = [_Counts(), _Counts()]

    def add(self, ours: Outputs, others: Outputs) -> None:
        """Count a batch of outputs of the original and of the other model.

        Raises:
            InputError: the labels fit no output, or are larger than the number of classes.
        """
        count = len(next(iter(ours.values())))
        rows = slice(self._rows, self._rows + count)
        part, fit = self._found = self._found or self._fitting(ours)
        labels, real = self._labels[rows], None if self._real is None else self._real[rows]
        self._rows += count
        if fit == "classes" and not part.classifies and not self._finds(part):  # those have meters of their own
            self._agreement = self._agreement or Classes(part)
            self._agreement.add(ours, others, real)
        for counts, outputs in zip(self._counts, (ours, others), strict=True):
            kept = part.real(outputs[part.output].shape, real)
            if fit == "classes":
                numbers = labels.reshape(count, -1)
                numbers = numbers if kept is None else np.where(kept, numbers, _IGNORED)
                self._add_classes(counts, part.class_scores(outputs[part.output]), numbers)
            elif fit == "same":
                counts.add_numbers(outputs[part.output].reshape(count, -1), labels.reshape(count, -1))
            else:
                values = part.values(outputs[part.output])
                wanted = labels.reshape(outputs[part.output].shape)
                wanted = np.moveaxis(wanted, part.axis, -1) if part.axis else wanted
                wanted = np.asarray(wanted, np.float64).reshape(values.shape)
                if fit == "values":
                    counts.columns.add(wanted, values, kept)
                else:
                    counts.add_entries(*((values, wanted) if kept is None else (values[kept], wanted[kept])))

    def _fitting(self, outputs: Outputs) -> tuple[Part, Fit]:
        """The part of the outputs that the labels belong to, and how they fit.

        Whole numbers that are stored as floats count as class numbers where they fit nothing else.
        """
        labels = self._labels
        ordered = sorted(
            self._meaning.parts,
            key=lambda part: (part.kind != "classes", not part.classifies, part.kind != "probabilities"),
        )
        numbered = self._numbered(ordered, outputs)
        masked = numbered is not None and self._is_mask(numbered[0], outputs)
        if numbered is not None and labels.dtype.kind in "iu" and not masked:
            return numbered
        places = _without_ones(labels.shape[1:])
        for part in ordered:
            if part.columns is None and _without_ones(outputs[part.output].shape[1:]) == places:
                if part.kind == "probabilities" and places:  # else one number a row: two classes
                    return part, "entries"
                if part.kind == "quantities":
                    return part, "values"
        if numbered is not None:
            fractions = labels[(labels != np.floor(labels)) | (np.abs(labels) > _LARGEST)]
            if fractions.size:
                raise InputError(
                    f"{self._source}: labels must be whole numbers of classes; one is {fractions.flat[0]:g}"
                )
            self._labels = labels.astype(np.int64)
            return numbered
        for part in ordered:
            if self._finds(part) and _without_ones(part.positions) == places:
                shape = ", ".join(map(str, ("rows", *outputs[part.output].shape[1:])))
                raise InputError(
                    f"{self._source}: labels of shape {_shape(labels)} do not say which of the {part.count} positions "
                    f"of {part.output!r} in {self._model} hold nothing, which its {part.width} independent scores have "
                    f"no class for: mark these by -1, give a label for each score ([{shape}]), leave the labels out, "
                    "or measure them by --metric"
                )
        shapes = ", ".join(f"{name!r} has {_shape(array)}" for name, array in outputs.items())
        raise InputError(
            f"{self._source}: labels of shape {_shape(self._labels)} fit no output of {self._model}: {shapes} "
            "(class numbers have a place for each distribution; other labels have the output's own shape); "
            + self._advice(ordered, outputs)
        )

    def _advice(self, ordered: Sequence[Part], outputs: Outputs) -> str:
        """What to do about labels that fit no output, from what they hold."""
        labels = self._labels
        for part in ordered:
            if part.kind == "classes" and outputs[part.output].shape[1:] == labels.shape[1:]:
                said = f"{part.output!r} is read as class scores: where"
                if not np.isin(labels, (0, 1)).all():
                    return f"{said} it holds quantities such as coordinates, say --output {part.output}=quantities"
                if (np.moveaxis(labels, part.axis, -1).sum(axis=-1) == 1).all():
                    return "give y.argmax(1) of one-hot labels"
                return f"{said} a row may have several labels or none, say --output {part.output}=probabilities"
        return "leave the labels out, or say what an output is (--output)"

    def _numbered(self, ordered: Sequence[Part], outputs: Outputs) -> tuple[Part, Fit] | None:
        """The part with a place for each label, if those are class numbers."""
        sizes, fitting = _without_ones(self._labels.shape[1:]), list[Part]()
        for part in ordered:
            extents = np.delete(np.array(outputs[part.output].shape), part.axis) if part.axis else np.zeros(1, int)
            several = part.classifies or (part.width > 1 and part.columns is None and part.kind != "embedding")
            if part.confidence or (self._finds(part) and not self._marks_nothing):
                continue
            if several and _without_ones(tuple(extents[1:])) == sizes:
                fitting.append(part)
            elif part.kind == "labels" and not fitting and _without_ones(outputs[part.output].shape[1:]) == sizes:
                return part, "same"
        if not fitting:
            return None
        enough = [part for part in fitting if part.width > self._labels.max(initial=0)]
        enough = [part for part in enough if part.kind == fitting[0].kind] or enough
        if len(enough) < 2:
            return (enough or fitting)[0], "classes"
        return max(enough, key=lambda part: self._right(part, outputs[part.output])), "classes"

    def _right(self, part: Part, output: np.ndarray) -> float:
        """Share of the first rows' places whose class number a part of their outputs has right."""
        labels, scores = self._labels[: len(output)].reshape(len(output), -1), part.class_scores(output)
        return float(np.mean((scores.argmax(axis=2) == labels) & (labels >= 0)))

    def _is_mask(self, part: Part, outputs: Outputs) -> bool:
        """Whether labels of 0 and 1 have the shape of independent probabilities: background would win by number."""
        places = _without_ones(self._labels.shape[1:])
        same = part.columns is None and _without_ones(outputs[part.output].shape[1:]) == places
        return bool(places) and same and part.kind == "probabilities" and bool(np.isin(self._labels, (0, 1)).all())

    def _finds(self, part: Part) -> bool:
        """Whether a part holds independent scores of what lies at each position, beside its box or keypoint."""
        own = self._meaning.parts.index(part)
        return part.kind == "probabilities" and part.width > 1 and any(own in p.confidence for p in self._meaning.parts)

    @property
    def _marks_nothing(self) -> bool:
        return bool(self._labels.min(initial=0) < 0)

    def _add_classes(self, counts: "_Counts", scores: np.ndarray, labels: np.ndarray) -> None:
        if labels.max(initial=0) >= scores.shape[2]:
            raise InputError(
                f"{self._source}: a label is {labels.max()}, but {self._model} has {scores.shape[2]} classes, "
                "counted from 0"
            )
        if labels.shape[1] == 1 and labels.min(initial=0) < 0:
            raise InputError(f"{self._source}: labels must not be negative; the smallest is {labels.min()}")
        counts.add_classes(scores[labels >= 0], labels[labels >= 0])

    def changes(self) -> Mapping[str, MetricChange]:
        """Metrics over all rows so far, the main one first."""
        if self._found is None:
            return {}
        part, fit = self._found
        before, after = (counts.figures(fit, one=part.count == 1) for counts in self._counts)
        changes = {
            name: MetricChange(value, after[name], rules=number == 0, blind=self._blind(fit) if number == 0 else None)
            for number, (name, value) in enumerate(before.items())
        }
        several = len(self._meaning.outputs) > 1
        return {name: change.of(part.output) if several else change for name, change in changes.items()}

    def _blind(self, fit: Fit) -> float:
        """The figure of the commonest class number everywhere, of all entries, or of the labels' mean."""
        labels = self._labels[: self._rows]
        if fit == "values":
            return 0.0
        if fit == "entries":
            return float(np.mean(labels > _HALF)) if labels.size else 0.0
        counted = labels[labels >= 0]
        # Class numbers are small, and there may be one for each pixel.
        counts = np.bincount(counted) if fit == "classes" else np.unique(counted, return_counts=True)[1]
        return float(counts.max(initial=0)) / max(1, counted.size)

    def agreement(self) -> Mapping[str, MetricChange]:
        """How often both models predict the same class, where classes are known only from the labels."""
        return {} if self._agreement is None else self._agreement.changes()


class _Counts:
    """Counts of one model's correct predictions and errors."""

    def __init__(self) -> None:
        self._first = self._among = self._count = self._classes = self._both = self._either = 0
        self.columns = Columns()

    def add_classes(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count class scores `(n, classes)` against labels `(n,)`."""
        self._count, self._classes = self._count + len(labels), scores.shape[1]
        valid = ~np.isnan(scores).any(axis=1)  # NaN scores predict nothing
        self._first += int(np.count_nonzero((scores.argmax(axis=1) == labels) & valid))
        if self._classes >= _TOP_FROM_CLASSES:
            best = np.argpartition(scores, -_TOP, axis=1)[:, -_TOP:]
            self._among += int(np.count_nonzero((best == labels[:, None]).any(axis=1) & valid))

    def add_numbers(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        """Count predicted class numbers against labels, both `(n, places)`; negative labels do not count."""
        counted = labels >= 0
        self._count += int(np.count_nonzero(counted))
        self._first += int(np.count_nonzero((predicted == labels) & counted))

    def add_entries(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Count probabilities against labels of the same shape."""
        a, b = values > _HALF, labels > _HALF
        self._both, self._either = self._both + int((a & b).sum()), self._either + int((a | b).sum())

    def figures(self, fit: Fit, *, one: bool) -> dict[str, float]:
        if fit == "entries":
            return {"label_iou": self._both / max(self._either, 1)}
        if fit == "values":
            lost = self.columns.lost()
            return {"label_fit": 0.0 if lost is None else max(0.0, 1 - float(lost.mean()))}
        shares = {"top1" if one else "accuracy": self._first / max(self._count, 1)}
        if self._classes >= _TOP_FROM_CLASSES:
            shares["top5"] = self._among / max(self._count, 1)
        return shares


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape if size != 1)


def _shape(array: np.ndarray) -> str:
    return f"[{', '.join(map(str, ('rows', *array.shape[1:])))}]"
