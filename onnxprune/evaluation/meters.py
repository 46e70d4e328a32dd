"""Metrics of how far two models' outputs differ: one class for each kind of output, updated batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.evaluation.detections import Boxes, Described, Keypoints
from onnxprune.evaluation.quantities import Quantities
from onnxprune.evaluation.same_labels import SameLabels
from onnxprune.evaluation.sequences import Sequences, is_sequence
from onnxprune.outputs.meaning import Meaning, Outputs, Part
from onnxprune.outputs.objectness import FOUND
from onnxprune.outputs.probability import directions

_HALF = 0.5
_USUAL = 0.1  # share of positions with several entries above a half
_LEAST_ROWS = 5  # of a class, for its recall to say something
_MOST_VECTORS = 4096  # whose nearest neighbours are looked for


class Meter(Protocol):
    """Compares the outputs of another model with the original's."""

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch of outputs of the original and of the other model, batch axis first.

        Args:
            ours: of the original.
            others: of the other model.
            real: `(rows, S)`, False where a position of a sequence is padding and does not count; None without padding.
        """

    def changes(self) -> Mapping[str, MetricChange]:
        """Metrics over all rows so far, the main one first; empty where there was nothing to compare."""


def meters(meaning: Meaning) -> list[tuple[str, Meter]]:
    """The meter of each part, with the name of its output. Boxes and keypoints are compared with their scores."""
    by_output: list[tuple[str, Meter]] = []
    judged: set[int] = set()
    for number, part in enumerate(meaning.parts):
        scores = [meaning.parts[number] for number in part.confidence]
        if part.kind == "quantities" and scores and part.width in (2, 3, 4):
            by_output.append((part.output, Boxes(part, scores) if part.width == 4 else Keypoints(part, scores)))
            judged.update((number, *part.confidence))
    for number, part in enumerate(meaning.parts):
        if part.kind == "classes" or (part.classifies and part.count == 1):
            by_output.append((part.output, Classes(part)))
            listed = {n for each in meaning.sets for n in each.parts}.union(*(o.confidence for o in meaning.parts))
            if is_sequence(part) and number not in listed:
                by_output.append((part.output, Sequences(part)))
        elif part.kind == "probabilities" and number not in judged:
            is_map = sum(size > 1 for size in part.positions) > 1
            by_output.append((part.output, Masks(part) if is_map else Chances(part)))
        elif part.kind == "embedding":
            by_output.append((part.output, Vectors(part)))
        elif part.kind == "labels":
            by_output.append((part.output, SameLabels(part)))
        elif part.kind == "quantities" and number not in judged:
            scores = [meaning.parts[n] for n in part.confidence]
            by_output.append((part.output, Described(part, scores) if scores else Quantities(part)))
    return by_output


def shares(by_output: Sequence[tuple[str, Mapping[str, MetricChange]]]) -> dict[str, MetricChange]:
    """Metrics of several parts under unique names: a name that occurs twice gets the output's name appended.

    Of several outputs, that of a single name stands in its detail.
    """
    names = [name for _, changes in by_output for name in changes]
    several = len({output for output, _ in by_output}) > 1
    return {
        name if names.count(name) == 1 else f"{name}[{output}]": change.of(output)
        if several and names.count(name) == 1
        else change
        for output, changes in by_output
        for name, change in changes.items()
    }


def _real(
    part: Part,
    outputs: Outputs,
    real: np.ndarray | None,
    values: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """A part's values `(rows, positions, columns)`, or `(n, 1, columns)` at the positions that are no padding."""
    found = (values or part.values)(outputs[part.output])
    kept = part.real(outputs[part.output].shape, real)
    return found if kept is None else found[kept][:, None]


def _share(hits: float, count: float, *, rules: bool = False, detail: str = "") -> MetricChange:
    return MetricChange(1.0, float(hits / count), rules=rules, detail=detail)


