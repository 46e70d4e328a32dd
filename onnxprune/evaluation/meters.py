"""Metrics of how far two models' outputs differ: one class for each kind of output, updated batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.core.text import percent
from onnxprune.evaluation.same_labels import SameLabels
from onnxprune.evaluation.sequences import Sequences, is_sequence
from onnxprune.outputs.meaning import Meaning, Outputs, Part
from onnxprune.outputs.objectness import FOUND, confidence, has_objectness
from onnxprune.outputs.probability import directions

_HALF = 0.5
_USUAL = 0.1  # share of positions with several entries above a half
_OVERLAP = 0.5  # of two boxes, intersection over union
_NEAR = 0.05  # of the image: how far a keypoint may move
_LEAST_ROWS = 5  # of a class, for its recall to say something
_MOST_VECTORS = 4096  # whose nearest neighbours are looked for
_UNIT = 1.5  # coordinates up to which an image has size 1


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
            by_output.append((part.output, Quantities(part)))
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


class _Detections:
    """Base of metrics at positions with confident scores (detections): for boxes and keypoints."""

    def __init__(self, part: Part, scores: Sequence[Part]) -> None:
        self._part, self._scores = part, scores
        self._whole = Quantities(part)  # what judges where nothing is sure
        self._objectness: list[bool] = []

    def sure(self, ours: Outputs, others: Outputs, real: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`(rows, positions)` masks of the positions where each model is confident."""
        if not self._objectness:
            known = (score.kind == "probabilities" and score.values(ours[score.output]) for score in self._scores)
            self._objectness = [values is not False and has_objectness(values) for values in known]
        kept = self._part.real(ours[self._part.output].shape, real)
        masks = []
        for outputs in (ours, others):
            told = zip(self._scores, self._objectness, strict=True)
            best = [self._highest(score, outputs, apart) for score, apart in told]
            masks.append(np.asarray(np.min(best, axis=0) > FOUND) & (True if kept is None else kept))
        return masks[0], masks[1]

    @staticmethod
    def _highest(score: Part, outputs: Outputs, objectness: bool) -> np.ndarray:
        values = score.values(outputs[score.output])
        if score.kind == "probabilities":
            return confidence(values, objectness)
        powers = values if score.form == "probabilities" else np.exp(values - values.max(axis=2, keepdims=True))
        shares = powers / powers.sum(axis=2, keepdims=True)
        return np.asarray(1 - shares[..., shares.mean(axis=(0, 1)).argmax()])


class Boxes(_Detections):
    """Metrics `found_again` (detections that the other model finds too) and `new_detections` (only the other finds).

    A box is found again at the same position with an overlap (IoU) of more than 0.5.

    New detections count relative to the original's. Boxes are corners where the third and fourth column never lie
    below the first and second, else centres and sizes; where these would be negative, they are offsets from anchors
    that only the application knows: then the same position must be confident, and `explained` is about the offsets.
    """

    def __init__(self, part: Part, scores: Sequence[Part]) -> None:
        super().__init__(part, scores)
        self._boxes: list[tuple[np.ndarray, np.ndarray]] = []
        self._again: list[np.ndarray] = []
        self._new = 0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        self._whole.add(ours, others, real)
        sure, sure_again = self.sure(ours, others, real)
        name = self._part.output
        self._boxes.append((self._part.values(ours[name])[sure], self._part.values(others[name])[sure]))
        self._again.append(sure_again[sure])
        self._new += int((sure_again & ~sure).sum())

    def changes(self) -> Mapping[str, MetricChange]:
        """Both metrics; where the original detects nothing, those of `Quantities`."""
        if not any(len(a) for a, _ in self._boxes):
            return self._whole.changes()
        a, b = (np.concatenate(boxes) for boxes in zip(*self._boxes, strict=True))
        again, offsets = np.concatenate(self._again), dict[str, MetricChange]()
        if (a[:, 2:] >= a[:, :2]).all():
            again = again & (_overlap(a, b) > _OVERLAP)
        elif (a[:, 2:] >= 0).all():
            corners = (np.concatenate([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], axis=1) for x in (a, b))
            again = again & (_overlap(*corners) > _OVERLAP)
        else:
            columns = Columns()
            columns.add(a[:, None], b[:, None], None)
            offsets = columns.explained()
        found = _share(int(again.sum()), len(a), rules=True, detail=f"of {len(a)} detections")
        return {"found_again": found, "new_detections": MetricChange(0.0, self._new / len(a)), **offsets}


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (IoU) of boxes given by their corners."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=1) for x in (a, b)]
    return np.asarray(intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-30))


