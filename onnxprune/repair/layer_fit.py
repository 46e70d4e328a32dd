"""Rows that a layer is fitted to, and the constants that a fit gives it; layers that share a weight are one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from onnxprune.calibration.layer_matrix import input_rows, output_rows, positions, to_matrix
from onnxprune.calibration.replay import Feeds, Replay
from onnxprune.graph.model import Model
from onnxprune.outputs.sampling import Sampling
from onnxprune.repair.change import corrected, is_product
from onnxprune.repair.effort import Effort
from onnxprune.repair.ridge import Fit, FitRows, fit_correction
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.fit_targets import FitTarget
from onnxprune.structure.units import Ids

_POSITIONS = 5  # where the rows that fit must choose too, every fifth position does
_RIDGES = (1e-6, 1e-3, 3e-2, 3e-1, 3.0, 30.0)
SAME = 1e-6
"""Difference from the original, relative to its largest value, below which there is nothing to fit."""


@dataclass(frozen=True, slots=True)
class Original:
    """The original model's run, to compare the pruned model with."""

    replay: Replay
    analysis: Analysis
    removed: Ids
    sampling: Sampling
    feeds: Feeds
    effort: Effort


def layer_rows(
    point: FitTarget, replay: Replay, reference: Original, generator: np.random.Generator, among: int
) -> tuple[Fit, Fit] | None:
    """Rows to fit and held-out rows of a layer; None where it already matches the original.

    Layers that share a weight share the rows too: each of `among` has its part of what a layer may have.
    """
    layer = point.layer
    end = replay.after(point.tensor)
    feeds, counts = reference.feeds, list[int]()
    gathered: tuple[FitRows, FitRows] = (FitRows(0), FitRows(0))
    for index, values in enumerate(replay.peek(end, [layer.input, layer.output, point.tensor])):
        now = values[point.tensor]
        wanted = reference.analysis.compressed(
            point.tensor, reference.replay.batches[index][point.tensor], reference.removed
        )
        if index == 0:
            matrix = to_matrix(layer, replay.model.constants[layer.weight])
            most = reference.effort.positions(matrix.shape) // among
            counts = [ceil(feeds.share(batch) * most) for batch in range(len(feeds))]
            gathered = FitRows(sum(counts[: feeds.first])), FitRows(sum(counts[feeds.first :]))
        at = positions(layer, now.shape, counts[index], generator, reference.sampling.of_batch(index))
        rows = Fit(
            input_rows(layer, values[layer.input], at),
            output_rows(layer, now, at),
            output_rows(layer, wanted, at),
            point.slope,
            point.bounds,
            has_bias=point.bias is not None,
        )
        if index == 0 and not is_product(
            point, replay.model, rows.columns, output_rows(layer, values[layer.output], at)
        ):
            return None
        gathered[index >= feeds.first].add(rows)
    fit, held_out = gathered[0].fit(), gathered[1].fit()
    assert fit is not None  # there is at least one batch
    if held_out is None:
        chosen = np.arange(len(fit.target)) % _POSITIONS == _POSITIONS - 1
        fit, held_out = fit.part(~chosen), fit.part(chosen)
    difference, scale = 0.0, 0.0
    for some in (fit, held_out):
        if not np.isfinite(some.columns).all():
            return None
        scale = np.maximum(scale, np.abs(some.target).max(initial=0.0))
        difference = np.maximum(difference, np.abs(some.target - some.current).max(initial=0.0))
    # Also nothing to do where a network overflows: NaN compares as false.
    return (fit, held_out) if difference > SAME * scale and np.isfinite(difference) else None


def refit_layers(
    points: Sequence[FitTarget], model: Model, fit: Fit, held_out: Fit, steps: int
) -> dict[str, np.ndarray]:
    """New values of a weight and of the biases beside it; empty where held-out rows do not improve."""
    correction = fit_correction(fit, held_out, _RIDGES, steps)
    if correction is None:
        return {}
    return {name: array for point in points for name, array in corrected(point, model, correction).items()}
