"""Metrics of whole numbers that stand for something: how many are equal, and of which number the fewest."""

from collections.abc import Mapping

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.outputs.meaning import Outputs, Part

_MOST = 256  # numbers up to which each is counted by itself
_LEAST = 20  # places of a number, for its share to say something


class SameLabels:
    """Metrics `same_labels` (share of integer labels that are equal) and `worst_class` (lowest share of a label).

    Where most labels are background, that nearly all are equal says little of the others.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._same = self._count = 0
        self._by_label: dict[int, tuple[int, int]] | None = {}

    def add(self, ours: Outputs, others: Outputs, real: np.ndarray | None = None) -> None:
        """Count a batch."""
        labels = ours[self._part.output]
        same = labels == others[self._part.output]
        kept = self._part.real(same.shape, real)
        if kept is not None:
            labels, same = (array.reshape(len(array), -1)[kept] for array in (labels, same))
        self._same, self._count = self._same + int(same.sum()), self._count + same.size
        if self._by_label is not None:
            found, at = np.unique(labels, return_inverse=True)
            counts, equal = np.bincount(at.ravel()), np.bincount(at.ravel(), weights=same.ravel())
            for label, count, right in zip(found.tolist(), counts.tolist(), equal.tolist(), strict=True):
                before = self._by_label.get(label, (0, 0))
                self._by_label[label] = before[0] + count, before[1] + int(right)
            if len(self._by_label) > _MOST:
                self._by_label = None

    def changes(self) -> Mapping[str, MetricChange]:
        """Both metrics; the second where a few labels have enough places each, and some of one were lost."""
        if not self._count:
            return {}
        metrics = {"same_labels": MetricChange(1.0, self._same / self._count, rules=True)}
        several = {label: told for label, told in (self._by_label or {}).items() if told[0] >= _LEAST}
        if len(several) > 1:
            worst = min(several, key=lambda label: several[label][1] / several[label][0])
            count, right = several[worst]
            detail = f"label {worst}, {count} of {self._count}" if right < count else ""
            metrics["worst_class"] = MetricChange(1.0, right / count, detail=detail)
        return metrics