class Keypoints(_Detections):
    """Metric `keypoints_kept`: confident keypoints that move by less than 5% of the image size.

    The image has size 1 where coordinates say so, else the range that they take.
    """

    def __init__(self, part: Part, scores: Sequence[Part]) -> None:
        super().__init__(part, scores)
        self._moved: list[np.ndarray] = []
        self._low, self._high = np.inf, -np.inf

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        self._whole.add(ours, others, real)
        (sure, _), name = self.sure(ours, others, real), self._part.output
        a, b = (self._part.values(outputs[name])[sure] for outputs in (ours, others))
        if a.size:
            self._low, self._high = min(self._low, a.min()), max(self._high, a.max())
        self._moved.append(np.linalg.norm(a - b, axis=1))

    def changes(self) -> Mapping[str, MetricChange]:
        """The metric; where the original has no confident keypoint, those of `Quantities`."""
        if not any(len(distances) for distances in self._moved):
            return self._whole.changes()
        moved = np.concatenate(self._moved)
        extent = 1.0 if max(abs(self._low), abs(self._high)) <= _UNIT else self._high - self._low
        kept = int(np.count_nonzero(moved < _NEAR * extent))
        return {"keypoints_kept": _share(kept, len(moved), rules=True, detail=f"of {len(moved)} keypoints")}


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


class Quantities:
    """Metric `explained`: share of explained variance over the rows, per column and averaged; at least 0."""

    def __init__(self, part: Part) -> None:
        self._part, self._columns = part, Columns()

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        a, b = (self._part.values(outputs[self._part.output]) for outputs in (ours, others))
        self._columns.add(a, b, self._part.real(ours[self._part.output].shape, real))

    def changes(self) -> Mapping[str, MetricChange]:
        """The metric; nothing where the original's values do not vary."""
        return self._columns.explained()


class Columns:
    """Squared errors of columns, relative to how much each of them varies over the rows, around a mean a position."""

    def __init__(self) -> None:
        self._counts = self._sums = self._squares = self._errors = np.zeros(1)

    def add(self, wanted: np.ndarray, values: np.ndarray, kept: np.ndarray | None) -> None:
        """Count a batch, `(rows, positions, columns)` both; `kept` is False at `(rows, positions)` of padding."""
        if kept is not None:
            wanted, values = (np.where(kept[..., None], array, 0.0) for array in (wanted, values))
        counts = np.full(wanted.shape[1], len(wanted)) if kept is None else kept.sum(axis=0)
        self._counts = self._counts + counts
        self._sums, self._squares = self._sums + wanted.sum(axis=0), self._squares + np.square(wanted).sum(axis=0)
        self._errors = self._errors + np.square(wanted - values).sum(axis=0)

    def lost(self) -> np.ndarray | None:
        """Share of each column's variance that is lost, of those that vary; None where none does."""
        if self._counts.max() < 2:
            return None
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        variance = (self._squares - means * self._sums).sum(axis=0)
        varies = variance > 1e-9 * self._squares.sum(axis=0)
        return self._errors.sum(axis=0)[varies] / variance[varies] if varies.any() else None

    def explained(self) -> dict[str, MetricChange]:
        """The metric `explained`: the share that is left, averaged over columns; nothing where none varies."""
        lost = self.lost()
        if lost is None:
            return {}
        mean = float(lost.mean()) if np.isfinite(lost).all() else np.inf
        detail = f"relative error {percent(np.sqrt(mean))}, worst column {percent(np.sqrt(lost.max()))}"
        return {"explained": MetricChange(1.0, max(0.0, 1 - mean), rules=True, detail=detail)}