class Classes:
    """Metrics `agreement` (share of equal predicted classes) and `worst_class` (lowest such share of a class)."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._rows = self._same = np.zeros(0)

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        a, b = (_real(self._part, outputs, real, self._part.class_scores) for outputs in (ours, others))
        if not len(self._rows):
            self._rows, self._same = np.zeros(a.shape[2]), np.zeros(a.shape[2])
        wanted = a.argmax(axis=2)
        same = (wanted == b.argmax(axis=2)) & ~np.isnan(b).any(axis=2)
        self._rows += np.bincount(wanted.ravel(), minlength=len(self._rows))
        self._same += np.bincount(wanted[same], minlength=len(self._rows))

    def changes(self) -> Mapping[str, MetricChange]:
        """Both metrics; `worst_class` only where at least two classes have a few rows."""
        if not self._rows.sum():
            return {}
        metrics = {"agreement": _share(self._same.sum(), self._rows.sum(), rules=True)}
        several = np.flatnonzero(self._rows >= _LEAST_ROWS)
        if len(several) > 1:
            recall = self._same[several] / self._rows[several]
            worst = several[recall.argmin()]
            lost = self._same[worst] < self._rows[worst]  # else none is the worst
            detail = f"class {worst}, {self._rows[worst]:.0f} of {self._rows.sum():.0f}" if lost else ""
            metrics["worst_class"] = _share(self._same[worst], self._rows[worst], detail=detail)
        return metrics


class Masks:
    """Metric `mask_iou`: intersection over union of the positions where the models' masks are above 0.5."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._both = self._either = 0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        a, b = (_real(self._part, outputs, real) > _HALF for outputs in (ours, others))
        self._both += int(np.count_nonzero(a & b))
        self._either += int(np.count_nonzero(a | b))

    def changes(self) -> Mapping[str, MetricChange]:
        """The metric; nothing where neither mask has a position above 0.5."""
        return {"mask_iou": _share(self._both, self._either, rules=True)} if self._either else {}


class Chances:
    """Metrics `same_highest` and `labels_kept`.

    The first is how often the most probable entry is also the original's, or one of several that the original has above
    0.5; positions without a confident entry do not count, unless there is no other. The second is the share of entries
    above 0.5 in either model that both have there; where several are usual, a floor is about it too.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._sure = self._sure_same = self._all = self._all_same = self._both = self._either = self._several = 0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        a, b = (_real(self._part, outputs, real) for outputs in (ours, others))
        highest = np.take_along_axis(a, b.argmax(axis=2)[..., None], axis=2)[..., 0]
        same, sure = (a.argmax(axis=2) == b.argmax(axis=2)) | (highest > _HALF), a.max(axis=2) > FOUND
        self._several += int(np.count_nonzero((a > _HALF).sum(axis=2) > 1))
        self._all, self._all_same = self._all + same.size, self._all_same + int(same.sum())
        self._sure, self._sure_same = self._sure + int(sure.sum()), self._sure_same + int((same & sure).sum())
        self._both += int(((a > _HALF) & (b > _HALF)).sum())
        self._either += int(((a > _HALF) | (b > _HALF)).sum())

    def changes(self) -> Mapping[str, MetricChange]:
        """Both metrics, where there was something to count."""
        metrics = {}
        if self._part.width > 2 and self._all:
            same, count = (self._sure_same, self._sure) if self._sure else (self._all_same, self._all)
            metrics["same_highest"] = _share(same, count, rules=True)
        if self._either:
            several = self._several >= _USUAL * self._all
            metrics["labels_kept"] = _share(self._both, self._either, rules=not metrics or several)
        return metrics


class Vectors:
    """Metrics `cosine` (mean cosine similarity) and `same_nearest` (rows with the same nearest neighbour)."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._sum, self._count = 0.0, 0
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        one = self._part.real(ours[self._part.output].shape, real) is None
        a, b = (directions(_real(self._part, outputs, real)) for outputs in (ours, others))
        self._sum, self._count = self._sum + float((a * b).sum()), self._count + a.shape[0] * a.shape[1]
        if one and a.shape[1] == 1 and self._count <= _MOST_VECTORS:
            self._kept.append((a[:, 0], b[:, 0]))

    def changes(self) -> Mapping[str, MetricChange]:
        """Both metrics; the second only where each row is one vector and there are several rows."""
        if not self._count:
            return {}
        metrics = {"cosine": MetricChange(1.0, self._sum / self._count, rules=True)}
        a, b = (np.concatenate([pair[at] for pair in self._kept] or [np.zeros((0, 1))]) for at in (0, 1))
        if len(a) > 2:
            nearest = []
            for vectors in (a, b):
                products = vectors @ vectors.T
                np.fill_diagonal(products, -np.inf)
                nearest.append(products.argmax(axis=1))
            metrics["same_nearest"] = _share(int((nearest[0] == nearest[1]).sum()), len(a))
        return metrics
