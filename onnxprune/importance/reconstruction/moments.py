"""Collects what the elimination needs of each consumer layer: second moments of its inputs, and each unit's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.calibration.layer_matrix import column_positions, from_matrix, input_rows, positions, to_matrix
from onnxprune.calibration.replay import Replay
from onnxprune.calibration.statistics import Moments, MomentSums
from onnxprune.importance.reconstruction.elimination import Consumer, Corrected
from onnxprune.outputs.sampling import EVERYWHERE, Sampling
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.fit_targets import FitTarget
from onnxprune.structure.units import Group, Ids, Layer

_LEAST_ROWS = 8192
_ROWS_PER_COLUMN = 16
_WIDE = 1024  # beyond so many columns no more rows are taken: products cost the square of the width already
_MOST_COLUMNS = 2560


@dataclass(frozen=True, slots=True)
class Reduction:
    """Reduces the columns of a very wide layer (a Gemm behind Flatten): a few directions for each unit.

    Attributes:
        blocks: `(b,)` original columns of each unit.
        bases: `(b, r)` orthonormal directions of each unit: the leading left singular vectors of its rows of the
            weight.
    """

    blocks: tuple[np.ndarray, ...]
    bases: tuple[np.ndarray, ...]

    def columns(self, rows: np.ndarray) -> np.ndarray:
        """Reduce columns `(1, R, K)` to `(1, R, K')`."""
        parts = [rows[0][:, b] @ u.astype(rows.dtype) for b, u in zip(self.blocks, self.bases, strict=True)]
        return np.concatenate(parts, axis=1)[None]

    def weight(self, matrix: np.ndarray) -> np.ndarray:
        """Reduce a weight `(K, C)` to `(K', C)`."""
        return np.concatenate([u.T @ matrix[b] for b, u in zip(self.blocks, self.bases, strict=True)])

    def add(self, change: np.ndarray, matrix: np.ndarray) -> None:
        """Add a change `(K', C)` of the reduced weight to the weight `(K, C)`."""
        start = 0
        for block, basis in zip(self.blocks, self.bases, strict=True):
            matrix[block] += basis @ change[start : start + basis.shape[1]]
            start += basis.shape[1]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer layer, and the unit of each of its input channels.

    Attributes:
        point: the layer and its fit target.
        ids: `(C_in / groups,)` units of the columns' channels; those of one convolution group stand for all.
        weight: its weight as stored.
        reduction: how columns were reduced, None where they were not.
    """

    point: FitTarget
    ids: Ids
    weight: np.ndarray
    reduction: Reduction | None

    def count(self, group: Group) -> int:  # noqa: ARG002 (the same for all)
        """How many consumers the layer is: one per convolution group."""
        return 1 if self.point.layer.window is None else self.point.layer.group

    def consumers(self, group: Group, collected: Sequence[Moments]) -> list[Consumer]:
        """The layer as the elimination uses it; `collected` has the second moments of its (reduced) columns."""
        blocks, (moments,) = self._blocks(group), collected
        consumers = []
        has_bias = self.point.bias is not None
        grams = moments.covariance if has_bias else moments.second()
        per_group = _metric(self.point.slope).reshape(self.count(group), -1)
        for g, matrix in enumerate(to_matrix(self.point.layer, self.weight)):
            mean = moments.mean[g] if has_bias else np.zeros(len(grams[g]))
            weight = matrix if self.reduction is None else self.reduction.weight(matrix)
            consumers.append(Consumer(grams[g], mean, weight, blocks, per_group[g]))
        return consumers

    def constants(
        self,
        group: Group,  # noqa: ARG002
        corrected: Sequence[Corrected],
        removed: Ids,
        current: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """The layer's weight and bias with units removed and the others corrected."""
        layer, point = self.point.layer, self.point
        if self.reduction is None:
            matrix = np.stack([columns.weight for columns in corrected])
        else:
            matrix = to_matrix(layer, self.weight)
            (columns,) = corrected
            self.reduction.add(columns.weight - self.reduction.weight(matrix[0]), matrix[0])
            matrix[0, column_positions(layer, np.flatnonzero(removed[self.ids]))] = 0.0
        changed = {layer.weight: from_matrix(layer, matrix, current[layer.weight])}
        shift = np.concatenate([columns.shift for columns in corrected]) * point.gain
        if point.bias is not None and shift.any():
            changed[point.bias] = point.shifted_bias(current[point.bias], shift)
        return changed

    def _blocks(self, group: Group) -> np.ndarray:
        if self.reduction is not None:
            starts = np.cumsum([0, *(basis.shape[1] for basis in self.reduction.bases)])
            place = {int(self.ids[block[0] // self._kernel]): i for i, block in enumerate(self.reduction.blocks)}
            size = self.reduction.bases[place[int(group.units[0])]].shape[1]
            return np.array([starts[place[int(u)]] + np.arange(size) for u in group.units])
        return np.array([column_positions(self.point.layer, np.flatnonzero(self.ids == u)) for u in group.units])

    @property
    def _kernel(self) -> int:
        window = self.point.layer.window
        return prod(window.kernel) if window else 1


def collect(
    replay: Replay,
    point: FitTarget,
    analysis: Analysis,
    weight: np.ndarray,
    generator: np.random.Generator,
    known: Sequence[Moments] | None = None,
    sampling: Sampling = EVERYWHERE,
) -> tuple[Statistics, tuple[Moments, ...]]:
    """Second moments of a layer's input columns, from sampled positions of all rows.

    Args:
        replay: the original's run, which stands before the layer.
        point: the layer.
        analysis: the analysis.
        weight: the layer's weight.
        generator: draws positions.
        known: the moments, where they are known already; then `replay` is not read.
        sampling: which positions are drawn, and which more often.
    """
    layer = point.layer
    axis_ids = analysis.labels[layer.weight][layer.in_axis]
    assert axis_ids is not None
    matrix = to_matrix(layer, weight)
    ids = axis_ids[: len(axis_ids) // layer.group] if layer.transposed else axis_ids
    reduction = _reduction(layer, ids, matrix[0]) if matrix.shape[1] > _MOST_COLUMNS and layer.group == 1 else None
    if known is not None:
        return Statistics(point, ids, weight, reduction), tuple(known)
    width = matrix.shape[1] if reduction is None else sum(b.shape[1] for b in reduction.bases)
    count = -(-max(_LEAST_ROWS, _ROWS_PER_COLUMN * min(width, _WIDE)) // len(replay.batches))
    sums = MomentSums()
    for index, batch in enumerate(replay.batches):
        source = batch[layer.input]
        shape = _output_shape(layer, source.shape, analysis)
        at = positions(layer, shape, count, generator, sampling.of_batch(index))
        rows = input_rows(layer, source, at)
        sums.add(rows if reduction is None else reduction.columns(rows))
    return Statistics(point, ids, weight, reduction), (sums.finish(),)


def _metric(slope: np.ndarray) -> np.ndarray:
    """Weights of squared errors by output channel: errors count where they show, behind a BatchNormalization."""
    square = np.asarray(slope, np.float64) ** 2
    return square if square.any() else np.ones(len(square))


def _reduction(layer: Layer, ids: Ids, matrix: np.ndarray) -> Reduction | None:
    """The reduction of a very wide layer; None where its units have few columns."""
    units = [u for u in np.unique(ids) if u != 0]
    rank = max(1, _MOST_COLUMNS // max(1, len(units)))
    blocks = [column_positions(layer, np.flatnonzero(ids == u)) for u in units]
    if all(len(block) <= rank for block in blocks):
        return None
    bases = [np.linalg.svd(matrix[block], full_matrices=False)[0][:, :rank] for block in blocks]
    return Reduction(tuple(blocks), tuple(bases))


def _output_shape(layer: Layer, source: tuple[int, ...], analysis: Analysis) -> tuple[int, ...]:
    """Shape of the layer's output for an input of this shape."""
    if layer.window is not None:
        return (source[0], 1, *analysis.facts.shapes[layer.output][2:])
    rest = [n for axis, n in enumerate(source) if axis != layer.input_axis]
    rest.insert(layer.output_axis, 1)
    return tuple(rest)
