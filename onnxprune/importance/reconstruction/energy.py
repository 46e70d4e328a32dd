"""Elimination order for groups that no layer with weights uses, such as in the product of two activations (attention).

There is no weight to correct, so a unit's loss is the mean square of its values where they are contracted, relative to
the whole's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.mean_squares import mean_squares
from onnxprune.importance.norms import Place
from onnxprune.importance.reconstruction.elimination import Elimination
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Group, Mask


def eliminate_by_energy(context: ScoreContext, groups: Sequence[Group], data: Dataset) -> dict[str, Elimination]:
    """Order the units of such groups by their mean square values; no weights are corrected.

    Args:
        context: model, analysis and options.
        groups: the groups.
        data: calibration rows.
    """
    masks = {group.name: _masks(context.analysis, group) for group in groups}
    places = dict.fromkeys((mask.tensor, mask.axis) for group_masks in masks.values() for mask in group_masks)
    constants = {**context.analysis.facts.folded, **context.model.constants}
    energy = {place: _of_constant(constants[place[0]], place[1]) for place in places if place[0] in constants}
    computed = [place for place in places if place not in energy]
    energy |= mean_squares(context, data, computed) if computed else {}
    return {group.name: _ordered(group, context.analysis, masks[group.name], energy) for group in groups}


def _masks(analysis: Analysis, group: Group) -> list[Mask]:
    return [mask for mask in analysis.masks if mask.node in group.consumers and np.isin(group.units, mask.units).any()]


def _of_constant(value: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(other for other in range(value.ndim) if other != axis)
    return np.asarray(np.square(value, dtype=np.float64).mean(axis=others))


def _ordered(
    group: Group, analysis: Analysis, masks: Sequence[Mask], energy: Mapping[Place, np.ndarray]
) -> Elimination:
    total = np.zeros(analysis.units)
    for mask in masks:
        per_position = energy[mask.tensor, mask.axis]
        total += np.bincount(mask.units, per_position / max(per_position.sum(), 1e-30), minlength=analysis.units)
    energies = total[group.units]
    order = np.argsort(energies, kind="stable")
    lost = np.concatenate([[0.0], np.cumsum(energies[order])])[::-1]
    return Elimination(group.name, order, lost.copy(), {})
