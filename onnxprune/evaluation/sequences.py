"""Metric of what rows read as a whole, where outputs have a class for each step and most steps say nothing."""

from collections.abc import Mapping

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.outputs.meaning import Outputs, Part

_USUAL = 0.5  # share of the steps from which on one class stands for nothing (a blank, background)


def is_sequence(part: Part) -> bool:
    """Whether a part has class scores for each step of a row."""
    return part.kind == "classes" and part.width > 2 and sum(size > 1 for size in part.positions) == 1


class Sequences:
    """Metric `same_sequences`: rows that read the same, without repeats and without the usual class.

    A line of text is wrong once a single of its letters is, and of its steps most are blanks: that nearly all steps
    agree says little of it. Nothing where no class is usual.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._counts = np.zeros(0, np.int64)
        self._read: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        output = ours[self._part.output]
        scores = [self._part.class_scores(each[self._part.output]) for each in (ours, others)]
        # Scores that are no numbers tell no class.
        classes, other = (np.where(np.isnan(a).any(axis=2), self._part.width, a.argmax(axis=2)) for a in scores)
        kept = self._part.real(output.shape, real)
        if kept is not None:
            classes, other = (np.where(kept, each, -1) for each in (classes, other))
        found = np.bincount(classes[classes >= 0], minlength=self._part.width + 1)
        self._counts = np.asarray(found if not len(self._counts) else self._counts + found)
        self._read += zip(classes.astype(np.int32), other.astype(np.int32), strict=True)

    def changes(self) -> Mapping[str, MetricChange]:
        """The metric; nothing where no class is usual, or there is no other."""
        total, usual = self._counts.sum(), int(self._counts.argmax()) if len(self._counts) else 0
        if not total or self._counts[usual] < _USUAL * total or np.count_nonzero(self._counts) < 2:
            return {}
        same = sum(bool(np.array_equal(_told(a, usual), _told(b, usual))) for a, b in self._read)
        detail = f"without class {usual}, which most steps have, and repeats"
        return {"same_sequences": MetricChange(1.0, same / len(self._read), rules=True, detail=detail)}


def _told(classes: np.ndarray, usual: int) -> np.ndarray:
    """What one row reads."""
    changed = np.append(True, classes[1:] != classes[:-1])
    return np.asarray(classes[changed & (classes != usual) & (classes >= 0)])
