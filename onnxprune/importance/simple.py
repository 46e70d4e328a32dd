"""Scores from weights and activations alone: magnitude, activation, random."""

import zlib

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.core.scores import GroupScore, Scores, removal_to_damage
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.norms import incoming, per_unit


def magnitude(context: ScoreContext, power: int = 2) -> Scores:
    """Norm of the weights that make a unit: L2 (`power` 2) or L1 (`power` 1)."""
    return scores_by_energy(context, incoming(context.model, context.analysis, power), power)


def magnitude_l1(context: ScoreContext) -> Scores:
    """L1 norm of the weights that make a unit."""
    return magnitude(context, power=1)


def activation(context: ScoreContext) -> Scores:
    """Root mean square of a unit's values where they are used, times the norm of the weights that use them.

    Raises:
        InputError: no calibration data.
    """
    from onnxprune.calibration.runner import Runner

    if context.data is None:
        raise InputError("--importance activation needs calibration data; give --data")
    analysis = context.analysis
    layers = [
        layer for layer in analysis.layers if analysis.labels.get(layer.weight, (None,) * 8)[layer.in_axis] is not None
    ]
    sums = {layer.input: np.zeros(0) for layer in layers}
    axes = {layer.input: layer.input_axis for layer in layers}
    rows = 0
    runner = Runner(context.model, list(sums), threads=context.run.threads)
    for values in runner.run(context.data):
        rows += 1
        for name, sum_ in sums.items():
            moved = np.moveaxis(values[name], axes[name], 0).reshape(values[name].shape[axes[name]], -1)
            mean = np.einsum("cp,cp->c", moved, moved, dtype=np.float64) / moved.shape[1]
            sums[name] = mean if len(sum_) == 0 else sum_ + mean
        context.progress("activations", rows, rows)
    energy = np.zeros(analysis.units)
    for layer in layers:
        ids = analysis.labels[layer.input][layer.input_axis]
        assert ids is not None  # the weight's input axis carries the same labels
        seen = np.bincount(ids, minlength=analysis.units)
        mean_square = np.bincount(ids, sums[layer.input] / rows, minlength=analysis.units) / np.maximum(seen, 1)
        energy += per_unit(context.model, analysis, layer, layer.in_axis, power=2) * mean_square
    return scores_by_energy(context, energy, power=2)


def random(context: ScoreContext) -> Scores:
    """Uniform random scores, drawn anew for each group from the seed and the group's name."""
    groups = []
    for group in context.analysis.groups:
        generator = np.random.default_rng([context.run.seed, zlib.crc32(group.name.encode())])
        scores = generator.random(len(group))
        groups.append(GroupScore(group.name, np.argsort(scores, kind="stable"), scores, removal_to_damage(scores)))
    return Scores(tuple(groups))


def scores_by_energy(context: ScoreContext, energy: np.ndarray, power: int) -> Scores:
    """Scores and curves from an energy per unit that adds up within a group.

    The score is `(energy / largest)^(1 / power)`. The damage of removing units is their share of the group's energy,
    once for each layer that consumes the group: a residual stream is seen by many.

    Args:
        context: the analysis; what goes without loss counts for nothing.
        energy: `(units,)`, at least 0.
        power: 2 where energies are squares.
    """
    if context.free is not None:
        energy = np.where(context.free, 0.0, energy)
    groups = []
    for group in context.analysis.groups:
        own = energy[group.units]
        largest, sum_ = own.max(initial=0.0), own.sum()
        scores = (own / largest) ** (1 / power) if largest > 0 else np.zeros(len(own))
        order = np.argsort(own, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(own[order])])[::-1]
        damage = lost / sum_ * max(1, len(group.consumers)) if sum_ > 0 else np.zeros(len(lost))
        groups.append(GroupScore(group.name, order, scores, damage.copy()))
    return Scores(tuple(groups))
