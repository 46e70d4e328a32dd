"""Repair: refit every layer behind a removal, in order, towards what the original network computes.

At each layer the inputs are those that the pruned and so far repaired network makes, and the target is the original's
value at the layer's fit point (`graph.fitpoint`), so that a layer also makes up for what earlier layers and other
branches could not.
"""

from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.columns import from_matrix, input_rows, output_rows, positions, to_matrix
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.replay import Replay, batch_feeds
from onnxprune.config import PruneConfig
from onnxprune.graph.analysis import analyse
from onnxprune.graph.fitpoint import FitPoint, schedule
from onnxprune.graph.model import Model
from onnxprune.graph.remove import compress
from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.graph.view import GraphView, is_float, view
from onnxprune.importance.base import Progress, no_progress
from onnxprune.repair.ridge import Correction, Fit, fit_correction

_LEAST_ROWS = 16384
_ROWS_PER_COLUMN = 48
_COLUMN_BYTES = 192 << 20
_HELD_OUT = 5  # every fifth batch chooses among ridges
_RIDGES = (1e-6, 1e-3, 3e-2)
_STEPS = 6
_SAME = 1e-6
_NOT_PRODUCT = 1e-2


@dataclass(frozen=True, slots=True)
class _Original:
    """What the repair compares with."""

    replay: Replay
    space: PruneSpace
    removed: Ids


def repair(
    original: Model,
    pruned: Model,
    space: PruneSpace,
    removed: Ids,
    data: Dataset,
    config: PruneConfig,
    progress: Progress = no_progress,
) -> Model:
    """Refit the layers of a pruned model.

    Args:
        original: the model before removal.
        pruned: the model after removal.
        space: the original's analysis.
        removed: `(units,)` mask of what was removed.
        data: calibration rows.
        config: seed and threads.
        progress: told of layers done.

    Returns:
        The pruned model with other weights and biases; the same where nothing differs from the original.

    Raises:
        ModelError: onnxruntime cannot run the models.
    """
    graph, pruned_graph = view(original), view(pruned)
    pruned_space = analyse(pruned, pruned_graph, {name: space.facts.shapes[name] for name in graph.inputs})
    ahead = schedule(graph, space, original.constants)
    plan = schedule(pruned_graph, pruned_space, pruned.constants)
    feeds = batch_feeds(original, graph, data, space.row_bytes)
    reference = _Original(Replay(original, ahead.nodes, feeds, config.threads), space, removed)
    replay = Replay(pruned, plan.nodes, feeds, config.threads)
    known = {point.layer.node: point.tensor for point in ahead.points}
    for number, point in enumerate(plan.points):
        if known.get(point.layer.node) == point.tensor and _can_refit(point, pruned_graph, replay.model):
            generator = np.random.default_rng([config.seed, number])
            fit = _rows(point, replay, reference, generator)
            changed = None if fit is None else _refit(point, replay.model, *fit)
            if changed:
                replay.model = replay.model.with_constants(changed)
        progress("repair", number + 1, len(plan.points))
    return replay.model


def _can_refit(point: FitPoint, graph: GraphView, model: Model) -> bool:
    """Whether the weight is stored as floating-point numbers and read by this layer alone."""
    weight = model.constants.get(point.layer.weight)
    return weight is not None and is_float(weight) and len(graph.consumers.get(point.layer.weight, ())) == 1


def _rows(
    point: FitPoint, replay: Replay, reference: _Original, generator: np.random.Generator
) -> tuple[Fit, Fit] | None:
    """Fit rows and held-out rows of a layer; None where its fit point is as in the original already."""
    layer = point.layer
    start, end = replay.before(layer.node), replay.after(point.tensor)
    replay.advance(start)
    reference.replay.advance(reference.replay.after(point.tensor), [point.tensor])
    columns, current, target, held_out = [], [], [], []
    count = 0
    for index, values in enumerate(replay.peek(end, [layer.input, layer.output, point.tensor])):
        now = values[point.tensor]
        wanted = compress(
            reference.replay.batches[index][point.tensor], reference.space, point.tensor, reference.removed
        )
        if index == 0:
            matrix = to_matrix(layer, replay.model.constants[layer.weight])
            count = _positions_per_batch(matrix.shape, len(replay.batches))
        at = positions(layer, now.shape, count, generator)
        columns.append(input_rows(layer, values[layer.input], at))
        current.append(output_rows(layer, now, at))
        target.append(output_rows(layer, wanted, at))
        if index == 0 and not _is_product(
            point, replay.model, columns[0], output_rows(layer, values[layer.output], at)
        ):
            return None
        held_out.append(np.full(len(at.chosen), index % _HELD_OUT == _HELD_OUT - 1))
    fit = Fit(
        np.concatenate(columns, axis=1),
        np.concatenate(current),
        np.concatenate(target),
        point.slope,
        point.bounds,
        has_bias=point.bias is not None,
    )
    scale = np.abs(fit.target).max(initial=0.0)
    difference = np.abs(fit.target - fit.current).max(initial=0.0)
    # Also nothing to do where a network overflows: NaN compares as false.
    if not difference > _SAME * scale or not np.isfinite(fit.columns).all() or not np.isfinite(difference):
        return None
    chosen = np.concatenate(held_out)
    if not chosen.any() or chosen.all():
        chosen = np.arange(len(chosen)) % _HELD_OUT == _HELD_OUT - 1
    return fit.part(~chosen), fit.part(chosen)


def _positions_per_batch(matrix: tuple[int, ...], batches: int) -> int:
    """Positions so that there are enough rows for a matrix `(groups, K, C)`, within the memory for columns."""
    groups, width, _ = matrix
    rows = max(_LEAST_ROWS, _ROWS_PER_COLUMN * width)
    rows = min(rows, _COLUMN_BYTES // (4 * groups * width))
    return max(1, -(-rows // batches))


def _is_product(point: FitPoint, model: Model, columns: np.ndarray, output: np.ndarray) -> bool:
    """Whether the layer's output is the product of columns and weight, up to a shift a channel."""
    matrix = to_matrix(point.layer, model.constants[point.layer.weight]).astype(columns.dtype) * point.gain
    product = np.matmul(columns, matrix).transpose(1, 0, 2).reshape(output.shape)
    rest = output - product
    scale = np.abs(output - output.mean(axis=0)).max(initial=0.0)
    return bool(
        np.abs(rest - rest.mean(axis=0)).max(initial=0.0) <= _NOT_PRODUCT * max(scale, np.abs(output).max(initial=0.0))
    )


def _refit(point: FitPoint, model: Model, fit: Fit, held_out: Fit) -> dict[str, np.ndarray]:
    """New values of the layer's weight and bias; empty where no refit does better on the held-out rows."""
    found = fit_correction(fit, held_out, _RIDGES, _STEPS)
    return {} if found is None else corrected(point, model, found)


def corrected(point: FitPoint, model: Model, correction: Correction) -> dict[str, np.ndarray]:
    """The constants of a layer with a correction added."""
    weight = model.constants[point.layer.weight]
    matrix = to_matrix(point.layer, weight) + correction.weight / point.gain
    changed = {point.layer.weight: from_matrix(point.layer, matrix, weight)}
    if point.bias is not None and correction.bias.any():
        bias = model.constants[point.bias]
        usable = point.bias_slope != 0
        shift = np.where(usable, correction.bias * point.slope / np.where(usable, point.bias_slope, 1.0), 0.0)
        changed[point.bias] = (bias.astype(np.float64) + shift.reshape(bias.shape)).astype(bias.dtype)
    return changed
