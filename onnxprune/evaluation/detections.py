"""Metrics at positions with confident scores (detections): of boxes, of keypoints and of what else is said there."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.evaluation.quantities import Columns, Quantities
from onnxprune.outputs.meaning import Outputs, Part
from onnxprune.outputs.objectness import FOUND, confidence, has_objectness

_OVERLAP = 0.5  # of two boxes, intersection over union
_NEARLY_ALL = 0.95  # of the positions: where a box is given in a form that they all have
_NEAR = 0.05  # of the image: how far a keypoint may move
_UNIT = 1.5  # coordinates up to which an image has size 1

BoxForm = Literal["corners", "centres", "offsets"]


class _Detections:
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
    """Metrics `found_again`, `new_detections` (only the other model finds) and `box_overlap` (of what is found again).

    A box is found again at the same position with an overlap (IoU) of more than 0.5. New detections count relative to
    the original's. The form of boxes is told by what stands at all positions, found or not:

    - corners, where the third and fourth column lie below the first and second nearly nowhere;
    - centres and sizes, where sizes are negative nearly nowhere;
    - else offsets from anchors that only the application knows: then the same position must be confident, and
      `explained` is about the offsets.
    """

    def __init__(self, part: Part, scores: Sequence[Part]) -> None:
        super().__init__(part, scores)
        self._boxes: list[tuple[np.ndarray, np.ndarray]] = []
        self._again: list[np.ndarray] = []
        self._new = self._all = self._ordered = self._sized = 0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        self._whole.add(ours, others, real)
        sure, sure_again = self.sure(ours, others, real)
        a, b = (self._part.values(outputs[self._part.output]) for outputs in (ours, others))
        self._all += a.shape[0] * a.shape[1]
        self._ordered += int((a[..., 2:] >= a[..., :2]).all(axis=2).sum())
        self._sized += int((a[..., 2:] >= 0).all(axis=2).sum())
        self._boxes.append((a[sure], b[sure]))
        self._again.append(sure_again[sure])
        self._new += int((sure_again & ~sure).sum())

    @property
    def form(self) -> BoxForm:
        """How boxes are given, by the original's values so far."""
        if self._ordered >= _NEARLY_ALL * self._all:
            return "corners"
        return "centres" if self._sized >= _NEARLY_ALL * self._all else "offsets"

    def changes(self) -> Mapping[str, MetricChange]:
        """The metrics; where the original detects nothing, those of `Quantities`."""
        if not any(len(a) for a, _ in self._boxes):
            return self._whole.changes()
        a, b = (np.concatenate(boxes) for boxes in zip(*self._boxes, strict=True))
        again, form, more = np.concatenate(self._again), self.form, dict[str, MetricChange]()
        if form == "offsets":
            columns = Columns()
            columns.add(a[:, None], b[:, None], None)
            more = columns.explained()
        else:
            overlap = _overlap(_corners(a, form), _corners(b, form))
            again = again & (overlap > _OVERLAP)
            if again.any():
                more["box_overlap"] = MetricChange(1.0, float(overlap[again].mean()))
        found = MetricChange(1.0, float(again.mean()), rules=True, detail=f"of {len(a)} detections")
        return {"found_again": found, "new_detections": MetricChange(0.0, self._new / len(a)), **more}


def _corners(boxes: np.ndarray, form: BoxForm) -> np.ndarray:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1) if form == "centres" else boxes


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
        detail = f"of {len(moved)} keypoints"
        return {"keypoints_kept": MetricChange(1.0, kept / len(moved), rules=True, detail=detail)}


class Described(_Detections):
    """Metric `explained` of whatever else is said at confident positions: what stands elsewhere means nothing."""

    def __init__(self, part: Part, scores: Sequence[Part]) -> None:
        super().__init__(part, scores)
        self._columns, self._count = Columns(), 0

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        self._whole.add(ours, others, real)
        (sure, _), name = self.sure(ours, others, real), self._part.output
        a, b = (self._part.values(outputs[name])[sure] for outputs in (ours, others))
        self._columns.add(a[:, None], b[:, None], None)
        self._count += len(a)

    def changes(self) -> Mapping[str, MetricChange]:
        """The metric; where hardly any position is confident, over all of them."""
        return self._columns.explained() if self._count > 1 else self._whole.changes()
