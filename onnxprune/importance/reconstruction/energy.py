"""Elimination order for groups that no layer with weights uses, such as in the product of two activations (attention).

There is no weight to correct, so a unit's loss is the mean square of its values where they are contracted, relative to
the whole's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.importance.base import ScoreContext
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
    tensors = dict.fromkeys(mask.tensor for group_masks in masks.values() for mask in group_masks)
    energy = _mean_squares(context, tensors, data) if tensors else {}
    return {group.name: _ordered(group, context.analysis, masks[group.name], energy) for group in groups}


def _masks(analysis: Analysis, group: Group) -> list[Mask]:
    return [mask for mask in analysis.masks if mask.node in group.consumers and np.isin(group.units, mask.units).any()]


def _mean_squares(context: ScoreContext, tensors: Mapping[str, None], data: Dataset) -> dict[str, np.ndarray]:
    """Mean square of every element of the tensors over all rows (of constants, their squares)."""
    constants = {**context.analysis.facts.folded, **context.model.constants}
    means = {name: np.square(constants[name], dtype=np.float64) for name in tensors if name in constants}
    computed = [name for name in tensors if name not in constants]
    if not computed:
        return means
    sums: dict[str, np.ndarray] = {}
    for values in Runner(context.model, computed, engine=context.run.engine).run(data, 1):
        for name in computed:
            square = np.square(values[name], dtype=np.float64) / len(data)
            sums[name] = square if name not in sums else sums[name] + square
    return means | sums


def _ordered(group: Group, analysis: Analysis, masks: Sequence[Mask], energy: Mapping[str, np.ndarray]) -> Elimination:
    total = np.zeros(analysis.units)
    for mask in masks:
        values = energy[mask.tensor]
        others = tuple(axis for axis in range(values.ndim) if axis != mask.axis)
        per_position = values.mean(axis=others)
        total += np.bincount(mask.units, per_position / max(per_position.sum(), 1e-30), minlength=analysis.units)
    energies = total[group.units]
    order = np.argsort(energies, kind="stable")
    lost = np.concatenate([[0.0], np.cumsum(energies[order])])[::-1]
    return Elimination(group.name, order, lost.copy(), {})
