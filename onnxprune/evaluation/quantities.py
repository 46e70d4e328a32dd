"""Metrics of quantities: how much of what a column says over the rows is left."""

from collections.abc import Mapping

import numpy as np

from onnxprune.core.results import MetricChange
from onnxprune.core.text import percent
from onnxprune.outputs.meaning import Outputs, Part


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
