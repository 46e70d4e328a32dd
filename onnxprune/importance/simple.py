"""Simple scorers: weight magnitude, activation strength, and random scores."""

import zlib
from collections.abc import Mapping

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.core.scores import GroupScore, Scores, removal_to_damage
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.mean_squares import mean_squares
from onnxprune.importance.norms import Place, per_unit, touched, units_on, weight_energy
from onnxprune.structure.analysis import Analysis


def magnitude(context: ScoreContext, power: int = 2) -> Scores:
    """Score units by the norm of the weights that produce them: L2 (`power` 2) or L1 (`power` 1)."""
    energy, known = weight_energy(context.analysis, power)
    return scores_by_energy(context, energy, known, power)


def magnitude_l1(context: ScoreContext) -> Scores:
    """Score units by the L1 norm of the weights that produce them."""
    return magnitude(context, power=1)


def activation(context: ScoreContext) -> Scores:
    """Score units by the root mean square of their values times the norm of the weights that use them.

    Where two activations are multiplied, the root mean square of the other one stands for the norm of weights.

    Raises:
        InputError: no calibration data.
    """
    if context.data is None:
        raise InputError("--importance activation needs calibration data; give --data")
    analysis = context.analysis
    uses = [
        (product, weight_axis, source_axis)
        for product in analysis.products
        for weight_axis, source_axis in product.contracted
        if units_on(analysis, product.source, source_axis) is not None
    ]
    places = dict.fromkeys((product.source, source_axis) for product, _, source_axis in uses)
    computed = {p.weight for p, _, _ in uses if p.weight and analysis.value(p.weight) is None}
    places |= dict.fromkeys((p.weight, weight_axis) for p, weight_axis, _ in uses if p.weight in computed)
    squares = mean_squares(context, context.data, places, context.progress)
    energy = np.zeros(analysis.units)
    for product, weight_axis, source_axis in uses:
        mean = _unit_means(analysis, (product.source, source_axis), squares)
        if product.weight in computed:
            energy += mean * _unit_means(analysis, (product.weight, weight_axis), squares)
        elif product.weight:
            energy += mean * per_unit(analysis, product.weight, weight_axis, power=2)
        else:
            energy += mean
    return scores_by_energy(context, energy, touched(analysis, places), power=2)


def _unit_means(analysis: Analysis, place: Place, squares: Mapping[Place, np.ndarray]) -> np.ndarray:
    """`(units,)` mean over the positions of an axis that belong to each unit."""
    ids = units_on(analysis, *place)
    if ids is None:
        return np.zeros(analysis.units)
    seen = np.bincount(ids, minlength=analysis.units)
    return np.bincount(ids, squares[place], minlength=analysis.units) / np.maximum(seen, 1)


def random(context: ScoreContext) -> Scores:
    """Random uniform scores, which depend only on the seed and the group's name."""
    groups = []
    for group in context.analysis.groups:
        generator = np.random.default_rng([context.run.seed, zlib.crc32(group.name.encode())])
        scores = generator.random(len(group))
        groups.append(GroupScore(group.name, np.argsort(scores, kind="stable"), scores, removal_to_damage(scores)))
    return Scores(tuple(groups))


def scores_by_energy(context: ScoreContext, energy: np.ndarray, known: np.ndarray, power: int) -> Scores:
    """Scores and damage curves from one energy per unit; energies add up within a group.

    The score is `(energy / largest)^(1 / power)`. The damage of removing units is their share of the group's energy,
    once for each layer that consumes the group: a residual stream is seen by many.

    Args:
        context: the analysis; what goes without loss counts for nothing.
        energy: `(units,)`, at least 0.
        known: `(units,)` True where the energy says something; a group with a unit of which it does not is not judged.
        power: 2 where energies are squares.
    """
    if context.free is not None:
        energy = np.where(context.free, 0.0, energy)
    groups = []
    for group in context.analysis.groups:
        energies = energy[group.units]
        judged = bool(known[group.units].all() and np.isfinite(energies).all())  # weights may be infinite
        energies = energies if judged else np.zeros(len(energies))
        largest, sum_ = energies.max(initial=0.0), energies.sum()
        scores = (energies / largest) ** (1 / power) if largest > 0 else np.zeros(len(energies))
        order = np.argsort(energies, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(energies[order])])[::-1]
        damage = lost / sum_ * max(1, len(group.consumers)) if sum_ > 0 else np.zeros(len(lost))
        groups.append(GroupScore(group.name, order, scores, damage.copy(), judged=judged))
    return Scores(tuple(groups))
